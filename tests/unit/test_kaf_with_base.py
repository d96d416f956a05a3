"""A KAF with a base: its kernels against the formula in float64, its forms, and what it is as a layer."""

import copy
import math
import pickle

import pytest
import torch
from kafnets import KAF, create_activation
from kafnets.activations.kaf import cpu, gpu, gpu_with_base
from kafnets.activations.kaf.bases import BASES, TAILS, Form, composed, kaf_with_base
from kafnets.activations.kaf.with_base import KAFWithBase
from torch import nn

from tests import interpreter

FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}
BACKEND = "triton" if interpreter.INTERPRETED else "cpu"
FUNCTIONS = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "silu": nn.functional.silu,
}

needs_kernels = pytest.mark.skipif(not (interpreter.INTERPRETED or cpu.available()), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(channels, **arguments):
    layer = KAFWithBase(channels, std=1.0, **arguments)
    with torch.no_grad():
        layer.weight += 0.3 * torch.randn_like(layer.weight)
        if isinstance(layer.dictionary, nn.Parameter):
            layer.dictionary += 0.1 * torch.randn_like(layer.dictionary)
            layer.bandwidth *= 1 + 0.2 * torch.rand_like(layer.bandwidth)
    return layer


def oracle(layer, x):
    """The formula term by term in float64; `x` in float64, differentiable."""
    alpha, dictionary, gamma = (t.detach().double() for t in layer.mixture())
    inside = x if layer.tails == "zero" else x.clamp(-layer.boundary, layer.boundary)
    columns = []
    for c in range(layer.channels):
        d, g = dictionary.expand_as(alpha)[c], gamma.expand(layer.channels)[c]
        one = (alpha[c] * torch.exp(-g * (inside[:, c, ..., None] - d) ** 2)).sum(-1)
        if layer.tails == "linear":
            for end, beyond in ((-layer.boundary, x[:, c] < 0), (layer.boundary, x[:, c] > 0)):
                slope = (alpha[c] * -2 * g * (end - d) * torch.exp(-g * (end - d) ** 2)).sum()
                one = one + beyond * slope * (x[:, c] - inside[:, c])
        w = layer.weight.detach().double().expand(layer.channels)[c]
        columns.append(w * FUNCTIONS[layer.base](x[:, c]) + one)
    return torch.stack(columns, 1)


def of_formula(layer, x, g):
    """Value, and gradients of the input and the parameters, by the plain formula in float64."""
    twin = copy.deepcopy(layer).double()
    twin.backend = "plain"
    x = x.detach().double().requires_grad_()
    y = twin(x)
    return y, *torch.autograd.grad(y, [x, *twin.parameters()], g.double())


def check(layer, x):
    """The kernels against the plain formula; errors are in units of what the sums run over."""
    g = torch.randn(x.shape).to(x)
    layer.backend = BACKEND
    x = x.detach().requires_grad_()
    y = layer(x)
    assert type(y.grad_fn).__name__ == "_WithBaseBackward"  # by a kernel, in one pass
    grads = torch.autograd.grad(y, [x, *layer.parameters()], g)
    assert y.stride() == x.stride() == grads[0].stride() and y.dtype == grads[0].dtype == x.dtype
    y64, *grads64 = of_formula(layer, x, g)
    half = torch.finfo(x.dtype).eps if x.dtype != torch.float32 else 0.0
    torch.testing.assert_close(y.double(), y64, rtol=half + 3e-7, atol=2e-5)
    torch.testing.assert_close(grads[0].double(), grads64[0], rtol=2 * half + 3e-7, atol=1e-4)
    for grad, expected in zip(grads[1:], grads64[1:], strict=True):
        assert (grad.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


FORMS = [*((base, tails) for base in BASES for tails in TAILS)]


@needs_kernels
@pytest.mark.parametrize(("base", "tails"), FORMS)
def test_kernels(base, tails):
    layer = make(5, base=base, tails=tails)
    x = 3 * torch.randn(4, 5, 7, 9)
    # where something happens, where cells end, far out
    edges = [0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0, 6.3, -6.3, 6.9, -6.9, 40.0, -40.0, 1e4, -1e4]
    x.flatten()[: len(edges)] = torch.tensor(edges)
    y64 = oracle(layer, x.double().requires_grad_())
    torch.testing.assert_close(of_formula(layer, x, x)[0], y64, rtol=1e-12, atol=1e-12)
    check(layer, x)
    if interpreter.INTERPRETED:  # which takes its time
        return
    check(
        make(32, base=base, tails=tails),
        (3 * torch.randn(3, 32, 4, 4)).contiguous(memory_format=torch.channels_last),
    )


@needs_kernels
@pytest.mark.parametrize("base", BASES)
def test_free_dictionaries_and_other_shapes(base):
    check(make(5, base=base, **FREE), 3 * torch.randn(6, 5, 8))
    check(make(3, base=base, share="layer", tails="linear"), 2 * torch.randn(40, 3))
    check(make(3, base=base, share="layer", **FREE), 2 * torch.randn(40, 3))
    check(make(3, base=base, D=50, boundary=6.0, tails="clamp"), 4 * torch.randn(2, 3, 40))
    if not interpreter.INTERPRETED:
        check(make(3, base=base, tails="linear"), (2 * torch.randn(2, 3, 33)).bfloat16())


@needs_kernels
@pytest.mark.skipif(interpreter.INTERPRETED, reason="the compiled library's own")
@pytest.mark.parametrize("tails", TAILS)
def test_layouts_and_threads_have_the_same_bits(tails):
    """Sixteen channels at a time, through tiles or rows: each point gets the same, far points and NaN too."""
    layer = make(32, tails=tails)
    x, g = 4 * torch.randn(9, 32, 8, 8), torch.randn(9, 32, 8, 8)
    x.flatten()[::37] *= 100
    x.flatten()[::101] = math.nan
    threads, found = torch.get_num_threads(), []
    try:
        for count, layout in (
            (1, torch.contiguous_format),
            (3, torch.channels_last),
            (2, torch.channels_last),
        ):
            torch.set_num_threads(count)
            at = x.contiguous(memory_format=layout).requires_grad_()
            y = layer(at)
            found.append((y, torch.autograd.grad(y, at, g.contiguous(memory_format=layout))[0]))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(
            torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(found[0], other, strict=True)
        )


@needs_kernels
def test_nan_and_nothing():
    layer = make(2, tails="linear")
    layer.backend = BACKEND
    x = torch.randn(40, 2)
    x[3, 0] = math.nan
    y = layer(x.requires_grad_())
    grad_x, weight, alpha = torch.autograd.grad(y.sum(), [x, layer.weight, layer.alpha])
    assert y.isnan().sum() == grad_x.isnan().sum() == 1 and y[3, 0].isnan()
    if not interpreter.INTERPRETED:
        assert weight[0].isnan() and alpha[0].isnan().any()
    assert weight[1].isfinite() and alpha[1].isfinite().all()
    empty = torch.zeros(0, 2, 4, requires_grad=True)
    y = layer(empty)
    assert y.shape == (0, 2, 4)
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), layer.parameters()))


