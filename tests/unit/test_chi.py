"""chi against what is known of it, and its three ways against each other."""

import math
from statistics import NormalDist

import pytest
import torch
from kafnets import create_model
from kafnets.activations import create_activation, layers_of
from kafnets.activations.chi import by_quadrature, chi, of_kaf, pooled
from kafnets.diagnostics.layers import compare, growth
from torch import nn

# two digits behind the point, of the literature's table of mean Hermite degrees
KNOWN = {"elu": 1.08, "softplus": 1.08, "tanh": 1.18, "swish": 1.21, "gelu": 1.32, "relu": 1.467}


def quadrature(layer, std=1.0, mean=0.0):
    slope, variance = by_quadrature(layer, *(torch.tensor(one, dtype=torch.float64) for one in (std, mean)))
    return slope / variance


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name):
    found = chi(create_activation(name, 4))
    assert found.shape == () and found.dtype == torch.float64
    assert found.item() == pytest.approx(KNOWN[name], abs=0.005)


def test_relu_in_closed_form_wherever_the_kink_is():
    assert chi(nn.ReLU()).item() == pytest.approx(math.pi / (math.pi - 1), rel=1e-12)
    for mean, std in ((0.217, 1.3), (-0.5, 0.7), (2.0, 1.0)):
        ratio, normal = mean / std, NormalDist()
        positive = normal.cdf(ratio)
        first = mean * positive + std * normal.pdf(ratio)
        square = (mean**2 + std**2) * positive + mean * std * normal.pdf(ratio)
        expected = std**2 * positive / (square - first**2)
        assert chi(nn.ReLU(), std=std, mean=mean).item() == pytest.approx(expected, rel=2e-4)


def test_linear_functions_have_the_least():
    class Affine(nn.Module):
        def forward(self, x):
            return 3 * x - 2

    assert chi(Affine(), std=2.0, mean=1.0).item() == pytest.approx(1, abs=1e-12)


def test_hermite_polynomials_have_their_degree():
    class Hermite(nn.Module):
        def forward(self, x):
            return x**3 - 3 * x

    assert chi(Hermite()).item() == pytest.approx(3, abs=1e-9)


@pytest.mark.parametrize("name", ["kaf", "kaf_swish", "kaf_free"])
def test_a_kaf_by_its_formula_by_quadrature_and_by_chance(name):
    torch.manual_seed(0)
    layer = create_activation(name, 3)
    if name == "kaf_free":  # every channel has a dictionary and a bandwidth of its own
        with torch.no_grad():
            layer.dictionary += 0.2 * torch.randn_like(layer.dictionary)
            layer.bandwidth *= torch.tensor([0.6, 1.0, 1.7])
    std, mean = torch.tensor([1.0, 0.6, 1.4]), torch.tensor([0.0, 0.5, -0.3])
    found = chi(layer, std=std, mean=mean)
    slope, variance = by_quadrature(layer, std.double(), mean.double())
    torch.testing.assert_close(found, slope / variance, rtol=1e-9, atol=0)
    x = (mean + std * torch.randn(400_000, 3)).double().requires_grad_()
    values = layer(x)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    by_chance = x.var(0) * slopes.square().mean(0) / values.var(0)
    torch.testing.assert_close(found, by_chance.detach(), rtol=0.02, atol=0)


def test_the_starts_of_a_kaf():
    torch.manual_seed(0)
    assert chi(create_activation("kaf", 2000)).median().item() == pytest.approx(3.46, abs=0.1)
    for name, known in (("kaf_elu", 1.09), ("kaf_swish", 1.23), ("kaf_relu", 1.42)):
        assert chi(create_activation(name, 2)).tolist() == pytest.approx([known] * 2, abs=0.006)


def test_the_formula_is_differentiable():
    layer = create_activation("kaf_free", 2).double()
    parameters = layer.alpha, layer.dictionary, layer.bandwidth
    assert torch.autograd.gradcheck(lambda *given: of_kaf(*given)[0] / of_kaf(*given)[1], parameters)
    gradients = [torch.autograd.grad(of(layer).sum(), parameters) for of in (chi, quadrature)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def test_what_is_no_sum_of_gaussians_alone_is_not_taken_for_one():
    """A KAF with more parts, and one of another kernel, take the quadrature."""

    class More(type(create_activation("kaf", 1))):
        def __init__(self):
            super().__init__(2)
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.weight * torch.relu(x) + super().forward(x)

    torch.manual_seed(0)
    for layer in (More(), create_activation("kaf", 2, kernel="softplus")):
        torch.testing.assert_close(chi(layer), quadrature(layer))
    with torch.no_grad():
        (layer := More()).alpha.zero_()
    assert chi(layer).tolist() == pytest.approx([math.pi / (math.pi - 1)] * 2)


def test_shapes_and_bad_arguments():
    assert chi(nn.PReLU(3)).shape == (3,) and chi(nn.PReLU()).shape == ()
    assert chi(nn.Tanh(), std=torch.ones(3)).shape == (3,)
    with pytest.raises(ValueError, match="std"):
        chi(nn.Tanh(), std=0.0)


def test_a_layer_as_a_whole_is_not_ruled_by_dead_channels():
    std, mean = torch.ones(3), torch.tensor([0.0, 0.0, -8.0])
    assert chi(nn.ReLU(), std, mean)[2] > 30
    assert pooled(nn.ReLU(), std, mean).item() == pytest.approx(math.pi / (math.pi - 1), rel=1e-6)


def test_a_card_takes_the_moments_of_the_clean_inputs():
    torch.manual_seed(0)
    model, images = create_model("resnet8", "swish", block="preact").eval(), torch.rand(6, 3, 32, 32)
    seen = []
    layer = next(iter(layers_of(model).values()))
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    compared = compare(model, images, images.roll(1, 3), batch_size=4)
    handle.remove()
    clean = torch.cat([seen[0], seen[2]]).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(compared[0]["mean"], clean.mean(1))
    torch.testing.assert_close(compared[0]["std"], clean.std(1, correction=0))
    expected = pooled(layer, clean.std(1, correction=0), clean.mean(1)).item()
    assert growth(layer, compared[0]["mean"], compared[0]["std"]) == pytest.approx(expected)
    assert growth(nn.ReLU(), -50 * torch.ones(2).double(), torch.ones(2).double()) is None
