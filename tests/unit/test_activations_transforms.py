"""KAF under torch.func, in forward mode, traced and exported; the oracle is the formula in float64."""

import pytest
import torch
from kafnets import KAF, create_model
from kafnets.activations.kaf import functional
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}
LAYERS = {
    "gaussian": {"std": 1.0},
    "free": {"std": 1.0, **FREE},
    "free dictionary": {"trainable_dictionary": True},
    "free bandwidth": {"trainable_bandwidth": True},
    "softplus": {"kernel": "softplus", "trainable_dictionary": True},
}
every_layer = pytest.mark.parametrize("arguments", LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(arguments, channels=3, D=6):
    layer = KAF(channels, D=D, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return layer


def formula(layer):
    """(parameters, x) -> the printed formula in float64; parameters not given are those of `layer`."""

    def function(parameters, x):
        names = ("alpha", "dictionary", "bandwidth")
        tensors = [parameters.get(name, getattr(layer, name)).double() for name in names]
        return functional.kaf_plain(x.double(), *tensors, layer.kernel)

    return function


def both(layer):
    """The layer and the formula as functions of (parameters, x), and the parameters."""
    return (
        lambda parameters, x: functional_call(layer, parameters, (x,)),
        formula(layer),
        {name: p.detach() for name, p in layer.named_parameters()},
    )


def assert_same(found, expected, tolerance=2e-5):
    pairs = zip(*(torch.utils._pytree.tree_leaves(t) for t in (found, expected)), strict=True)
    for one, other in pairs:
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance * scale)


def weighted(function, weights):
    return lambda parameters, x: (function(parameters, x) * weights).sum()


@every_layer
def test_gradients_of_each_sample(arguments):
    for shape in ((4, 3, 5), (4, 3), (2, 3, 3, 3)):
        check_gradients_of_each_sample(arguments, shape)


def check_gradients_of_each_sample(arguments, shape):
    layer, expected, parameters = both(make(arguments))
    x, weights = torch.randn(2, *shape)
    found, reference = (
        vmap(grad(lambda p, x, f=f: (f(p, x[None])[0] * weights[0]).square().sum(), (0, 1)), (None, 0))(
            parameters, x
        )
        for f in (layer, expected)
    )
    assert_same(found, reference)


@every_layer
@pytest.mark.parametrize("in_dims", [(None, 0), (None, 2), (0, None), (0, -1), (-1, 1)])
def test_vmapped_over_inputs_and_over_ensembles(arguments, in_dims):
    layer, expected, parameters = both(make(arguments))
    variants, inputs = [1.0, 1.1, 0.8], torch.randn(3, 4, 3, 5)
    of_parameters, of_inputs = in_dims
    if of_parameters is not None:
        parameters = {
            name: torch.stack([p * v for v in variants], of_parameters) for name, p in parameters.items()
        }
    x = inputs[0] if of_inputs is None else inputs.movedim(0, of_inputs)
    assert_same(vmap(layer, in_dims)(parameters, x), vmap(expected, in_dims)(parameters, x))
    slopes = (
        vmap(grad(lambda p, x, f=f: f(p, x).square().sum(), (0, 1)), in_dims)(parameters, x)
        for f in (layer, expected)
    )
    assert_same(*slopes)


def test_an_ensemble_as_torch_func_stacks_it():
    layers = [make(FREE) for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = torch.randn(4, 3, 5)
    found = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    assert_same(found, torch.stack([layer(x) for layer in layers]))


@every_layer
def test_jacobians_and_hessians(arguments):
    layer, expected, parameters = both(make(arguments, channels=2, D=4))
    x = torch.randn(3, 2, 2)
    for transform in (jacrev, jacfwd):
        assert_same(transform(layer, (0, 1))(parameters, x), transform(expected, (0, 1))(parameters, x))
    weights = torch.randn(3, 2, 2)
    scalars = [weighted(f, weights) for f in (layer, expected)]
    reference = hessian(scalars[1], (0, 1))(parameters, x)
    assert_same(hessian(scalars[0], (0, 1))(parameters, x), reference)
    for outer, inner in ((jacrev, jacrev), (jacfwd, jacfwd), (jacrev, jacfwd)):
        assert_same(outer(inner(scalars[0], (0, 1)), (0, 1))(parameters, x), reference)


@every_layer
def test_products_with_jacobians(arguments):
    layer, expected, parameters = both(make(arguments))
    x, tangent = torch.randn(2, 4, 3, 5)
    directions = {name: torch.randn_like(p) for name, p in parameters.items()}
    for transform in (
        lambda f: jvp(f, (parameters, x), (directions, tangent)),
        lambda f: vjp(f, parameters, x)[1](tangent.to(f(parameters, x))),
        lambda f: jvp(lambda x: grad(weighted(f, 1), 1)(parameters, x), (x,), (tangent,)),
        lambda f: torch.func.linearize(lambda x: f(parameters, x), x)[1](tangent),
        lambda f: torch.autograd.functional.jacobian(lambda x: f(parameters, x), x, vectorize=True),
        lambda f: torch.autograd.functional.hvp(lambda x: weighted(f, 1)(parameters, x), x, tangent),
    ):
        assert_same(transform(layer), transform(expected))


def test_vmap_and_reverse_mode_keep_the_fast_code(monkeypatch):
    """The formula holds D times the input: too much for the gradients of each sample of a network."""
    layer, _, parameters = both(make(FREE))
    monkeypatch.delattr(functional, "kaf_plain")
    x = torch.randn(4, 3, 5)
    vmap(grad(lambda p, x: layer(p, x[None]).sum(), (0, 1)), (None, 0))(parameters, x)
    jacrev(layer, (0, 1))(parameters, x)
    with pytest.raises(NameError, match="kaf_plain"):
        jacfwd(layer)(parameters, x)


def test_forward_mode_without_torch_func():
    layer = make(FREE)
    x, tangent = torch.randn(2, 4, 3, 5)
    with torch.autograd.forward_ad.dual_level():
        y = layer(torch.autograd.forward_ad.make_dual(x, tangent))
        found = torch.autograd.forward_ad.unpack_dual(y)
    _, expected, parameters = both(layer)
    assert_same(tuple(found), jvp(lambda x: expected(parameters, x), (x,), (tangent,)))


@every_layer
def test_every_order_and_direction_by_finite_differences(arguments):
    layer = make(arguments, channels=2, D=3).double()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *parameters)
    assert torch.autograd.gradcheck(
        function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("arguments", [{}, FREE])
def test_infinite_inputs_inside_transforms(arguments):
    layer = make(arguments)
    x = torch.tensor([torch.inf, -torch.inf, 3e38, 1e4, torch.nan])[:, None].repeat(1, 3)
    for slope in (vmap(grad(lambda x: layer(x[None]).sum()))(x), jvp(layer, (x,), (torch.ones_like(x),))[1]):
        assert not slope[:4].any() and slope[4].isnan().all()
    second = hessian(lambda x: layer(x[None]).sum())(x[0])
    assert not second.any()


def test_the_float16_arithmetic_inside_transforms():
    rounded, exact = (
        KAF(3, init="elu", arithmetic=arithmetic, **FREE) for arithmetic in ("float16", "float32")
    )
    many = torch.randn(5, 4, 3, 2)
    x, tangent = many[0], many[1]
    assert torch.equal(vmap(rounded)(many), torch.stack([rounded(x) for x in many]))
    value, slope = jvp(rounded, (x,), (tangent,))
    assert torch.equal(value, rounded(x))
    assert_same(slope, jvp(exact, (x,), (tangent,))[1])
    assert_same(jacrev(rounded)(x), jacrev(exact)(x))
    each = [vmap(grad(lambda x, f=f: f(x[None]).sum()))(x) for f in (rounded, exact)]
    assert_same(*each)
    assert torch.equal(torch.jit.trace(rounded, x)(tangent), rounded(tangent))


# -- written down for elsewhere ------------------------------------------------------------------------------


def operators(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize(
    ("arguments", "strict"), [({}, True), (FREE, False), ({"arithmetic": "float16"}, False)]
)
def test_an_exported_layer_is_made_of_torchs_own_operators(arguments, strict):
    layer = make(arguments)
    x, more = torch.randn(4, 3, 5), torch.randn(9, 3, 5)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(layer, (x,), strict=strict, dynamic_shapes=batch)
    assert all(name.startswith("aten.") for name in operators(program.run_decompositions()))
    assert_same(program.module()(more), layer(more))


def test_an_exported_network():
    model = create_model("resnet8", "kaf_elu").eval()
    x = torch.rand(2, 3, 32, 32)
    program = torch.export.export(model, (x,))
    assert not any("kafnets" in name for name in operators(program))
    assert_same(program.module()(x), model(x), 1e-4)


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(tmp_path, dynamo):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = make(FREE).eval()
    x, path = torch.randn(4, 3, 5), tmp_path / "layer.onnx"
    torch.onnx.export(layer, (x,), path, dynamo=dynamo)
    session = onnxruntime.InferenceSession(path)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_same(torch.from_numpy(y), layer(x))


@pytest.mark.parametrize("arguments", [{}, FREE])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_layer_can_be_saved(arguments, tmp_path):
    layer = make(arguments)
    x = torch.randn(4, 3, 5)
    torch.jit.save(torch.jit.trace(layer, x), tmp_path / "layer.pt")
    assert_same(torch.jit.load(tmp_path / "layer.pt")(2 * x), layer(2 * x))


def test_traced_by_fx_it_is_one_call():
    layer = make(FREE)
    traced = torch.fx.symbolic_trace(layer)
    x = torch.randn(4, 3, 5)
    assert sum(node.op == "call_function" for node in traced.graph.nodes) == 1
    assert torch.equal(traced(x), layer(x))


@pytest.mark.parametrize("arguments", [{}, FREE])
def test_dispatch_modes_see_it(arguments):
    """A backend reads memory, which fake tensors do not have and make_fx must not take for a constant."""
    layer = make(arguments)
    x, other = torch.randn(2, 4, 3, 5)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == x.shape
    assert_same(make_fx(layer)(x)(other), layer(other))
    each = vmap(grad(lambda x: layer(x[None]).square().sum()))
    assert_same(make_fx(each)(x)(other), each(other))


def test_compiled_transforms():
    layer = make(FREE)
    x = torch.randn(4, 3, 5)
    each = vmap(grad(lambda x: layer(x[None]).square().sum()))
    assert_same(torch.compile(each, backend="aot_eager", fullgraph=True)(x), each(x))
