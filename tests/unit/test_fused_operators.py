"""Normalisation, addition and activation in one: the Triton kernels against torch's layers in float64.

The kernels run in Triton's interpreter, in a process of their own.
"""

import contextlib
import copy
import functools
import itertools

import pytest
import torch
from kafnets.activations import create_activation
from kafnets.activations.kaf import functional, gpu
from kafnets.models.fused import gpu as gpu_kernels
from kafnets.models.fused import trial
from kafnets.models.fused.operators import normalise_activate, plain
from torch import nn

from tests import interpreter, recorded

pytest.importorskip("triton")
if interpreter.INTERPRETED:
    interpreter.mend()

LAST, FIRST = torch.channels_last, torch.contiguous_format
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = {
    "identity": {},
    "relu": {},
    "elu": {"alpha": 0.7},
    "swish": {},
    "tanh": {},
    "gelu": {},
    "gelu tanh": {"approximate": "tanh"},
    "softplus": {"beta": 2.0, "threshold": 1.0},
    "kaf": {"std": 1.0},
    "kaf_elu": {"D": 17, "bandwidth": "reference"},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def layers(name, channels, **settings):
    norm = nn.BatchNorm2d(channels, **{"eps": 1e-3, "momentum": 0.1, **settings})
    activation = nn.Identity()
    if name != "identity":
        activation = create_activation(name.split()[0], channels, **ACTIVATIONS.get(name, {}))
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return norm, activation


def images(shape, dtype=torch.float32, layout=LAST, offset=0.0):
    values = 2 * torch.randn(shape) + offset
    if dtype == torch.bfloat16:  # sixteenths, of which sums are exact: the interpreter rounds towards zero
        values = values.clamp(-3, 3).mul(16).round().div(16)
    values = values.to(dtype)
    return values.contiguous(memory_format=layout).requires_grad_()


def results(code, norm, activation, tensors, grads, shift):
    """Outputs and gradients of all that needs one, by name, and the buffers of `norm` afterwards."""
    outputs = code(norm=norm, activation=activation, shift=shift, copies=len(grads), **tensors)
    outputs = outputs if len(grads) > 1 else (outputs,)
    parameters = {f"norm.{name}": p for name, p in norm.named_parameters()}
    parameters |= {f"activation.{name}": p for name, p in activation.named_parameters()}
    wanted = {name: t for name, t in (tensors | parameters).items() if t.requires_grad}
    found = torch.autograd.grad(outputs, list(wanted.values()), [g.to(outputs[0].dtype) for g in grads])
    return list(outputs), dict(zip(wanted, found, strict=True)), dict(norm.named_buffers())


def check(norm, activation, tensors, copies=1, shift=None, scale=1.0):
    """The kernels against `plain` in float64, given the sums as the kernels round them."""
    x = tensors["x"]
    grads = [torch.randn(x.shape).to(x.dtype).contiguous(memory_format=LAST) for _ in range(copies)]
    norm64, activation64 = copy.deepcopy(norm).double(), copy.deepcopy(activation).double()
    exact = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in tensors.items()}
    exact.pop("added", None)
    if "added" in tensors:
        exact["x"] = (x.detach() + tensors["added"].detach()).double().requires_grad_()
    shift64 = None if shift is None else shift.double()
    outputs, found, buffers = results(normalise_activate, norm, activation, tensors, grads, shift)
    outputs64, found64, buffers64 = results(plain, norm64, activation64, exact, grads, shift64)
    if "added" in tensors:
        assert found["added"] is found["x"]
        found64["added"] = found64["x"]
    eps = torch.finfo(x.dtype).eps if x.dtype != torch.float32 else 0.0
    assert found.keys() == found64.keys() and len(outputs) == copies
    for y, y64 in zip(outputs, outputs64, strict=True):
        assert (y.dtype, y.stride(), y.data_ptr()) == (x.dtype, x.stride(), outputs[0].data_ptr())
        torch.testing.assert_close(
            y.double(), y64, rtol=eps, atol=scale * 2e-5 * y64.detach().abs().max().item()
        )
    for name, grad in found.items():
        most, error = found64[name].abs().max().clamp(min=0.1), (grad.double() - found64[name]).abs().max()
        assert error <= (scale * 4e-5 + 2 * eps) * most, (name, error / most)
        if name in tensors:
            assert (grad.dtype, grad.stride()) == (x.dtype, x.stride())
    assert buffers.keys() == buffers64.keys()
    for name, buffer in buffers.items():
        # the oracle's shift is part of its input: its variance is that of larger numbers
        torch.testing.assert_close(buffer.double(), buffers64[name].double(), rtol=scale * 1e-5, atol=1e-6)


