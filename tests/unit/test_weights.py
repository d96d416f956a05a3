"""Weights of others: what their files hold, what they call it, and what a file is that holds none."""

import argparse

import numpy as np
import pytest
import torch
from kafnets import create_model, load_model, load_state_dict, save_model
from kafnets.runtime.errors import UserError
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

WEIGHTS = "weights files of another kind, or that do not fit"


def small():
    return create_model("resnet8", "kaf_elu")


@pytest.fixture(scope="module")
def trained():
    """A network whose every tensor differs from a fresh one's."""
    torch.manual_seed(1)
    model = small()
    model(torch.rand(8, 3, 32, 32))
    return model.eval()


def assert_same(model, trained):
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def averaged(state):
    model = small()
    model.load_state_dict(state)
    return AveragedModel(model).state_dict()


CHECKPOINTS = {
    "plain": dict,
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "a compiled layer": lambda state: {
        name.replace("layer1.", "layer1._orig_mod."): state[name] for name in state
    },
    "a module around it": prefixed("net.model."),
    "AveragedModel": averaged,
    "state_dict": lambda state: {"state_dict": prefixed("module.")(state), "best_prec1": torch.tensor(91.0)},
    "net": lambda state: {"net": state, "acc": 91.25, "epoch": 199},
    "one within another": lambda state: {"state": {"model": state}},
    "with an optimiser": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "rng": {"cpu": torch.get_rng_state()},
    },
    "with arguments and NumPy's numbers": lambda state: {
        "state_dict": state,
        "args": argparse.Namespace(lr=0.1, decay=np.float64(1e-4)),
        "best": np.float32(91.0),
        "step": np.int64(7),
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_as_people_have_them(tmp_path, trained, kind, zipped):
    path = tmp_path / "weights.pth"
    torch.save(CHECKPOINTS[kind](trained.state_dict()), path, _use_new_zipfile_serialization=zipped)
    model = small()
    assert load_state_dict(model, path) is model
    assert_same(model, trained)
    assert model.training


def test_safetensors_without_a_description_and_dicts_of_arrays(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    assert_same(load_state_dict(small(), tmp_path / "weights.safetensors"), trained)
    arrays = {name: tensor.numpy() for name, tensor in trained.state_dict().items()}
    assert_same(load_state_dict(small(), arrays), trained)


def test_into_a_wrapped_network_and_one_of_ones_own(trained):
    model = small()
    load_state_dict(nn.DataParallel(torch.compile(model)), trained.state_dict())
    assert_same(model, trained)
    own = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    load_state_dict(own, {"model": prefixed("module.")(state)})
    assert torch.equal(own[0].weight, state["0.weight"])


def test_counters_may_be_absent_and_values_are_cast(trained):
    state = {name: tensor for name, tensor in trained.state_dict().items() if not name.endswith("_tracked")}
    assert torch.equal(load_state_dict(small(), state).fc.weight, trained.fc.weight)
    half = load_state_dict(small(), {name: tensor.half() for name, tensor in state.items()})
    assert half.fc.weight.dtype == torch.float32
    assert torch.equal(half.fc.weight, trained.fc.weight.half().float())
    assert torch.equal(
        load_state_dict(small(), {name: tensor.double() for name, tensor in state.items()}).fc.weight,
        trained.fc.weight,
    )


def test_one_of_several_sets_of_weights(tmp_path, trained):
    torch.save({"model": small().state_dict(), "ema": trained.state_dict()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="several sets of weights; give key, one of 'model', 'ema'"):
        load_state_dict(small(), tmp_path / "weights.pt")
    assert_same(load_state_dict(small(), tmp_path / "weights.pt", key="ema"), trained)
    with pytest.raises(UserError, match="no weights under 'net'; there are some under 'model', 'ema'"):
        load_state_dict(small(), tmp_path / "weights.pt", key="net")


@pytest.mark.injects(WEIGHTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.bias"), "tensor fc.bias is missing"),
        # two for one place: neither is chosen in silence
        (lambda state: state.update({"linear.bias": torch.ones(10)}), "tensor linear.bias does not belong"),
        (lambda state: state.update({"_orig_mod.fc.bias": torch.ones(10)}), "_orig_mod.fc.bias does not"),
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("stem")],
            r"tensors stem.act.alpha, stem.act.bandwidth, stem.act.dictionary and 6 more are missing",
        ),
        (
            lambda state: state.update(a=torch.ones(1), b=torch.ones(1)),
            "tensors a, b do not belong to this network",
        ),
        (
            lambda state: (state.pop("fc.bias"), state.update({"fc.weight": torch.ones(100, 64)})),
            r"fc.bias is missing; tensor fc.weight has shape \(100, 64\), the network needs \(10, 64\)",
        ),
        (lambda state: state.update({"fc.bias": torch.full((10,), torch.nan)}), "fc.bias holds NaN"),
        (
            lambda state: state.update({"fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}),
            "fc.bias holds NaN or infinite",
        ),
        (lambda state: state.update({"fc.bias": torch.ones(10, dtype=torch.int64)}), "is of torch.int64"),
        (lambda state: state.clear(), "holds no weights"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(trained, change, message):
    model, state = small(), dict(trained.state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    with pytest.raises(UserError, match=f"^weights: .*{message}") as error:
        load_state_dict(model, state)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class PopularBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.new = outputs - inputs
        self.shortcut = shortcut
        if stride == 2 and shortcut == "projection":
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.new and self.shortcut == "projection":
            x = self.downsample(x)
        elif self.new:
            before = self.new // 2 if self.shortcut == "pad_both" else 0
            zeros = torch.zeros(len(x), self.new, *h.shape[2:])
            x = torch.cat([zeros[:, :before], x[:, :, ::2, ::2], zeros[:, before:]], 1)
        return torch.relu(h + x)


class PopularResNet(nn.Module):
    """A CIFAR ResNet as others write it, with their names of the layers; `last` names the dense one."""

    def __init__(self, shortcut, last, blocks=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            first, width = widths[stage - 1 : stage + 1]
            layers = [PopularBlock(first, width, 1 if stage == 1 else 2, shortcut)]
            layers += [PopularBlock(width, width, 1, shortcut) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.last = last
        setattr(self, last, nn.Linear(64, 10))

    def forward(self, x):
        h = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return getattr(self, self.last)(h.mean((2, 3)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("shortcut", "last"), [("pad_both", "linear"), ("pad_end", "linear"), ("projection", "fc")]
)
def test_weights_of_other_cifar_resnets_give_their_outputs(tmp_path, shortcut, last):
    torch.manual_seed(0)
    popular = PopularResNet(shortcut, last)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.rand(16, 3, 32, 32)
    pixels = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for _ in range(3):
        popular(pixels)  # moves the running averages
    torch.save({"state_dict": prefixed("module.")(popular.state_dict())}, tmp_path / "resnet20.th")

    model = create_model("resnet20", block="original", shortcut=shortcut, mean=mean, std=std)
    load_state_dict(model, tmp_path / "resnet20.th")
    save_model(model, tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = popular.eval()(pixels)
        assert torch.allclose(load_model(tmp_path / "model.safetensors")(images), expected, atol=1e-5)
        if shortcut == "pad_both":  # why it matters: the other padding is another network
            other = create_model("resnet20", block="original", shortcut="pad_end", mean=mean, std=std)
            other = load_state_dict(other, popular.state_dict()).eval()
            assert (other(images) - expected).abs().max() > 0.1 * expected.std()


def test_weights_that_fit_either_padding_are_said_to():
    popular = PopularResNet("pad_both", "linear", blocks=1).state_dict()
    with pytest.warns(UserWarning, match="shortcut='pad_end' or 'pad_both'") as caught:
        load_state_dict(create_model("resnet8", block="original"), popular)
    assert caught[0].filename == __file__
    with pytest.raises(
        UserError, match=r"tensors layer1\.0\.conv1\.bias, .* are missing"
    ):  # the thesis's block
        load_state_dict(create_model("resnet8"), popular)


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.injects(WEIGHTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_in_a_file_is_run(tmp_path, trained, zipped):
    held = {"state_dict": trained.state_dict(), "trap": Trap(tmp_path / "sprung")}
    for content, name in ((held, "io.open"), (trained, "kafnets.models.resnet.ResNet")):
        torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UserError, match=rf"Python object \({name}\).*torch.save\(model.state_dict"
        ) as error:
            load_state_dict(small(), tmp_path / "weights.pt")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "sprung").exists()