@interpreter.inside
def test_the_gpu_code_agrees():
    assert gpu_with_base.agrees(torch.device("cpu"))


def test_gpu_code_that_computes_wrongly_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(gpu_with_base, "forward", lambda x, *_: x + 1)
    monkeypatch.setattr(gpu_with_base, "backward", lambda grad, x, *_: (x, x, x, None, None))
    assert not gpu_with_base.agrees(torch.device("cpu")) and "results differ" in caplog.text


def test_triton_kernels_in_the_interpreter():
    interpreter.run(__file__, "agrees or nan")


@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel):
    compiler = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    from kafnets.activations.kaf import triton_kernels

    layer = KAFWithBase(16, base="elu", tails="linear")
    x = torch.empty(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    _, arguments = gpu._launch(x, *layer.mixture())
    arguments |= gpu_with_base._of_base(layer.weight, Form("elu", "linear", 3.0))
    constants = {name: value for name, value in arguments.items() if name.isupper()}
    constants |= {"NEEDS_X": True, "ORDER": 0, "NEEDS_BASE": True} if kernel == "backward" else {}
    function = getattr(triton_kernels, kernel)
    types = dict.fromkeys(("x", "y", "g", "grad_x"), "*bf16") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(
        ("alpha", "dictionary", "bandwidth", "sums", "base_weight", "ends", "base_sums"), "*fp32"
    )
    types |= dict.fromkeys(("points", "channels", "stride_c"), "i32") | {"boundary": "fp32"}
    signature = {name: types[name] for name in function.arg_names}
    constants = {(function.arg_names.index(name),): value for name, value in constants.items()}
    compiled = compiler.compile(compiler.ASTSource(function, signature, constants, {}), target=target)
    assert "sm_90" in compiled.asm["ptx"]


# -- the layer


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("parametrisation", ["alpha", "values"])
def test_it_starts_as_the_base(base, tails, parametrisation):
    """The fixed activation is the network without the kernels: in float64 to the bit."""
    layer = KAFWithBase(3, base=base, tails=tails, parametrisation=parametrisation)
    x = (5 * torch.randn(64, 3, 4)).requires_grad_()
    expected = FUNCTIONS[base](x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=5e-7)
    wide = x.detach().double().requires_grad_()
    y, fixed = layer.double()(wide), FUNCTIONS[base](wide)
    assert torch.equal(y, fixed)
    slopes = [torch.autograd.grad(one.sum(), wide)[0] for one in (y, fixed)]
    assert torch.equal(*slopes)


def test_kernels_of_several_layers_do_not_take_it_for_a_kaf():
    assert create_activation("kaf_elu_base", 4).inlined(torch.float32) is None


def test_without_a_base_it_is_a_kaf():
    layer, plain = make(4), KAF(4)
    with torch.no_grad():
        plain.alpha.copy_(layer.alpha)
        layer.weight.zero_()
    x = 3 * torch.randn(9, 4, 5)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-6, atol=3e-6)


