"""Fused layers on the CPU: the compiled library against torch's layers in float64."""

import copy

import pytest
import torch
from kafnets.activations import create_activation
from kafnets.models.fused import cpu, operators
from torch import nn

pytestmark = pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")

LAST = torch.channels_last
ACTIVATIONS = {"identity": {}, "relu": {}, "elu": {"alpha": 0.7}, "swish": {}, "kaf": {}}
SITES = {
    "alone": ((), 1, False),
    "added": (("added",), 1, True),
    "residual": (("residual",), 2, False),
    "both": (("added", "residual"), 3, True),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def layers(name, channels, **settings):
    norm = nn.BatchNorm2d(channels, **{"eps": 1e-3, "momentum": 0.1, **settings})
    activation = nn.Identity()
    if name != "identity":
        activation = create_activation(name, channels, **ACTIVATIONS[name])
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return norm, activation


def images(shape, offset=0.0):
    return (2 * torch.randn(shape) + offset).contiguous(memory_format=LAST).requires_grad_()


def results(code, norm, activation, tensors, grads, **more):
    """Outputs, gradients of all that needs one and buffers afterwards."""
    outputs = code(norm=norm, activation=activation, copies=len(grads), **tensors, **more)
    outputs = outputs if len(grads) > 1 else (outputs,)
    wanted = [t for t in (*tensors.values(), *norm.parameters(), *activation.parameters()) if t.requires_grad]
    found = torch.autograd.grad(outputs, wanted, [grad.to(outputs[0].dtype) for grad in grads])
    return [*outputs, *found, *norm.buffers()]


def check(norm, activation, tensors, copies=1, shift=None, scale=1.0):
    """The library against `plain` in float64."""
    assert operators._kernels(tensors["x"], norm, None, None, shift) is cpu
    x = tensors["x"]
    grads = [torch.randn_like(x) for _ in range(copies)]
    exact = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in tensors.items()}
    norm64, activation64 = copy.deepcopy(norm).double(), copy.deepcopy(activation).double()
    shift64 = None if shift is None else shift.double()
    ours = results(operators.normalise_activate, norm, activation, tensors, grads, shift=shift)
    right = results(operators.plain, norm64, activation64, exact, grads, shift=shift64)
    for index, (one, other) in enumerate(zip(ours, right, strict=True)):
        error = (one.double() - other).abs().max() / other.abs().max().clamp(min=0.1)
        assert error <= scale * 2e-6, (index, error)
    assert all(operators._found.values())
    assert all(y.stride() == x.stride() and y.data_ptr() == ours[0].data_ptr() for y in ours[:copies])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, site):
    given, copies, shifted = SITES[site]
    # 112 channels: groups of 64, 32 and 16; 3,630 points: several chunks, blocks, and what is left
    norm, activation = layers(name, 112)
    tensors = {name: images((30, 112, 11, 11)) for name in ("x", *given)}
    check(norm, activation, tensors, copies, torch.randn(112) if shifted else None)


@pytest.mark.parametrize(
    "settings",
    [{"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"momentum": 0.0}, {"eps": 1e-8}],
)
def test_settings_of_the_normalisation(settings):
    norm, activation = layers("relu", 16, **settings)
    for _ in range(3):
        check(norm, activation, {"x": images((2, 16, 3, 1))}, shift=torch.randn(16))


@pytest.mark.parametrize("offset", [1e3, -3e4])
def test_a_mean_far_from_zero(offset):
    """Sums of squares would lose the variance altogether: 4 beside 9e8."""
    norm, activation = layers("swish", 16)
    x = images((40, 16, 9, 9), offset)
    check(norm, activation, {"x": x}, scale=2)
    torch.testing.assert_close(
        norm.running_var.double(), 0.9 + 0.1 * x.double().var((0, 2, 3)), rtol=1e-5, atol=0
    )


def test_far_from_zero_an_activation_ends_where_it_should():
    """Inputs of 140 standard deviations, at which an exponential overflows or is 0."""
    for name in ("elu", "swish"):
        norm, activation = layers(name, 16)
        x = torch.cat(
            [torch.full((2, 16, 1, 1), 1e4), torch.full((2, 16, 1, 1), -1e4), torch.randn(9996, 16, 1, 1)]
        )
        check(norm, activation, {"x": x.contiguous(memory_format=LAST).requires_grad_()}, scale=5)


def test_results_do_not_depend_on_the_number_of_threads():
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.manual_seed(0)
        norm, activation = layers("elu", 48)
        tensors = {"x": images((9, 48, 17, 17)), "residual": images((9, 48, 17, 17))}
        grads = [torch.randn(9, 48, 17, 17)]
        torch.set_num_threads(count)
        try:
            found.append(results(operators.normalise_activate, norm, activation, tensors, grads))
        finally:
            torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_nan_goes_through():
    for name in ACTIVATIONS:
        norm, activation = layers(name, 16)
        x = images((2, 16, 4, 4))
        with torch.no_grad():
            x[0, 0, 0, 0] = float("nan")
        y = operators.normalise_activate(x, norm, activation)
        (grad,) = torch.autograd.grad(y.sum(), x)
        for found in (y, grad, norm.running_mean[None], norm.running_var[None]):
            assert found[:, 0].isnan().all() and found[:, 1:].isfinite().all(), name


def test_only_the_gradients_that_are_needed_and_any_memory_of_the_gradient():
    norm, activation = layers("swish", 16)
    norm.requires_grad_(False)
    x, residual = images((2, 16, 5, 4)), images((2, 16, 5, 4)).detach()
    check(norm, activation, {"x": x, "residual": residual})
    check(norm, activation, {"x": residual, "residual": x})
    _, second = operators.normalise_activate(x, norm, activation, copies=2)  # the first has no gradient
    (grad,) = torch.autograd.grad(second.mean((2, 3)).square().sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(
        operators.plain(x, norm, activation).mean((2, 3)).square().sum(), x, create_graph=True
    )
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_what_the_library_does_not_cover(monkeypatch):
    """It is computed all the same; of an activation that it does not have, the rest is the library's."""

    class Own(nn.ReLU):
        def forward(self, x):
            return x.cos()

    calls = []
    fused = cpu.fused
    monkeypatch.setattr(cpu, "fused", lambda *a, **k: calls.append(a) or fused(*a, **k))
    norm, relu = layers("relu", 16)
    x = images((2, 16, 4, 4))
    cases = [  # arguments, whether anything is left to the library
        ((x, norm, relu), True),
        ((x, norm, Own()), True),
        ((x.contiguous(), norm, relu), False),
        ((x.double(), copy.deepcopy(norm).double(), relu), False),
        ((x, copy.deepcopy(norm).eval(), relu), False),
        ((images((2, 24, 4, 4)), nn.BatchNorm2d(24), relu), False),
    ]
    for (x, norm, activation), is_fused in cases:
        calls.clear()
        y = operators.normalise_activate(x, norm, activation)
        torch.testing.assert_close(y, operators.plain(x, norm, activation), rtol=1e-4, atol=1e-5)
        assert bool(calls) == is_fused


def test_a_library_that_is_wrong_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(operators, "_found", {})
    monkeypatch.setattr(cpu, "fused", lambda x, *a, **k: operators.plain(1.01 * x**3, *a, **k))
    norm, relu = layers("relu", 16)
    x = images((2, 16, 4, 4))
    for activation in (relu, nn.SiLU()):
        y = operators.normalise_activate(x, norm, activation)
        assert torch.equal(y, operators.plain(x, copy.deepcopy(norm), activation))
    assert caplog.text.count("Fused layers do not work on this CPU (their results differ)") == 1
