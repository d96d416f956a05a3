"""The activations: their values against the printed formula, their derivatives, their life inside torch."""

import copy
import math

import pytest
import torch
from kafnets import KAF, create_activation
from kafnets.activations.kaf import functional
from kafnets.registry import ACTIVATIONS
from kafnets.runtime.errors import UserError
from torch import library
from torch.autograd.graph import saved_tensors_hooks

KAFS = [name for name in ACTIVATIONS if name.startswith("kaf")]
KERNELS = ["gaussian", "relu", "softplus"]
FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def oracle(layer, x):
    """The KAF formula, term by term in Python and float64."""
    gamma = layer.bandwidth.double().expand(layer.channels)
    dictionary = layer.dictionary.double().expand(layer.channels, layer.D)
    y = torch.zeros(x.shape, dtype=torch.float64)
    for c in range(layer.channels):
        for i in range(layer.D):
            u = x[:, c].double() - dictionary[c, i]
            kappa = {
                "gaussian": lambda u, g: torch.exp(-g * u * u),
                "relu": lambda u, g: u.clamp(min=0),
                "softplus": lambda u, g: torch.log1p(torch.exp(-u.abs())) + u.clamp(min=0),
            }[layer.kernel](u, gamma[c])
            y[:, c] += layer.alpha[c, i].double() * kappa
    return y


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_first_and_second_derivatives(name):
    channels = 2
    arguments = {"D": 5} if name.startswith("kaf") else {}
    if "1lip" in name:  # where one place is steepest, and steeper than 1
        arguments |= {"std": 2.0, **({} if "base" in name else {"init": "normal"})}
    layer = create_activation(name, channels, **arguments).double()
    # Away from the kinks of ReLU and ELU, where a finite difference is no derivative.
    x = torch.randn(3, channels, 2, dtype=torch.float64)
    x = (x.sign() * (x.abs() + 0.1)).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True) if name in KAFS else ((), ())

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("kernel", ["relu", "softplus"])
def test_derivatives_of_the_other_kernels(kernel):
    layer = KAF(2, D=4, kernel=kernel, trainable_dictionary=True).double()
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(x, alpha, dictionary):
        return functional.kaf(x, alpha, dictionary, layer.bandwidth, kernel)

    assert torch.autograd.gradcheck(function, (x, layer.alpha, layer.dictionary))
    assert torch.autograd.gradgradcheck(function, (x, layer.alpha, layer.dictionary))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (2, 3, 5, 5), (2, 3, 2, 3, 2), (0, 3, 4, 4), (2, 3, 0)])