SITES = {
    "alone": ((), 1, False),
    "added": (("added",), 1, True),
    "residual": (("residual",), 2, False),
    "both": (("added", "residual"), 3, True),
}


def check_site(site, name, shape, dtype, layout, **settings):
    given, copies, shifted = SITES[site]
    norm, activation = layers(name, shape[1], **settings)
    tensors = {name: images(shape, dtype, layout) for name in ("x", *given)}
    check(norm, activation, tensors, copies, torch.randn(shape[1]) if shifted else None)


@interpreter.inside
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, site):
    check_site(site, name, (3, 5, 6, 7), torch.float32, LAST)


@interpreter.inside
@pytest.mark.parametrize(("dtype", "layout"), [*itertools.product(DTYPES, (FIRST, LAST))])
@pytest.mark.parametrize("name", ["relu", "kaf"])
def test_dtypes_and_layouts(name, dtype, layout):
    for site in ("added", "residual"):
        check_site(site, name, (2, 2 if layout is FIRST else 16, 3, 3), dtype, layout)


@interpreter.inside
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *[
            ("swish", (2, 1, 1, 1)),
            ("swish", (2, 3, 1, 1)),
            ("swish", (1, 64, 2, 1)),
            ("swish", (2, 3, 32, 31)),
        ],
        *[("kaf", (2, 3, 1, 1)), ("kaf", (3, 17, 9, 5)), ("kaf", (70, 2, 4, 4))],
    ],
)
def test_shapes(name, shape):
    # a program for each channel where they do not lie side by side: many, for the interpreter
    for layout in (FIRST, LAST) if shape[1] < 4 else (LAST,):
        check_site("residual", name, shape, torch.float32, layout)


@interpreter.inside
@pytest.mark.parametrize("layout", [FIRST, LAST])
def test_several_tiles_in_each_of_several_programs(layout, monkeypatch):
    from kafnets.models.fused import triton_launch

    for name, value in (("_PARTS", 8), ("_PROGRAMS", 3), ("_WARPS", {8: 1, 3: 1})):
        monkeypatch.setattr(triton_launch, name, value)
    for name in ("elu", "kaf"):
        check_site("both", name, (2, 2, 17, 11), torch.float32, layout)


@interpreter.inside
@pytest.mark.parametrize("offset", [1e3, -3e4])
def test_a_mean_far_from_zero(offset):
    """Sums of squares would lose the variance altogether: 4 beside 9e8."""
    norm, activation = layers("swish", 4)
    x = images((40, 4, 9, 9), offset=offset)
    # what remains is the rounding of the mean itself, in units of the standard deviation
    check(norm, activation, {"x": x}, scale=1 + 0.005 * abs(offset))
    torch.testing.assert_close(
        norm.running_var.double(), 0.9 + 0.1 * x.double().var((0, 2, 3)), rtol=1e-5, atol=0
    )


