"""What save_model writes, load_model reads: the same function, or one error when it is saved."""

import copy

import kafnets
import numpy as np
import pytest
import torch
from kafnets import create_model, load_model, save_model
from kafnets.models.resnet import ResNet
from kafnets.runtime.errors import UserError
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small(activation="kaf_elu", **arguments):
    torch.manual_seed(0)
    return create_model("resnet8", activation, **arguments)


def stored(model, folder):
    save_model(model, folder / "model.safetensors")
    return load_model(folder / "model.safetensors")


def outputs(model, images=IMAGES):
    with torch.no_grad():
        return model.eval()(images)


def compiled_layer(model):
    model.layer1 = torch.compile(model.layer1)
    return model


WRAPPED = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "DataParallel around torch.compile": lambda model: nn.DataParallel(torch.compile(model)),
    "AveragedModel": AveragedModel,
    "deepcopy": copy.deepcopy,
    "one compiled layer": compiled_layer,
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_torchs_wrappers_are_left_away(tmp_path, wrapping):
    model = small()
    expected = outputs(model)
    loaded = stored(WRAPPED[wrapping](model), tmp_path)
    assert torch.equal(outputs(loaded), expected)
    assert loaded.specification == model.specification


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "kaf_elu"])
def test_another_precision_is_kept(tmp_path, activation, dtype):
    model = small(activation).to(dtype)
    loaded = stored(model, tmp_path)
    assert torch.equal(outputs(loaded, IMAGES.to(dtype)), outputs(model, IMAGES.to(dtype)))
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_channels_last_is_the_same_function_by_other_kernels(tmp_path):
    model = small("relu").to(memory_format=torch.channels_last)
    loaded, expected = stored(model, tmp_path), outputs(model)
    assert torch.allclose(outputs(loaded), expected, rtol=0, atol=1e-5)  # rounding
    assert torch.equal(outputs(loaded.to(memory_format=torch.channels_last)), expected)
    in_double = outputs(loaded.double(), IMAGES.double())
    assert torch.allclose(in_double, outputs(model.double(), IMAGES.double()), rtol=0, atol=1e-12)


def share_alpha(model):
    model.layer1[0].act2.alpha = model.layer1[0].act1.alpha


def share_module(model):
    model.layer1[0].act2 = model.layer1[0].act1


@pytest.mark.parametrize("tie", [share_alpha, share_module])
def test_tied_parameters_are_written_for_each_name_with_a_warning(tmp_path, tie):
    model = small("kaf")
    tie(model)
    with pytest.warns(UserWarning, match=r"layer1.0.act1.alpha and layer1.0.act2.alpha are tied"):
        loaded = stored(model, tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))


def test_numpys_and_torchs_numbers_are_numbers(tmp_path):
    model = small(
        "kaf",
        num_classes=np.int64(3),
        activation_arguments={"D": np.int64(30), "boundary": np.float32(2), "std": torch.tensor(0.5)},
        block="original",
        mean=np.array([0.5, 0.5, 0.5]),
        std=(0.25, np.float64(0.25), 0.25),
    )
    assert torch.equal(outputs(stored(model, tmp_path)), outputs(model))
    assert model.stem.act.alpha.shape == (16, 30)


def test_saving_leaves_the_random_state_and_the_file_of_float32_alone(tmp_path):
    model = small("kaf")
    state = torch.get_rng_state()
    save_model(model, tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    save_model(load_model(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def edited(change, activation="relu"):
    model = small(activation)
    change(model)
    return model


def spoil(model):
    model.fc.bias.data[0] = torch.nan


def replace(model):
    model.layer1[0].act1 = nn.Tanh()  # no parameters: no tensor tells


def change_epsilon(model):
    model.stem.bn.eps = 1e-5


def lie(model):
    model.specification["activation"] = "rellu"


REFUSED = {
    "built from its class": (lambda: ResNet("relu", depth=8), "ResNet was not made by kafnets.create_model"),
    "one's own": (lambda: nn.Linear(3, 4), "Linear was not made by .*kafnets/registry.py"),
    "a callable": (
        lambda: small("kaf", activation_arguments={"init": torch.tanh}),
        r"argument activation_arguments.init is <built-in .*init='tanh'",
    ),
    "weight norm": (
        lambda: edited(lambda model: parametrizations.weight_norm(model.fc)),
        r"fc.weight is missing.*remove_parametrizations\(layer, 'weight'\) first",
    ),
    "spectral norm": (
        lambda: edited(lambda model: parametrizations.spectral_norm(model.fc)),
        r"fc.weight is missing.*remove_parametrizations\(layer, 'weight'\) first",
    ),
    "pruned": (
        lambda: edited(lambda model: prune.l1_unstructured(model.fc, "weight", 0.5)),
        r"fc.weight is missing.*prune.remove\(layer, 'weight'\) first",
    ),
    "NaN": (lambda: edited(spoil), "tensor fc.bias holds NaN"),
    "another last layer": (
        lambda: edited(lambda model: setattr(model, "fc", nn.Linear(64, 3))),
        r"fc is Linear\(in_features=64, out_features=3.*fc.bias has shape \(3,\)",
    ),
    "another activation": (lambda: edited(replace), r"act1 is Tanh\(\), it was ReLU\(\)"),
    "another constant": (lambda: edited(change_epsilon), r"stem.bn is .*eps=1e-05.*, it was .*eps=0.001"),
    "a forward hook": (
        lambda: edited(lambda model: model.register_forward_pre_hook(lambda module, x: (x[0] * 2,))),
        "model has a forward hook",
    ),
    "half of it in half precision": (
        lambda: edited(lambda model: model.fc.half()),
        "fc.bias is of torch.float16",
    ),
    "another description": (lambda: edited(lie), "specification is not usable .*did you mean relu"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_could_not_be_loaded_is_refused_when_it_is_saved(tmp_path, kind):
    make, message = REFUSED[kind]
    model = make()
    with pytest.raises(UserError, match=f"^model: .*{message}") as error:
        save_model(model, tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_the_way_that_the_error_names(tmp_path):
    built = ResNet("relu", depth=8)
    made = kafnets.load_state_dict(create_model("resnet8", "relu"), built.state_dict())
    assert torch.equal(outputs(stored(made, tmp_path)), outputs(built))
    pruned = edited(lambda model: prune.l1_unstructured(model.fc, "weight", 0.5))
    prune.remove(pruned.fc, "weight")
    assert torch.equal(outputs(stored(pruned, tmp_path)), outputs(pruned))
