"""1-Lipschitz networks: the bound of a KAF's slope, layers, networks, and the loss they are trained by."""

import math

import numpy
import pytest
import torch
from kafnets import create_activation, create_model, load_model, save_model
from kafnets.activations.kaf import slopes
from kafnets.certification.margins import lipschitz_constant
from kafnets.certification.network import network_of
from kafnets.models.lipschitz import almost_orthogonal, plain
from kafnets.runtime.errors import UserError
from kafnets.training.methods.base import Network
from kafnets.training.methods.offset import OffsetCrossEntropy
from torch import nn
from torch.nn import functional

SLOPES = {
    None: lambda x: 0 * x,
    "identity": lambda x: 0 * x + 1,
    "relu": lambda x: 1.0 * (x > 0),
    "elu": lambda x: numpy.exp(numpy.minimum(x, 0)),
    "silu": lambda x: (1 + numpy.exp(-x) * (1 + x)) / (1 + numpy.exp(-x)) ** 2,
}
ACTIVATIONS = ["maxmin", "lipschitz_spline", "kaf_1lip", "kaf_base_1lip"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def steepest_found(alpha, points, gamma, weight, base):
    """The largest |f'| on a fine grid, from the formula."""
    x = numpy.linspace(-14, 14, 4_001)
    u = x[:, None] - points
    slope = (-2 * gamma * u * numpy.exp(-gamma * u**2)) @ alpha + weight * SLOPES[base](x)
    return abs(slope).max()


@pytest.mark.parametrize("base", SLOPES)
@pytest.mark.parametrize("own", [False, True])
def test_the_bound_of_the_slope_is_above_it_and_near(base, own):
    """For smooth starts, ridge starts whose coefficients cancel, and dictionaries that have been learned."""
    channels, size = 6, 20
    alpha = torch.randn(channels, size) * torch.tensor([0.05, 0.3, 1, 3, 0.3, 0])[:, None]
    alpha[4] = create_activation("kaf_elu", 1).alpha[0].detach()
    points, gamma = torch.linspace(-3, 3, size), torch.tensor(1.671)
    weight = torch.tensor([1.0, -2, 0.5, 0.1, 1, 1])
    if own:
        points = points + 0.2 * torch.randn(channels, size)
        gamma = gamma * torch.linspace(0.3, 3, channels)
    of_base = () if base is None else (weight, base)
    grid = slopes.points_needed(3, 1.671)
    bounds = slopes.steepest(alpha, points, gamma, grid, *of_base)
    for c in range(channels):
        row = points.expand(channels, size)[c].double().numpy()
        rate = gamma.expand(channels)[c].item()
        factor = 0.0 if base is None else weight[c].item()
        found = steepest_found(alpha[c].detach().double().numpy(), row, rate, factor, base)
        assert found <= bounds[c] <= 1.03 * found + 1e-3, c


@pytest.mark.parametrize("moved", [-10.0, -4.0, 4.0, 10.0])
@pytest.mark.parametrize("base", ["identity", "relu", "elu", "silu"])
def test_the_bound_holds_where_a_dictionary_has_moved_away(base, moved):
    """Also where the base alone is steepest, far from all that the grid sees."""
    alpha, weight = torch.zeros(1, 20), torch.ones(1)
    points, gamma = torch.linspace(-3, 3, 20) + moved, torch.tensor(3.0)
    bound = slopes.steepest(alpha, points, gamma, slopes.points_needed(3, 3.0), weight, base)
    found = steepest_found(alpha[0].numpy(), points.numpy(), 3.0, 1.0, base)
    assert found <= bound <= 1.11 * found
    layer = create_activation("kaf_base_1lip", 1, base=base, bandwidth=3.0, trainable_dictionary=True)
    with torch.no_grad():
        layer.dictionary += moved
    x = torch.linspace(-20, 20, 8001)[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x)
    assert slope.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["kaf_1lip", "kaf_base_1lip"])
def test_a_kaf_is_nowhere_steeper_than_1_and_somewhere_nearly(name):
    layer = create_activation(name, 4, **({"base": "silu"} if "base" in name else {}))
    with torch.no_grad():
        layer.alpha += torch.tensor([[5.0], [1.0], [0.01], [0.3]]) * torch.randn(4, 20)
    x = torch.linspace(-9, 9, 4_001, dtype=torch.float64)[:, None].repeat(1, 4).requires_grad_()
    steepest = torch.autograd.grad(layer.double()(x).sum(), x)[0].abs().amax(0)
    assert (steepest <= 1).all() and (steepest > 0.97).all()