@interpreter.inside
@pytest.mark.parametrize(
    "settings",
    [{"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"momentum": 0.0}, {"eps": 1e-8}],
)
def test_settings_of_the_normalisation(settings):
    norm, activation = layers("relu", 5, **settings)
    for _ in range(3):
        check(norm, activation, {"x": images((2, 5, 4, 4))}, shift=torch.randn(5))


@interpreter.inside
@pytest.mark.parametrize("name", ["relu", "kaf"])
def test_only_the_gradients_that_are_needed(name, monkeypatch):
    from kafnets.models.fused import triton_launch

    asked = []
    backward = triton_launch._backward
    monkeypatch.setattr(triton_launch, "_backward", lambda *a: asked.append(backward(*a)) or asked[-1])
    norm, activation = layers(name, 5)
    norm.requires_grad_(False)
    activation.requires_grad_(False)
    tensors = {"x": images((2, 5, 4, 4)), "residual": images((2, 5, 4, 4)).detach()}
    check(norm, activation, tensors)
    assert [g is not None for g in asked[0]] == [True, False, False, False, False]
    norm.weight.requires_grad_()
    check(norm, activation, {"x": tensors["residual"]})


@interpreter.inside
def test_one_of_two_copies_has_no_gradient_and_none_has():
    norm, activation = layers("swish", 3)
    x = images((2, 3, 4, 4))
    _, second = normalise_activate(x, norm, activation, copies=2)
    (grad,) = torch.autograd.grad(second.sum(), x)
    (expected,) = torch.autograd.grad(plain(x, norm, activation).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert not normalise_activate(x, norm, activation).requires_grad


@interpreter.inside
def test_any_memory_of_the_gradient():
    norm, activation = layers("relu", 3)
    x = images((2, 3, 4, 4))
    for make in (lambda y: y.mean((2, 3)).square().sum(), lambda y: (y.contiguous() ** 2).sum()):
        (grad,), (expected,) = (
            torch.autograd.grad(make(code(x, norm, activation)), x) for code in (normalise_activate, plain)
        )
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


@interpreter.inside
def test_nan_goes_through():
    for name in ACTIVATIONS:
        norm, activation = layers(name, 2)
        x = images((2, 2, 4, 4))
        with torch.no_grad():
            x[0, 0, 0, 0] = float("nan")
        y = normalise_activate(x, norm, activation)
        (grad,) = torch.autograd.grad(y.sum(), x)
        for found in (y, grad, norm.running_mean[None], norm.running_var[None]):
            assert found[:, 0].isnan().all() and found[:, 1].isfinite().all(), name


@interpreter.inside
def test_the_same_bits_again():
    norm, activation = layers("kaf", 5)
    tensors = {"x": images((9, 5, 8, 8)), "residual": images((9, 5, 8, 8))}
    grads = [torch.randn(9, 5, 8, 8)] * 2
    (one, other) = (results(normalise_activate, norm, activation, tensors, grads, None)[:2] for _ in range(2))
    assert torch.equal(one[0][0], other[0][0])
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@interpreter.inside
def test_a_second_derivative_is_refused():
    norm, activation = layers("swish", 3)
    x = images((2, 3, 4, 4))
    (grad,) = torch.autograd.grad(
        normalise_activate(x, norm, activation).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@interpreter.inside
def test_the_kernels_pass_their_own_trial(caplog):
    for name, (given, copies) in itertools.product(("relu", "kaf"), ((set(), 1), ({"residual", "shift"}, 2))):
        norm, activation = layers(name, 5)
        x = images((1, 5, 2, 2), torch.bfloat16)
        assert trial.agrees(gpu_kernels.fused, plain, x, norm, activation, given, copies)
    assert not caplog.records


@contextlib.contextmanager
def fused_calls(monkeypatch):
    calls = []
    fused = gpu_kernels.fused
    with monkeypatch.context() as patch:
        patch.setattr(gpu_kernels, "fused", lambda *a, **k: calls.append(a) or fused(*a, **k))
        yield calls


@interpreter.inside
def test_what_the_kernels_do_not_cover(monkeypatch):
    """It is computed all the same; of an activation that they do not have, the rest is still theirs."""

    class Own(nn.ReLU):
        def forward(self, x):
            return x.cos()

    norm, relu = layers("relu", 4)
    hooked, _ = layers("relu", 4)
    hooked.register_forward_hook(lambda *_: None)
    hooked_relu = nn.ReLU()
    hooked_relu.register_full_backward_hook(lambda *_: None)
    uneven = create_activation("kaf", 4)
    with torch.no_grad():
        uneven.dictionary[3] += 0.1
    x, flat = images((2, 4, 4, 4)), torch.randn(2, 4, 4, 4)[:, :, ::2]
    wide, doubled = nn.BatchNorm2d(4).double(), x.detach().double()
    cases = [  # arguments, whether anything is left to the kernels
        ((x, norm, relu), True),
        ((x, norm, Own()), True),
        ((x, norm, hooked_relu), True),
        ((x, norm, uneven), True),
        ((x, norm, create_activation("kaf_free", 4)), True),
        ((x, norm, create_activation("kaf", 4, backend="portable")), True),
        ((x, hooked, relu), False),
        ((x, copy.deepcopy(norm).eval(), relu), False),
        ((x, nn.SyncBatchNorm(4).eval(), relu), False),
        ((flat, norm, relu), False),
        ((doubled, wide, relu), False),
    ]
    for (x, norm, activation), is_fused in cases:
        with fused_calls(monkeypatch) as calls:
            y = normalise_activate(x, norm, activation, copies=2)[1]
        torch.testing.assert_close(y, plain(x, norm, activation), rtol=1e-4, atol=1e-5)
        assert bool(calls) == is_fused
    with fused_calls(monkeypatch) as calls:
        one = torch.randn(1, 4, 1, 1)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            normalise_activate(one, norm.float(), relu)
        x, norm = torch.randn(2, 4, 3, 3), nn.BatchNorm2d(4, track_running_stats=False)
        gradient = torch.func.grad(lambda x: normalise_activate(x, norm, relu).square().sum())
        torch.testing.assert_close(
            gradient(x), torch.func.grad(lambda x: plain(x, norm, relu).square().sum())(x)
        )
    assert not calls


@interpreter.inside
def test_a_dictionary_that_was_changed_is_looked_at_again():
    layer = create_activation("kaf", 4)
    assert layer.inlined(torch.float32).sizes == (20, 2, 10)
    assert layer.inlined(torch.bfloat16).sizes == (20, 1, 20)
    with torch.no_grad():
        layer.bandwidth *= 4
    assert layer.inlined(torch.bfloat16).sizes == (20, 2, 10)
    with torch.no_grad():
        layer.dictionary[1] += 0.1
    assert layer.inlined(torch.float32) is None
    assert create_activation("kaf", 4, D=25).inlined(torch.float32) is None
    functional.set_backend("portable")
    try:
        assert create_activation("kaf", 4).inlined(torch.float32) is None
    finally:
        functional.set_backend("auto")


def test_groups_of_points_have_their_middles():
    for points, narrow in itertools.product(range(2, 30), (1 / 8, 1 / 6, 1.0, 3.0, 50.0)):
        sizes = gpu._groups(points, narrow, 10)
        if sizes:
            _, groups, size = sizes
            assert (groups - 1) * size + size // 2 < points <= groups * size and narrow * size**2 <= 80
    assert gpu._groups(20, 1 / 6, 10) == (20, 2, 10) and gpu._groups(20, 5.0, 10) is None


def test_kernels_that_compute_wrongly_or_fail_are_not_used(caplog):
    norm, activation = layers("relu", 4)
    x = images((2, 4, 4, 4))
    check = functools.partial(trial.agrees, oracle=plain, x=x, norm=norm, activation=activation, copies=1)
    assert check(plain, given={"added"}) and not caplog.records
    state = torch.get_rng_state()
    assert not check(lambda x, *a, **k: plain(x * 1.1 + 0.1, *a, **k), given=set())
    assert "results differ" in caplog.text and torch.equal(state, torch.get_rng_state())

    def broken(*_, **__):
        raise RuntimeError("no kernel image\nand more")

    assert not check(broken, given=set())
    assert "no kernel image" in caplog.text and "and more" not in caplog.text


@interpreter.outside
def test_the_kernels_in_the_interpreter():
    interpreter.run(__file__)


def launches(name, dtype, layout, shape, site, monkeypatch):
    """The launches of a training pass of a site, forward and backward, without a GPU."""
    from kafnets.models.fused import triton_kernels

    names = ("statistics", "apply", "backward_sums", "backward_input")
    recorded_launches = recorded.record(triton_kernels, names, monkeypatch)
    given, copies, shifted = SITES[site]
    norm, activation = layers(name, shape[1])
    tensors = {key: torch.empty(shape, dtype=dtype).contiguous(memory_format=layout) for key in ("x", *given)}
    tensors = {key: tensor.requires_grad_() for key, tensor in tensors.items()}
    shift = torch.zeros(shape[1]) if shifted else None
    outputs = gpu_kernels.fused(norm=norm, activation=activation, shift=shift, copies=copies, **tensors)
    outputs = outputs if copies > 1 else (outputs,)
    torch.autograd.grad(outputs, [*tensors.values(), *norm.parameters(), *activation.parameters()], outputs)
    return {launch.function.__name__: launch for launch in recorded_launches}


@interpreter.outside
@pytest.mark.parametrize(
    ("shape", "least"), [((128, 16, 32, 32), 128), ((128, 32, 16, 16), 128), ((128, 64, 8, 8), 64)]
)
def test_the_work_is_spread_over_the_gpu(shape, least, monkeypatch):
    """The sites of a ResNet: every position is somebody's, the partial sums are few."""
    batch, channels, rows, columns = shape
    for launch in launches("kaf", torch.bfloat16, LAST, shape, "residual", monkeypatch).values():
        parts, groups = launch.grid
        share, block = launch.arguments["share"], launch.arguments["BLOCK_P"]
        assert parts * share >= batch * rows * columns > (parts - 1) * share and share % block == 0
        assert groups * launch.arguments["BLOCK_C"] == channels
        assert least <= parts * groups <= 256
        assert launch.arguments.get("PARTS", parts) >= launch.arguments.get("parts", parts)


@interpreter.outside
@pytest.mark.parametrize(
    ("name", "layout", "site"),
    [
        ("kaf", LAST, "added"),
        ("swish", LAST, "residual"),
        ("relu", FIRST, "both"),
        ("kaf", FIRST, "residual"),
    ],
)
def test_compiled_for_a_gpu_that_is_not_here_nothing_is_spilled(name, layout, site, monkeypatch):
    found = launches(name, torch.bfloat16, layout, (128, 16, 32, 32), site, monkeypatch)
    assert len(found) == 4
    for kernel, launch in found.items():
        compiled = recorded.compile_for(launch)
        assert "sm_90" in compiled.ptx and compiled.spilled == 0, kernel
        # as many threads as are launched fit a multiprocessor's 65,536 registers
        assert compiled.registers * 32 * launch.options["num_warps"] <= 65536, kernel