def test_values_are_those_at_the_dictionary():
    layer = KAFWithBase(3, parametrisation="values", ridge=1e-9)
    wanted = torch.randn(3, 20)
    with torch.no_grad():
        layer.values.copy_(wanted)
        layer.weight.zero_()
    torch.testing.assert_close(layer(layer.dictionary[:, None].repeat(1, 3)).T, wanted, rtol=0, atol=2e-2)
    exact = layer.double()(layer.dictionary[:, None].repeat(1, 3)).T
    torch.testing.assert_close(exact, wanted.double(), rtol=0, atol=5e-3)  # as even as float32 has the points
    assert set(layer.state_dict()) == {"values", "weight", "dictionary", "bandwidth"}


@pytest.mark.parametrize("parametrisation", ["alpha", "values"])
def test_casts_copies_and_the_step_of_either_parametrisation(parametrisation):
    layer = make(3, parametrisation=parametrisation, tails="linear")
    if parametrisation == "values":
        with torch.no_grad():
            layer.values.mul_(0.01)
    x = torch.randn(8, 3, 4)
    y = layer(x)
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),  # noqa: S301
        copy.deepcopy(layer).half().float(),
    ):
        assert torch.equal(twin(x), y) and repr(twin) == repr(layer)
    assert {p.dtype for p in layer.half().parameters()} == {torch.float32}
    assert layer(x.half()).dtype == torch.float16
    torch.testing.assert_close(layer(x.half()).float(), layer(x.half().float()), rtol=2e-3, atol=2e-3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    before = y.square().mean().item()
    for _ in range(5):
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
    assert layer(x).square().mean().item() < before


def test_only_the_input_is_saved():
    layer = make(3, tails="linear")
    x = torch.randn(64, 3, 8, 8, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert [t.data_ptr() for t in saved if t.numel() > 100] == [x.data_ptr()]


@pytest.mark.parametrize("tails", TAILS)
def test_second_derivatives_behind_the_kernels(tails):
    """Of float32, through the fast code once and then through the formula: against float64."""
    layer = make(3, tails=tails)
    x, v = torch.randn(2, 9, 3)
    found = []
    for dtype in (torch.float32, torch.float64):
        twin, at = copy.deepcopy(layer).to(dtype), x.to(dtype).requires_grad_()
        (slope,) = torch.autograd.grad(twin(at).square().sum(), at, create_graph=True)
        found.append(torch.autograd.grad((slope * v.to(dtype)).sum(), [at, *twin.parameters()]))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


def test_transforms_and_the_composed_form():
    layer = make(3, tails="linear")
    x = 2 * torch.randn(5, 3)
    form = Form(layer.base, layer.tails, layer.boundary)
    assert torch.equal(
        composed(x, layer.weight, *layer.mixture(), form, "portable"),
        kaf_with_base(x, layer.weight, *layer.mixture(), form, "portable"),
    )
    each = torch.func.vmap(torch.func.grad(lambda x: layer(x[None]).sum()))(x)
    at = x.clone().requires_grad_()
    torch.testing.assert_close(each, torch.autograd.grad(layer(at).sum(), at)[0], rtol=1e-4, atol=1e-5)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-5)


def test_what_does_not_go_together():
    for wrong in ({"tails": "clamp"}, {"parametrisation": "values"}):
        with pytest.raises(ValueError, match=r"^trainable_bandwidth must be False with"):
            KAFWithBase(3, trainable_bandwidth=True, **wrong)
    assert "base=elu, std=0, tails=zero" in repr(create_activation("kaf_elu_base", 3))
