"""Networks as lists of steps: the same function, its operations' other forms, and what is refused."""

import pytest
import torch
from kafnets.certification.network import live_network_of, network_of
from kafnets.certification.operations import Affine, Convolution, Dense, Normalisation
from kafnets.models import create_model
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

SHAPE = (3, 16, 16)


def trained_looking(model):
    """Normalisations as after a training: no statistic or parameter at its neutral value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.1, 2)
                module.weight.normal_(1, 0.3)
                module.bias.normal_(0, 0.3)
    return model


class Odd(nn.Module):
    """What the networks of this repository do not have, as others write it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=3)
        self.same = nn.Conv2d(6, 6, (2, 3), padding="same", bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.average = nn.AvgPool2d(3, stride=2, padding=1)
        self.drop = nn.Dropout2d(0.5)
        self.bn1 = nn.BatchNorm1d(5)
        self.hidden = parametrizations.spectral_norm(nn.Linear(6 * 36, 5))
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = functional.silu(self.conv(x))
        shortcut = x
        x = self.act(self.bn(self.same(x)))
        x += shortcut
        x = self.drop(self.average(x))
        x = self.bn1(self.hidden(x.view(x.size(0), -1)))
        return self.fc(torch.relu(x) + x)


NETWORKS = {
    "thesis": lambda: create_model("resnet8", activation="kaf_swish"),
    "pad_both": lambda: create_model(
        "resnet8", block="original", shortcut="pad_both", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]
    ),
    "projection": lambda: create_model("resnet8", block="preact", shortcut="projection"),
    "vgg": lambda: create_model("vgg", activation="kaf_elu_base", image_shape=SHAPE),
    "odd": Odd,
}


@pytest.fixture(scope="module", params=NETWORKS)
def both(request):
    torch.manual_seed(0)
    model = trained_looking(NETWORKS[request.param]()).train()
    return model, network_of(model, SHAPE)


def test_the_same_function(both):
    model, network = both
    assert model.training and all(p.dtype is torch.float32 for p in model.parameters())
    model = model.double().eval()
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), model(images), rtol=1e-9, atol=1e-9)
        live = live_network_of(model, SHAPE)
        torch.testing.assert_close(live(images), model(images), rtol=1e-9, atol=1e-9)
        # it reads the parameters where they are
        next(p for p in model.parameters() if p.dim() == 4).mul_(1.5)
        torch.testing.assert_close(live(images), model(images), rtol=1e-9, atol=1e-9)


def test_computed_weights_stay_computed():
    """In the network that was given, also where layers share a class; the steps have their values."""
    layer = parametrizations.weight_norm(nn.Linear(48, 5))
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), parametrizations.orthogonal(nn.Linear(5, 4))).eval()
    images = torch.rand(3, 3, 4, 4)
    expected = model(images)
    network = network_of(model, (3, 4, 4))
    torch.testing.assert_close(network(images.double()).float(), expected)
    assert torch.equal(model(images), expected) and parametrize.is_parametrized(layer, "weight")
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2)
    assert not torch.equal(model(images), expected)
    torch.testing.assert_close(network(images.double()).float(), expected)


