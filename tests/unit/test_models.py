from itertools import pairwise

import pytest
import torch
from kafnets import create_model, load_model, load_state_dict, save_model
from kafnets.models.create import count_parameters
from kafnets.models.resnet import SameConv2d
from kafnets.runtime.errors import UserError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional


def convolution(inputs, outputs, bias=True):
    return 9 * inputs * outputs + (outputs if bias else 0)


def thesis_resnet_by_hand(blocks):
    """Trainable parameters, layer by layer, as the thesis describes them."""
    total = convolution(3, 16) + 2 * 16  # stem, its normalisation
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        for block in range(blocks):
            first = inputs if block == 0 else outputs
            total += convolution(first, outputs) + 2 * outputs + convolution(outputs, outputs) + 2 * outputs
        total += convolution(inputs, outputs) if inputs != outputs else 0  # the shortcut, not normalised
    return total + 64 * 10 + 10


def vgg_by_hand():
    widths = (3, 32, 32, 64, 64, 128, 128)
    blocks = sum(convolution(i, o) + 2 * o for i, o in pairwise(widths))
    return blocks + (128 * 4 * 4) * 128 + 128 + 128 * 10 + 10


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (20, 3), (32, 5), (44, 7), (56, 9), (110, 18)])
def test_thesis_resnet_has_the_parameters_counted_by_hand(depth, blocks):
    assert count(create_model(f"resnet{depth}")) == thesis_resnet_by_hand(blocks)


def test_published_parameter_counts():
    assert count(create_model("resnet20", "elu")) == 293_546
    assert count(create_model("resnet20", "kaf")) == 293_546 + 13_760
    assert count(create_model("resnet20", "kaf_free")) == 293_546 + 688 * 41
    assert count(create_model("vgg", "swish")) == vgg_by_hand() == 551_466
    assert count(create_model("vgg", "kaf")) == 551_466 + 20 * (2 * (32 + 64 + 128) + 128)
    # He et al., table 6: 0.27 M; without biases and shortcut parameters
    assert count(create_model("resnet20", block="original")) == 269_722


def test_activation_parameters_are_counted_apart():
    assert count_parameters(create_model("resnet20", "kaf")) == {"trainable": 307_306, "activation": 13_760}
    assert count_parameters(create_model("vgg"))["activation"] == 0


@pytest.mark.parametrize("architecture", ["vgg", "resnet8"])
def test_every_site_has_an_activation_of_its_own(architecture):
    model = create_model(architecture, "kaf")
    alphas = [parameter for name, parameter in model.named_parameters() if name.endswith("alpha")]
    assert len(alphas) == len({parameter.data_ptr() for parameter in alphas}) == 7


def test_thesis_constants():
    model = create_model("resnet20", "relu")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 19
    assert all(module.eps == 1e-3 and module.momentum == 0.01 for module in norms)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in, fan_out = 9 * module.in_channels, 9 * module.out_channels
            bound = (6 / (fan_in + fan_out)) ** 0.5  # Glorot-uniform
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()
    std = (2 / 64) ** 0.5  # He-normal
    assert 0.85 * std < model.fc.weight.std() < 1.15 * std


def test_vgg_starts_he_uniform():
    torch.manual_seed(0)
    for module in create_model("vgg"):
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = (6 / module.weight[0].numel()) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound


def test_strided_convolution_pads_bottom_and_right_only():
    layer = SameConv2d(1, 1, 3, 2, bias=False)
    images = torch.randn(2, 1, 32, 32)
    expected = functional.conv2d(functional.pad(images, (0, 1, 0, 1)), layer.weight, stride=2)
    assert torch.equal(layer(images), expected)
    assert layer(torch.randn(1, 1, 7, 5)).shape == (1, 1, 4, 3)


def test_thesis_block_normalises_after_the_addition():
    block = create_model("resnet8", "relu").eval().layer1[0]
    x = torch.randn(2, 16, 8, 8)
    h = block.conv2(block.act1(block.bn1(block.conv1(x))))
    assert torch.allclose(block(x), torch.relu(block.bn2(h + x)))


def test_original_block_normalises_before_it_and_pads_new_channels():
    block = create_model("resnet8", "relu", block="original").eval().layer2[0]
    x = torch.randn(2, 16, 8, 8)
    h = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
    h[:, :16] += x[:, :, ::2, ::2]
    assert torch.allclose(block(x), torch.relu(h))