def test_a_kaf_that_is_flat_stays_as_it_is_and_its_coefficients_learn():
    flat, free = create_activation("kaf_1lip", 3, init="normal"), create_activation("kaf", 3, boundary=1.5)
    flat.alpha.data.copy_(free.alpha.data)
    x = torch.randn(50, 3)
    assert torch.equal(flat(x), free(x))
    steep = create_activation("kaf_1lip", 3, init="normal", std=5.0)
    (gradient,) = torch.autograd.grad(steep(x).sum(), steep.alpha)
    # of a function that its size does not change there is no gradient along its coefficients
    assert gradient.any(1).all()
    assert (
        (gradient * steep.alpha).sum(1).abs() < 1e-2 * gradient.norm(dim=1) * steep.alpha.norm(dim=1)
    ).all()


def test_a_kaf_starts_as_a_function_that_comes_back_to_0():
    x = torch.linspace(-3, 3, 101)[:, None]
    for init, function in (("abs", torch.abs), ("relu", torch.relu), ("tanh", torch.tanh)):
        layer = create_activation("kaf_1lip", 1, init=init)
        bound = slopes.steepest(layer.alpha, layer.dictionary, layer.bandwidth, layer.points)
        assert bound < 1.3
        fall = (1.5 - x.abs()).clamp(min=0)
        expected = torch.maximum(torch.minimum(function(x), fall), -fall)
        torch.testing.assert_close(layer(x) * bound, expected, rtol=0, atol=0.2, check_dtype=False)
    with pytest.raises(UserError, match=r"^init must be one of .*abs"):
        create_activation("kaf_1lip", 1, init="sine")
    with pytest.raises(UserError, match="products"):
        create_activation("kaf_1lip", 1, bandwidth=1e12)


@pytest.mark.parametrize(
    "arguments", [{}, {"share": "layer"}, {"trainable_dictionary": True, "share": "layer"}]
)
def test_a_plain_kaf_is_the_same_function(arguments):
    for name in ("kaf_1lip", "kaf_base_1lip"):
        layer = create_activation(
            name, 3, std=2.0, **({} if "base" in name else {"init": "normal"}), **arguments
        )
        before = torch.get_rng_state()
        made = layer.plain()
        assert torch.equal(before, torch.get_rng_state()) and type(made).__name__.startswith("KAF")
        x = 3 * torch.randn(20, 3)
        torch.testing.assert_close(made(x), layer(x), rtol=0, atol=1e-6)


def matrix_of(weight, size):
    """Of a convolution with zeros around its input, column by column."""
    eye = torch.eye(weight.shape[1] * size**2, dtype=weight.dtype).view(-1, weight.shape[1], size, size)
    return functional.conv2d(eye, weight, padding=weight.shape[2] // 2).flatten(1).T


@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (5, 3, 3, 3), (4, 4, 5, 5), (3, 9), (9, 3)])
def test_almost_orthogonal_layers_are_1_lipschitz(shape):
    """By singular values of the whole matrix, for kernels of any size; an orthogonal one is left alone."""
    for scale in (1e-3, 1.0, 1e3):
        weight = scale * torch.randn(shape, dtype=torch.float64)
        weight[0] *= 10
        made = almost_orthogonal(weight)
        matrix = matrix_of(made, 6) if len(shape) == 4 else made
        assert 0.2 < torch.linalg.matrix_norm(matrix, 2) <= 1 + 1e-12
    orthogonal = nn.init.orthogonal_(torch.empty(shape[:2], dtype=torch.float64))
    if len(shape) == 4:
        weight = torch.zeros(shape, dtype=torch.float64)
        weight[:, :, shape[2] // 2, shape[3] // 2] = orthogonal
        orthogonal = weight
    torch.testing.assert_close(almost_orthogonal(orthogonal), orthogonal)
    assert not almost_orthogonal(torch.zeros(shape)).any()


def shaken(architecture, activation, **arguments):
    """A network whose parameters are far from their start."""
    model = create_model(architecture, activation, image_shape=[1, 8, 8], width=4, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("architecture", ["lipschitz_cnn", "lipschitz_mlp"])
def test_no_two_images_are_farther_apart_in_a_network(architecture, activation):
    model = shaken(architecture, activation, depth=1)
    body = nn.Sequential(*list(model)[:-1])
    one = torch.rand(64, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(one)[:, 0].sum(), one)
    steps = torch.randn_like(one) * torch.logspace(-2, 0.5, 64).view(-1, 1, 1, 1)
    steps[::2] = 0.1 * gradient[::2]  # where the network is steepest
    one, other = one.detach(), one.detach() + steps
    distance = (one - other).flatten(1).norm(dim=1)
    with torch.no_grad():
        assert ((body(one) - body(other)).norm(dim=1) <= 1.00001 * distance + 1e-6).all()
        assert ((model(one) - model(other)).abs().amax(1) <= 1.00001 * distance + 1e-6).all()
    assert gradient.flatten(1).norm(dim=1).max() <= 1.00001
    assert gradient.any()


def test_at_the_start_a_network_keeps_distances():
    """Orthogonal layers, MaxMin and pixels as channels: nothing is lost, where no layer has fewer outputs."""
    body = nn.Sequential(*list(create_model("lipschitz_mlp", "maxmin", image_shape=[1, 4, 4], width=16))[:-1])
    one, other = torch.rand(2, 20, 1, 4, 4)
    before, after = (one - other).flatten(1).norm(dim=1), (body(one) - body(other)).norm(dim=1)
    assert (after <= before + 1e-6).all() and (after > 0.2 * before).all()
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(body, x).reshape(16, 16)
    torch.testing.assert_close(jacobian.T @ jacobian, torch.eye(16), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "kaf_1lip"])
def test_ordinary_layers_start_as_the_1_lipschitz_ones_and_may_grow(tmp_path, activation):
    """What the lmt training is for: the same function at the start, a constant that follows the weights."""
    made = []
    for name in ("lipschitz_cnn", "unconstrained_cnn"):
        torch.manual_seed(3)
        made.append(create_model(name, activation, image_shape=[3, 8, 8], width=4, depth=1).eval())
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(made[0](x), made[1](x), rtol=0, atol=1e-5)
    kinds = {type(layer) for layer in made[1]}
    assert {nn.Conv2d, nn.Linear} < kinds and type(made[0][2]) is type(made[1][2]) and len(kinds) == 5
    with torch.no_grad():
        for model in made:
            model[1].weight *= 3  # of the first convolution
    constants = [lipschitz_constant(network_of(model, (3, 8, 8))) for model in made]
    assert constants[0] < 1.01 and constants[1] > 2.5 * constants[0]
    save_model(made[1], tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path / "model.safetensors").eval()(x), made[1](x))