def test_value_is_the_formula(kernel, shape):
    layer = KAF(3, kernel=kernel, std=1.0)
    x = 2 * torch.randn(shape)
    expected = oracle(layer, x)
    for backend in ("plain", "portable"):
        y = functional.kaf(x, layer.alpha, layer.dictionary, layer.bandwidth, kernel, backend)
        assert y.shape == x.shape and y.dtype == x.dtype
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_free_dictionary_and_bandwidth_are_per_channel():
    layer = KAF(3, **FREE)
    with torch.no_grad():
        layer.dictionary += 0.3 * torch.randn_like(layer.dictionary)
        layer.bandwidth *= torch.tensor([0.5, 1.0, 2.0])
    x = torch.randn(4, 3, 6)
    torch.testing.assert_close(layer(x).double(), oracle(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rule", "factor"), [("thesis", 6), ("reference", 8)])
def test_bandwidth_rules(rule, factor):
    layer = KAF(1, D=20, boundary=3.0, bandwidth=rule)
    assert math.isclose(layer.bandwidth.item(), 1 / (factor * (6 / 19) ** 2), rel_tol=1e-6)
    assert KAF(1, bandwidth=0.7).bandwidth.item() == pytest.approx(0.7)


@pytest.mark.parametrize("name", ["relu", "elu", "swish", "tanh", "gelu", "softplus"])
def test_ridge_start_follows_the_function(name):
    layer = KAF(4, init=name).double()
    x = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None].expand(-1, 4)
    target = create_activation(name, 4)(x)
    # ReLU's kink is the one thing that a smooth mixture rounds off.
    assert (layer(x) - target).abs().max() < (0.1 if name == "relu" else 0.02)
    assert (layer.alpha == layer.alpha[0]).all()


def test_ridge_start_solves_the_printed_system():
    layer = KAF(1, init=torch.sin, ridge=1e-3, dtype=torch.float64)
    d = torch.linspace(-3, 3, 20, dtype=torch.float64)
    gram = torch.exp(-layer._gamma * (d[:, None] - d) ** 2)
    residual = gram @ layer.alpha[0] + 1e-3 * layer.alpha[0] - torch.sin(d)
    assert residual.abs().max() < 1e-10


@pytest.mark.parametrize("kernel", ["relu", "softplus"])
def test_ridge_start_with_the_other_kernels(kernel):
    layer = KAF(1, D=40, init=torch.relu, kernel=kernel, dtype=torch.float64)
    x = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    assert (layer(x) - torch.relu(x)).abs().max() < 0.15


def test_random_start():
    alpha = KAF(400, std=0.2).alpha
    assert abs(alpha.mean()) < 0.01 and abs(alpha.std() - 0.2) < 0.01
    assert KAF(400).alpha.std().item() == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize("arguments", [{}, FREE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_only_the_input_is_saved(arguments, dtype):
    layer = KAF(3, **arguments)
    x = torch.randn(64, 3, 8, 8).to(dtype).requires_grad_()
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    small = 2 * layer.alpha.numel() + 3
    large = [t for t in saved if t.numel() > small]
    assert [t.data_ptr() for t in large] == [x.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_of_the_input_is_kept_and_float32_inside(dtype):
    layer = KAF(3, init="elu")  # alphas of size 70 that cancel: hopeless in half precision
    x = torch.randn(4, 3, 5, 5).to(dtype).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype and layer.alpha.grad.dtype == torch.float32
    eps = max(torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(y.double(), oracle(layer, x), rtol=eps, atol=eps)


def test_autocast():
    layer = KAF(3, init="elu")
    x = torch.randn(4, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), layer(x.clone()))
        assert layer(x).dtype == torch.float32
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        layer(x.bfloat16()).sum().backward()
    assert layer.alpha.grad.dtype == torch.float32


@pytest.mark.parametrize("arguments", [{}, FREE])
def test_memory_formats(arguments):
    layer = KAF(6, **arguments)
    x = torch.randn(3, 6, 5, 7)
    reference = x.clone().requires_grad_()
    layer(reference).square().sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    strided = torch.randn(3, 5, 6, 9).transpose(1, 2)[..., 1:8].copy_(x)
    for variant in (x.contiguous(memory_format=torch.channels_last), strided):
        layer.zero_grad()
        variant = variant.detach().requires_grad_()
        y = layer(variant)
        y.square().sum().backward()
        torch.testing.assert_close(y, layer(x))
        torch.testing.assert_close(variant.grad, reference.grad)
        for parameter, grad in zip(layer.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-4)
    nhwc = x.contiguous(memory_format=torch.channels_last)
    assert layer(nhwc).is_contiguous(memory_format=torch.channels_last)


def test_infinite_huge_and_nan_inputs():
    layer = KAF(1, **FREE)
    x = torch.tensor([math.inf, -math.inf, 3e38, -3e38, 1e4, math.nan, 0.5])[:, None].requires_grad_()
    y = layer(x)
    assert (y[:5] == 0).all() and y[5].isnan() and y[6].isfinite()
    (grad,) = torch.autograd.grad(y[[0, 1, 2, 3, 4, 6]].sum(), x)
    assert (grad[:5] == 0).all() and grad[6] != 0
    y = layer(x[[0, 2, 6]])
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_gradients_only_where_asked():
    layer = KAF(2)
    layer.requires_grad_(False)
    x = torch.randn(3, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.alpha.grad is None
    layer.requires_grad_(True)
    layer(x.detach()).sum().backward()
    assert layer.alpha.grad is not None
    assert not layer.requires_grad_(False)(x.detach()).requires_grad


def test_state_dict_deepcopy_and_fresh_instances():
    layer = KAF(3, **FREE)
    twin = KAF(3, **FREE)
    twin.load_state_dict(layer.state_dict())
    clone = copy.deepcopy(layer)
    x = torch.randn(2, 3, 4)
    assert torch.equal(layer(x), twin(x)) and torch.equal(layer(x), clone(x))
    with torch.no_grad():
        clone.alpha.zero_()
    assert not torch.equal(layer(x), clone(x))
    assert create_activation("kaf", 3).alpha is not create_activation("kaf", 3).alpha
    assert set(KAF(3).state_dict()) == {"alpha", "dictionary", "bandwidth"}
    assert not list(KAF(3, init=torch.nn.ELU()).children())


@pytest.mark.parametrize(("name", "count"), [("kaf", 20), ("kaf_elu", 20), ("kaf_free", 41), ("swish", 0)])
def test_parameters_a_channel(name, count):
    layer = create_activation(name, 7)
    assert sum(p.numel() for p in layer.parameters()) == 7 * count


@pytest.mark.parametrize("name", ["kaf", "kaf_free"])
def test_torch_compile(name):
    layer = create_activation(name, 3)
    x = torch.randn(4, 3, 5, requires_grad=True)
    y = layer(x)
    grads = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    z = compiled(x)
    torch.testing.assert_close(z, y)
    torch.testing.assert_close(torch.autograd.grad(z.square().sum(), [x, *layer.parameters()]), grads)


@pytest.mark.parametrize("kernel", KERNELS)
def test_operator_registration(kernel):
    layer = KAF(2, D=4, kernel=kernel, trainable_dictionary=True)
    x = torch.randn(3, 2, 4, requires_grad=True)
    arguments = (x, layer.alpha, layer.dictionary, layer.bandwidth, kernel, "portable")
    library.opcheck(torch.ops.kafnets.kaf.default, arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channels", 0),
        ("D", 1),
        ("D", 2.5),
        ("boundary", -1),
        ("boundary", math.inf),
        ("bandwidth", 0),
        ("bandwidth", "silverman"),
        ("init", "reelu"),
        ("std", -0.1),
        ("ridge", 0),
        ("kernel", "cosine"),
        ("backend", "fpga"),
    ],
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got"):
        KAF(**{"channels": 3, name: value})


def test_other_errors():
    with pytest.raises(ValueError, match="trainable_bandwidth"):
        KAF(3, kernel="relu", trainable_bandwidth=True)
    with pytest.raises(ValueError, match=r"x must be \(N, 3, \*\)"):
        KAF(3)(torch.randn(2, 4))
    with pytest.raises(ValueError, match="floating"):
        KAF(3)(torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="did you mean relu"):
        create_activation("reelu", 3)
    with pytest.raises(ValueError, match="arguments of kaf"):
        create_activation("kaf", 3, depth=4)
    layer = KAF(3)
    with pytest.raises(ValueError, match="dictionary must be"):
        functional.kaf(torch.randn(2, 3), layer.alpha, layer.dictionary[:-1], layer.bandwidth)
    with pytest.raises(ValueError, match="bandwidth must be"):
        functional.kaf(torch.randn(2, 3), layer.alpha, layer.dictionary, torch.ones(2))
    with pytest.raises(ValueError, match="kernel must be"):
        functional.kaf(torch.randn(2, 3), layer.alpha, layer.dictionary, layer.bandwidth, "cosine")


def test_backend_switch(monkeypatch):
    monkeypatch.setattr(functional, "_forced", None)
    monkeypatch.setenv("KAFNETS_KAF_BACKEND", "portable")
    assert functional.get_backend() == "portable"
    functional.set_backend("plain")
    assert functional.get_backend() == "plain"
    with pytest.raises(ValueError, match="backend must be one of"):
        functional.set_backend("fpga")
    functional.set_backend("auto")
    monkeypatch.setattr(functional, "_forced", None)
    monkeypatch.setenv("KAFNETS_KAF_BACKEND", "")
    assert functional.get_backend() == "auto"


def test_an_unknown_backend_in_the_environment_is_one_line(monkeypatch):
    monkeypatch.setattr(functional, "_forced", None)
    monkeypatch.setenv("KAFNETS_KAF_BACKEND", "fpga")
    layer = KAF(3)
    for call in (
        functional.get_backend,
        lambda: layer(torch.randn(2, 3)),
        lambda: functional.active_backend("cpu"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        wanted = "must be one of auto, plain, portable, cpu, triton, got 'fpga'"
        assert str(caught.value) == f"environment variable KAFNETS_KAF_BACKEND {wanted}"


def test_repr():
    assert repr(KAF(16, init="elu")) == "KAF(16, D=20, boundary=3, bandwidth=1.6713, init=elu)"
    assert "trainable_bandwidth=True" in repr(KAF(2, **FREE))
    assert "kernel=relu" in repr(KAF(2, kernel="relu"))