@pytest.mark.parametrize(("shortcut", "before"), [("pad_end", 0), ("pad_both", 8)])
def test_where_the_shortcut_pads(shortcut, before):
    skip = create_model("resnet8", block="original", shortcut=shortcut).layer2[0].skip
    x = torch.randn(2, 16, 8, 8)
    padded = skip(x)
    assert padded.shape == (2, 32, 4, 4)
    assert torch.equal(padded[:, before : before + 16], x[:, :, ::2, ::2])
    assert padded.count_nonzero() == x[:, :, ::2, ::2].numel()


def test_the_projection_shortcut_has_the_parameters_counted_by_hand():
    added = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count(create_model("resnet20", block="original", shortcut="projection")) == 269_722 + added


def test_the_normalisation_is_a_layer():
    torch.manual_seed(0)
    plain = create_model("resnet8").eval()
    model = create_model("resnet8", mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)).eval()
    model.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)))
    assert torch.equal(model(images), plain((images - mean) / std))


@pytest.mark.parametrize("activation", ["relu", "kaf_free"])
def test_saved_and_loaded_networks_agree(tmp_path, activation):
    model = create_model(
        "resnet8", activation, activation_arguments={"D": 10} if activation != "relu" else None
    )
    images = torch.rand(3, 3, 32, 32)
    model(images)  # moves the running averages
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert not loaded.training
    assert torch.equal(loaded(images), model.eval()(images))
    assert loaded.specification == model.specification


@pytest.fixture
def saved(tmp_path):
    save_model(create_model("resnet8", "kaf"), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def rewrite(path, change):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


@pytest.mark.injects("weights files with wrong tensors, or pickles")
def test_a_missing_tensor_is_named(saved):
    rewrite(saved, lambda tensors: tensors.pop("layer2.0.conv1.weight"))
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight is missing"):
        load_model(saved)


@pytest.mark.injects("weights files with wrong tensors, or pickles")
def test_an_extra_tensor_is_named(saved):
    rewrite(saved, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(UserError, match="extra does not belong"):
        load_model(saved)


@pytest.mark.injects("weights files with wrong tensors, or pickles")
def test_a_wrong_shape_is_named(saved):
    rewrite(saved, lambda tensors: tensors.update({"stem.act.alpha": torch.zeros(3, 20)}))
    with pytest.raises(UserError, match=r"stem\.act\.alpha has shape \(3, 20\)"):
        load_model(saved)


@pytest.mark.injects("weights files with wrong tensors, or pickles")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.double(), "is of torch.float64, the network needs torch.float32"),
        (lambda weights: weights.to(torch.int32), "is of torch.int32, the network needs torch.float32"),
        (lambda weights: weights.clone().fill_(torch.nan), "holds NaN or infinite values"),
        (lambda weights: weights.index_fill(0, torch.tensor([1]), torch.inf), "holds NaN or infinite values"),
    ],
)
def test_a_tensor_of_another_type_or_not_finite_is_named(saved, change, message):
    rewrite(saved, lambda tensors: tensors.update({"stem.act.alpha": change(tensors["stem.act.alpha"])}))
    with pytest.raises(UserError, match=rf"stem\.act\.alpha {message}"):
        load_model(saved)


@pytest.mark.injects("weights files with wrong tensors, or pickles")
@pytest.mark.parametrize(
    "description",
    ["{", "[1]", "{}", '{"architecture": "resnet9000"}', '{"architecture": "resnet8", "activation": [1]}']
    + [
        '{"architecture": "resnet8", "num_classes": "many"}',
        '{"architecture": "resnet8", "extra": 1}',
        "[" * 9999,
    ],
)
def test_a_description_of_no_network(saved, description):
    tensors = load_file(saved)
    with safe_open(saved, framework="pt") as file:
        (key,) = file.metadata()
    save_file(tensors, saved, metadata={key: description})
    with pytest.raises(UserError, match="network description") as error:
        load_model(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "resnt20"}, "resnet20"),
        ({"architecture": "vgg", "activation": "kaf_elo"}, "kaf_elu"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(arguments, message):
    with pytest.raises(UserError, match=f"did you mean {message}"):
        create_model(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"block": "modern"},
        {"depth": 21},
        {"shortcut": "A", "block": "original"},
        {"skip_input": "output", "architecture": "preactresnet18"},
        {"shortcut": "pad_both"},  # the thesis's block has a shortcut of its own
        {"mean": (0.5, 0.5)},
        {"std": (1, 1, 0), "mean": (0, 0, 0)},
    ],
)
def test_bad_resnet_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        create_model(**{"architecture": "resnet20", **arguments})