def test_sizes_of_images():
    for shape, convolutions in (([3, 32, 32], 6), ([1, 8, 8], 4), ([3, 16, 8], 4)):
        model = create_model("lipschitz_cnn", "maxmin", num_classes=7, image_shape=shape)
        assert sum(isinstance(layer, nn.Conv2d) for layer in model) == convolutions
        assert model(torch.rand(2, *shape)).shape == (2, 7)
    with pytest.raises(ValueError, match="multiples of 4, got 6 x 6"):
        create_model("lipschitz_cnn", "maxmin", image_shape=[3, 6, 6])
    with pytest.raises(ValueError, match="width: a positive integer is needed, got 0"):
        create_model("lipschitz_mlp", "maxmin", width=0)


@pytest.mark.parametrize("activation", ["kaf_1lip", "kaf_base_1lip"])
def test_a_network_as_a_file_and_with_plain_layers(tmp_path, activation):
    model = shaken("lipschitz_cnn", activation).eval()
    x = torch.rand(5, 1, 8, 8)
    expected = model(x)
    save_model(model, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path / "model.safetensors").eval()(x), expected)
    made = plain(model)
    kinds = {type(layer).__name__ for layer in made}
    assert kinds <= {"Conv2d", "Linear", "KAF", "KAFWithBase", "PixelUnshuffle", "Flatten"}
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-5)
    assert not made.training and type(model[1]) is not nn.Conv2d


def test_the_offset_cross_entropy_is_the_formula():
    """The authors' loss, written out; without offset and temperature the cross-entropy."""
    model, images, labels = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        torch.rand(6, 1, 2, 2),
        torch.arange(6) % 3,
    )
    z = model(images).detach().double().numpy()
    for offset, temperature in ((math.sqrt(2), 0.25), (0.5, 2.0), (0.0, 1.0)):
        method = OffsetCrossEntropy(offset=offset, temperature=temperature)
        update = method.update(Network(model), images, labels, {})
        total = 0.0
        for row, label in zip(z, labels.tolist(), strict=True):
            moved = (row - offset * (numpy.arange(3) == label)) / temperature
            total -= temperature * math.log(numpy.exp(moved[label]) / numpy.exp(moved).sum())
        assert update.loss.item() == pytest.approx(total / 6, rel=1e-5)
        assert torch.equal(update.logits, model(images)) and update.images is images
    default = OffsetCrossEntropy()
    assert (default.offset, default.temperature) == (pytest.approx(2**0.5), 0.25)