def test_the_forms_of_the_affine_steps(both):
    r"""W' is the adjoint of W, |W| has the absolute values of its entries, b is what zeros give."""
    _, network = both
    torch.manual_seed(2)
    tried = {}
    for step in network.steps[1:]:
        operation = step.operation
        if not isinstance(operation, Affine):
            continue
        before = network.steps[step.inputs[0]].shape
        tried[type(operation), before, step.shape] = operation
    for (_, before, after), operation in tried.items():
        x = torch.randn(2, *before, dtype=torch.float64)
        y = torch.randn(2, *after, dtype=torch.float64)
        with torch.no_grad():
            forwards, backwards = operation.linear(x), operation.transposed(y, before)
            assert forwards.shape == (2, *after) and backwards.shape == x.shape
            torch.testing.assert_close((forwards * y).sum(), (x * backwards).sum())
            torch.testing.assert_close(operation(x), forwards + operation(torch.zeros_like(x)))
            # single entries: the one input that it is of, and one output
            unit = torch.zeros(1, x[0].numel(), dtype=torch.float64)
            unit[0, x[0].numel() // 2] = 1
            unit = unit.view(1, *before)
            torch.testing.assert_close(operation.spread(unit), operation.linear(unit).abs())
            # |W| of all ones, for one output: the sum of the absolute entries of its row
            row = torch.zeros(1, y[0].numel(), dtype=torch.float64)
            row[0, y[0].numel() // 2] = 1
            entries = operation.transposed(row.view(1, *after), before)
            spread = operation.spread(torch.ones(1, *before, dtype=torch.float64))
            torch.testing.assert_close(spread.flatten()[y[0].numel() // 2], entries.abs().sum())
            assert (entries != 0).sum() <= max(operation.terms, 1)


def test_normalisations_are_folded_where_one_layer_alone_is_before_them():
    def left(**arguments):
        network = network_of(trained_looking(create_model("resnet8", **arguments)), SHAPE)
        return sum(isinstance(step.operation, Normalisation) for step in network.steps)

    assert left(block="original", shortcut="projection") == 0
    assert left(block="thesis") == 3  # behind the sums
    assert left(block="preact") == 4


def test_asymmetric_padding_is_a_number_for_each_side():
    network = network_of(create_model("resnet8"), SHAPE)
    strided = [step.operation for step in network.steps if getattr(step.operation, "stride", 0) == (2, 2)]
    assert len(strided) == 4 and {operation.padding for operation in strided} == {(0, 1, 0, 1)}
    assert isinstance(network.steps[-1].operation, Dense) and network.num_classes == 10
    assert isinstance(network.steps[1].operation, Convolution) and network.shape == SHAPE


class Twice(nn.Module):
    """One convolution called twice: it cannot take in two normalisations."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x)))).mean((-1, -2))


def test_a_layer_that_is_called_twice_stays_as_it_is():
    model = trained_looking(Twice()).double().eval()
    images = torch.rand(2, *SHAPE, dtype=torch.float64)
    network = network_of(model, SHAPE)
    torch.testing.assert_close(network(images), model(images))


class Calls(nn.Module):
    """A network that calls one function of the images."""

    def __init__(self, function, layer=None):
        super().__init__()
        self.function, self.layer = function, layer
        self.vector = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.function(self, x).mean((2, 3))


def with_hook():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    model[1].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model, message",
    [
        (Calls(lambda _, x: x * x), r"mul \(mul\) is none of the functions"),
        (Calls(lambda _, x: x + 1), r"add \(add\) is none of the functions"),
        (Calls(lambda self, x: x + self.vector[:, None, None]), r"add .* is none of the functions"),
        (Calls(lambda self, x: self.layer(x), nn.PixelShuffle(1)), "layer, a PixelShuffle; use the layers"),
        (Calls(lambda self, x: self.layer(x), nn.InstanceNorm2d(3)), "layer, a InstanceNorm2d"),
        (
            Calls(lambda self, x: self.layer(x), nn.BatchNorm2d(3, track_running_stats=False)),
            "layer, a BatchNorm2d",
        ),
        (
            Calls(lambda self, x: self.layer(x), nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")),
            "layer, a Conv2d",
        ),
        (Calls(lambda _, x: x if x.sum() > 0 else -x), "cannot be recorded"),
        (Calls(lambda self, x: self.layer(x) + x, nn.ReLU(inplace=True)), "layer overwrites"),
        (Calls(lambda _, x: functional.dropout(x, 0.5)), "dropout .* is none of the functions"),
        (Calls(lambda _, x: x.view(3, 3, 16, 16)), "cannot be recorded"),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), "not logits"),
        (with_hook(), "1 has hooks"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(model, message):
    with pytest.raises(ValueError, match=message):
        network_of(model, SHAPE)


def test_a_function_of_another_number_of_images_is_refused():
    """Recorded with two images: a layer that knows that there are two is found out with three."""

    class Two(nn.Module):
        def forward(self, x):
            return x.flatten(1).view(2, -1)

    with pytest.raises(ValueError, match="something else"):
        network_of(Two(), SHAPE)


def test_a_second_argument_is_refused():
    class Scaled(nn.Module):
        def forward(self, x, scale=None):
            return x.mean((2, 3))

    with pytest.raises(ValueError, match="takes scale beside the images"):
        network_of(Scaled(), SHAPE)