def pre_activation(x, weights, name, stride, skip):
    """A pre-activation block written out, on the weights by the names of the popular code."""

    def normalised(x, bn):
        return functional.batch_norm(x, *(weights[f"{name}.{bn}.{kind}"] for kind in KINDS))

    h = torch.relu(normalised(x, "bn1"))
    shortcut = x
    if f"{name}.shortcut.0.weight" in weights:
        shortcut = functional.conv2d(
            h if skip == "activated" else x, weights[f"{name}.shortcut.0.weight"], stride=stride
        )
    h = functional.conv2d(h, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
    h = torch.relu(normalised(h, "bn2"))
    return functional.conv2d(h, weights[f"{name}.conv2.weight"], padding=1) + shortcut


KINDS = ("running_mean", "running_var", "weight", "bias")


def foreign_weights():
    """Weights of a PreActResNet18 as the code of the literature names them."""
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def norm(name, channels):
        weights[f"{name}.num_batches_tracked"] = torch.tensor(3)
        for kind in KINDS:
            weights[f"{name}.{kind}"] = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5

    def conv(name, outputs, inputs, size=3):
        shape = outputs, inputs, size, size
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        weights[f"{name}.weight"] = values / (inputs * size * size) ** 0.5

    conv("conv1", 64, 3)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            norm(f"{name}.bn1", before)
            conv(f"{name}.conv1", width, before)
            norm(f"{name}.bn2", width)
            conv(f"{name}.conv2", width, width)
            if before != width:
                conv(f"{name}.shortcut.0", width, before, 1)
            before = width
    norm("bn", 512)
    weights["linear.weight"] = torch.randn(10, 512, generator=generator, dtype=torch.float64)
    weights["linear.bias"] = torch.zeros(10, dtype=torch.float64)
    return weights


@pytest.mark.parametrize("skip", ["activated", "input"])
def test_the_network_of_the_literature_by_its_own_weights(skip):
    weights = foreign_weights()
    model = create_model("preactresnet18", "relu", skip_input=skip).double().eval()
    # the number that the literature's code prints, with the last normalisation
    assert count(model) == 11_172_170
    load_state_dict(model, weights)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    h = functional.conv2d(x, weights["conv1.weight"], padding=1)
    for stage in range(1, 5):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            h = pre_activation(h, weights, f"layer{stage}.{block}", stride, skip)
    h = torch.relu(functional.batch_norm(h, *(weights[f"bn.{kind}"] for kind in KINDS))).mean((2, 3))
    torch.testing.assert_close(model(x), functional.linear(h, weights["linear.weight"]))


def test_foreign_weights_of_unknown_shortcuts_are_doubted():
    with pytest.warns(UserWarning, match="skip_input"):
        load_state_dict(create_model("preactresnet18"), foreign_weights())


def test_pre_activation_blocks_leave_the_skip_alone():
    """Where branches compute nothing, a network is its stem, padded, and its end."""
    model = create_model("resnet20", "elu", block="preact").double().eval()
    # as the original: no normalisation of the stem, half as wide ones before what grows, one at the end
    assert count(model) == 269_722 + 2 * (-16 - 16 - 32 + 64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("conv2.weight"):
                parameter.zero_()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    h = functional.pad(model.stem(x)[:, :, ::4, ::4], (0, 0, 0, 0, 0, 48))
    torch.testing.assert_close(model(x), model.fc(functional.elu(model.last.bn(h)).mean((2, 3))))
    projected = create_model("resnet20", "elu", block="preact", shortcut="projection")
    assert count(projected) == count(model) + 16 * 32 + 32 * 64


def test_importing_the_library_leaves_torch_alone():
    import subprocess
    import sys

    code = "import sys, kafnets, kafnets.config.slices, kafnets.registry; sys.exit('torch' in sys.modules)"
    path = str(__import__("pathlib").Path(__file__).parents[2] / "workflow" / "scripts")
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})
