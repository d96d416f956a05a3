"""The activations beside the KAF: each against its formula in NumPy, and what all have in common."""

import copy
import pickle

import numpy
import pytest
import torch
from kafnets import create_activation, create_model, load_model, save_model
from kafnets.activations import layer_factory, layers_of
from kafnets.activations.base import Learned
from kafnets.models.create import count_parameters
from kafnets.registry import ACTIVATIONS
from kafnets.runtime.errors import UserError
from scipy.interpolate import CubicHermiteSpline, make_interp_spline
from torch.autograd.graph import saved_tensors_hooks

LEARNED = [name for name, entry in ACTIVATIONS.items() if issubclass(entry.load(), Learned)]
DIFFERENTIATED = [*LEARNED, "kaf_elu_base", "maxmin", "kwta"]
SHARING = [name for name, entry in ACTIVATIONS.items() if entry.learns]
# Small, and with no kink where a finite difference would meet it.
SMALL = {
    "linear_spline": {"knots": 7, "init": "tanh"},
    "lipschitz_spline": {"knots": 7, "init": "tanh"},
    "cubic_spline": {"knots": 7},
    **{name: {"D": 4, "std": 0.5} for name in SHARING if name.startswith("kaf")},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def shaken(name, channels=4, **arguments):
    """A layer whose parameters have left their start."""
    layer = create_activation(name, channels, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return layer


def softplus(x):
    return numpy.logaddexp(0, x)


def sigmoid(x):
    return 1 / (1 + numpy.exp(-x))


def relu(x):
    return numpy.maximum(x, 0)


def splines(x, c, reach, tails="linear"):
    """numpy.interp within the knots, on the last pieces' lines beyond."""
    knots = numpy.linspace(-reach, reach, len(c))
    step, y = knots[1] - knots[0], numpy.interp(x, knots, c)
    if tails == "linear":
        y += numpy.minimum(x + reach, 0) * (c[1] - c[0]) / step + relu(x - reach) * (c[-1] - c[-2]) / step
    return y


def lipschitz(x, c, a, reach):
    step, a = 2 * reach / (len(c) - 1), abs(a)
    climbed = numpy.concatenate([[0], numpy.cumsum(step * numpy.clip(numpy.diff(c) / step, -1, 1))])
    return splines(a * x, climbed + (c - climbed).mean(), reach) / a


def catmull_rom(x, q, reach):
    knots = numpy.linspace(-reach, reach, len(q))
    long = numpy.concatenate([[2 * q[0] - q[1]], q, [2 * q[-1] - q[-2]]])
    slopes = (long[2:] - long[:-2]) / 2 / (knots[1] - knots[0])
    return CubicHermiteSpline(knots, q, slopes)(numpy.clip(x, -reach, reach))


def rational(x, a, b):
    return numpy.polyval(a[::-1], x) / (1 + sum(abs(b[i] * x ** (i + 1)) for i in range(4)))


ORACLES = {
    "prelu": lambda x, a: relu(x) + a * numpy.minimum(x, 0),
    "swish_beta": lambda x, beta: x * sigmoid(beta * x),
    "psoftplus": lambda x, a: softplus(abs(a) * x) / abs(a),
    "pssilu": lambda x, a, b: x * (sigmoid(abs(a) * x) - abs(b)) / (1 - abs(b)),
    "smooth_relu": lambda x, b: relu(x - numpy.log(1 + b**2 * abs(x)) / b**2),
    "apl": lambda x, a, b: relu(x) + sum(s * relu(h - x) for s, h in zip(a, b, strict=True)),
    "splash": lambda x, right, left: sum(
        p * relu(x - h) + m * relu(-x - h) for p, m, h in zip(right, left, (0, 1, 2, 2.5), strict=True)
    ),
    "maxout": lambda x, a, b: numpy.max([s * x + h for s, h in zip(a, b, strict=True)], axis=0),
    "rational": rational,
    "cubic_spline": lambda x, q: catmull_rom(x, q, 2),
    "linear_spline": lambda x, c: splines(x, c, 4),
    "lipschitz_spline": lambda x, c, a: lipschitz(x, c, a, 4),
}


@pytest.mark.parametrize("name", LEARNED)
def test_value_is_the_formula(name):
    layer = shaken(name).double()
    x = 3 * torch.randn(50, 4, 3, dtype=torch.float64)
    y = layer(x).detach()
    for c in range(4):
        rows = [p.detach()[c if p.shape[0] > 1 else 0].numpy() for p in layer.parameters()]
        expected = ORACLES[name](x[:, c].numpy(), *rows)
        numpy.testing.assert_allclose(y[:, c], expected, atol=3e-5 if "lip" in name else 1e-9)
    torch.testing.assert_close(layer.float()(x.float()), y.float(), rtol=1e-4, atol=1e-4)


def test_other_forms():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    at = x[:, 0].numpy()
    fixed = create_activation("pssilu", 1, learn_b=False, b=0.3, a=4.0).double()
    numpy.testing.assert_allclose(fixed(x)[:, 0].detach(), at * (sigmoid(4 * at) - 0.3) / 0.7, atol=1e-9)
    assert [n for n, _ in fixed.named_parameters()] == ["a"]
    layer = shaken("rational", 1, version="B", init="elu").double()
    a, b = (p[0].detach().numpy() for p in layer.parameters())
    expected = numpy.polyval(a[::-1], at) / (1 + abs(numpy.polyval([*b[::-1], 0], at)))
    numpy.testing.assert_allclose(layer(x)[:, 0].detach(), expected, atol=1e-9)
    layer = shaken("linear_spline", 1, tails="clamp").double()
    c = layer.coefficients[0].detach().numpy()
    numpy.testing.assert_allclose(layer(x)[:, 0].detach(), splines(at, c, 4, "clamp"), atol=1e-9)


def test_b_splines_start_at_the_knots_and_are_twice_differentiable():
    layer = create_activation("cubic_spline", 1, basis="b_spline", tails="linear", init="elu").double()
    knots = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    torch.testing.assert_close(layer(knots), torch.nn.functional.elu(knots), rtol=0, atol=1e-7)
    x = torch.linspace(-1.99, 1.99, 301, dtype=torch.float64)[:, None]
    natural = make_interp_spline(knots[:, 0].numpy(), layer(knots)[:, 0].detach().numpy(), bc_type="natural")
    numpy.testing.assert_allclose(layer(x)[:, 0].detach(), natural(x[:, 0].numpy()), atol=1e-7)
    beyond = torch.tensor([[-3.0], [-2.5], [-2.0], [2.0], [2.5], [3.0]], dtype=torch.float64)
    second = layer(beyond)[:, 0].reshape(2, 3).diff(n=2, dim=1)
    assert second.abs().max() < 1e-9


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_derivatives(name):
    layer = shaken(name, 2, **SMALL.get(name, {})).double()
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    x = (x.sign() * (x.abs() + 0.1)).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


STARTS = {
    "prelu": lambda x: torch.nn.functional.leaky_relu(x, 0.25),
    "swish_beta": torch.nn.functional.silu,
    "psoftplus": torch.nn.functional.softplus,
    "splash": torch.relu,
    "maxout": torch.relu,
    "linear_spline": lambda x: torch.nn.functional.leaky_relu(x, 0.01),
    "lipschitz_spline": torch.relu,
    "kaf_identity_base": lambda x: x,
    "kaf_relu_base": torch.relu,
    "kaf_elu_base": torch.nn.functional.elu,
    "kaf_silu_base": torch.nn.functional.silu,
}


@pytest.mark.parametrize("name", STARTS)
def test_the_start_is_the_function(name):
    layer = create_activation(name, 3)
    x = (5 * torch.randn(200, 3)).requires_grad_()
    y, expected = layer(x), STARTS[name](x)
    torch.testing.assert_close(y, expected, rtol=2e-6, atol=1e-6)
    slopes = [torch.autograd.grad(one.sum(), x)[0] for one in (y, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)
    # and every parameter can leave it
    for parameter, gradient in zip(
        layer.parameters(),
        torch.autograd.grad((layer(x) * torch.randn_like(x)).sum(), layer.parameters()),
        strict=True,
    ):
        assert gradient.abs().sum() > 0 and gradient.isfinite().all(), parameter.shape


@pytest.mark.parametrize(
    ("name", "bound"), [("relu", 0.04), ("leaky_relu", 0.04), ("elu", 0.005), ("tanh", 1e-3), ("swish", 1e-3)]
)
@pytest.mark.parametrize("version", ["A", "B"])
def test_rational_starts(version, name, bound):
    x = torch.linspace(-3, 3, 301, dtype=torch.float64)[:, None]
    functions = {"swish": torch.nn.functional.silu, "elu": torch.nn.functional.elu, "tanh": torch.tanh}
    target = functions.get(
        name, lambda x: torch.nn.functional.leaky_relu(x, 0.01 if "leaky" in name else 0.0)
    )
    layer = create_activation("rational", 1, version=version, init=name).double()
    assert (layer(x) - target(x)).abs().max() < bound


def test_the_b_of_pssilu_moves():
    """In the authors' code it starts at 0, where |b| has no slope, and stays."""
    layer = create_activation("pssilu", 3)
    (gradient,) = torch.autograd.grad(layer(torch.randn(9, 3)).square().sum(), layer.b)
    assert gradient.abs() > 1e-3
    with pytest.raises(ValueError, match=r"^b must be above 0 where it is learned"):
        create_activation("pssilu", 3, b=0.0)


def test_a_lipschitz_spline_is_one():
    layer = create_activation("lipschitz_spline", 3)
    with torch.no_grad():
        layer.coefficients.mul_(30).add_(torch.randn_like(layer.coefficients))
        layer.scale.copy_(torch.tensor([0.3, -2.0, 5.0]))
    x = torch.linspace(-9, 9, 4001)[:, None].repeat(1, 3)
    slopes = layer.double()(x.double()).diff(dim=0) / x.double().diff(dim=0)
    assert slopes.abs().max() < 1 + 1e-5 and slopes.abs().max() > 0.9


def test_max_min_and_winners():
    x = torch.randn(5, 6, 3, 2, requires_grad=True)
    y = create_activation("maxmin", 6)(x)
    assert torch.equal(y[:, ::2], x.reshape(5, 3, 2, 3, 2).amax(2)) and torch.equal(
        y[:, 1::2], x.reshape(5, 3, 2, 3, 2).amin(2)
    )
    (gradient,) = torch.autograd.grad(y, x, y.detach())
    assert torch.allclose(gradient.norm(), x.norm())
    with pytest.raises(ValueError, match=r"^channels must be a positive even integer, got 3"):
        create_activation("maxmin", 3)
    y = create_activation("kwta", 6, gamma=0.25)(x)
    kept = x.flatten(1).sort(1, descending=True).values[:, :9]
    assert torch.equal(y.flatten(1).sort(1, descending=True).values[:, :9], kept.relu() + kept.clamp(max=0))
    assert ((y != 0).flatten(1).sum(1) == 9).all()


# -- who shares the parameters


@pytest.mark.parametrize("name", SHARING)
def test_sharing_counts_parameters(name, tmp_path):
    """The same family with as many parameters as the network has channels, layers, or as one layer has."""
    one = sum(p.numel() for p in create_activation(name, 1, share="channel").parameters())
    counts = {}
    for share, sets in (("channel", 16 * 3 + 32 * 2 + 64 * 2), ("layer", 7), ("network", 1)):
        model = create_model("resnet8", name, activation_arguments={"share": share})
        counts[share] = count_parameters(model)
        assert counts[share]["activation"] == sets * one
        assert len(layers_of(model)) == 7
    rest = {count["trainable"] - count["activation"] for count in counts.values()}
    assert len(rest) == 1
    default = count_parameters(create_model("resnet8", name))
    assert default == counts[ACTIVATIONS[name].per]


@pytest.mark.parametrize("name", ["pssilu", "kaf", "kaf_elu_base", "linear_spline"])
def test_a_network_s_one_set_of_parameters(name, tmp_path):
    """One tensor for all layers: after a step, in a copy, pickled, moved, saved and loaded."""
    arguments = {"share": "network"}
    model = create_model("resnet8", name, activation_arguments=arguments)
    x = torch.rand(2, 3, 16, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    model.eval()
    expected = model(x)
    save_model(model, tmp_path / "model.safetensors")
    others = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301
        load_model(tmp_path / "model.safetensors"),
        copy.deepcopy(model).double().float(),
    ]
    for network in (model, *others):
        sets = {tuple(id(p) for p in layer.parameters()) for layer in layers_of(network).values()}
        assert len(sets) == 1 and len(layers_of(network)) == 7
        torch.testing.assert_close(network(x), expected)
    torch.nn.init.constant_(
        next(iter(layers_of(others[0]).values())).get_parameter(
            next(n for n, _ in layers_of(others[0])["stem.act"].named_parameters())
        ),
        0.5,
    )
    assert not torch.allclose(others[0](x), expected) and torch.equal(model(x), expected)


@pytest.mark.parametrize("name", ["swish_beta", "apl", "cubic_spline", "kaf_free", "kaf_silu_base"])
def test_shared_parameters_are_those_of_every_channel(name):
    shared, apart = shaken(name, 5, share="layer"), create_activation(name, 5, share="channel")
    with torch.no_grad():
        for p, q in zip(apart.parameters(), shared.parameters(), strict=True):
            p.copy_(q.expand_as(p))
    x, g = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(shared(x), apart(x))
    found = torch.autograd.grad(shared(x), shared.parameters(), g)
    sums = [one.sum(0, keepdim=True) for one in torch.autograd.grad(apart(x), apart.parameters(), g)]
    torch.testing.assert_close(list(found), sums, rtol=1e-4, atol=1e-4)


def test_a_factory_makes_one_network():
    """Two networks of one kind have parameters of their own."""
    make, other = (layer_factory("psoftplus") for _ in range(2))
    first, second = make(16), make(32)
    assert first is not second and first.a is second.a and first.a is not other(16).a
    assert layer_factory("psoftplus", {"share": "layer"})(16).a is not first.a


# -- what is done to all


@pytest.mark.parametrize("name", [*LEARNED, "kaf_elu_base"])
def test_life_in_torch(name):
    layer = shaken(name)
    x = torch.randn(64, 4, 6, 6)
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        assert torch.equal(twin(x), y) and repr(twin) == repr(layer)
        twin.reset_parameters()
        if name != "apl":  # random
            fresh = create_activation(name, 4)
            assert all(map(torch.equal, twin.parameters(), fresh.parameters()))
    # narrow inputs and casts: float32 inside, parameters stay wide
    narrow = copy.deepcopy(layer).half()(x.half())
    assert narrow.dtype == torch.float16
    torch.testing.assert_close(narrow.float(), layer(x.half().float()), rtol=2e-3, atol=2e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float32 and torch.equal(layer(x), y)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    # kept for the backward pass
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x.requires_grad_())
    assert {t.data_ptr() for t in saved if t.numel() > 1000} <= {x.data_ptr()}
    # far away
    far = torch.tensor([1e4, -1e4, 0.0, -0.0, 88.0, -88.0])[:, None].repeat(1, 4).requires_grad_()
    gradients = torch.autograd.grad(layer(far).sum(), [far, *layer.parameters()])
    assert all(g.isfinite().all() for g in gradients) and layer(far).isfinite().all()
    broken = layer(torch.tensor([[float("nan")] * 4]))
    assert broken.isnan().all()
    # layouts
    last = x.detach().contiguous(memory_format=torch.channels_last)
    assert torch.allclose(layer(last), y) and layer(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["rational", "lipschitz_spline", "kaf_elu_base", "maxmin", "kwta"])
def test_compiled_and_transformed(name):
    layer = shaken(name)
    x = torch.randn(3, 4, 5, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    tensors = [x, *layer.parameters()]
    ours, theirs = (torch.autograd.grad(f(x).square().sum(), tensors) for f in (compiled, layer))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    slopes = torch.func.jvp(layer, (x.detach(),), (torch.ones_like(x),))[1]
    if ACTIVATIONS[name].elementwise:
        torch.testing.assert_close(slopes, torch.autograd.grad(layer(x).sum(), x)[0], rtol=1e-4, atol=1e-5)


BAD = [
    *[("prelu", "share", "batch"), ("prelu", "init", 1e9), ("swish_beta", "init", "one")],
    *[("psoftplus", "init", 0), ("pssilu", "a", -1), ("pssilu", "b", 1), ("pssilu", "learn_b", 2)],
    *[
        ("smooth_relu", "init", 0),
        ("apl", "hinges", 0),
        ("splash", "hinges", [1, 2]),
        ("splash", "hinges", 3),
    ],
    *[("maxout", "pieces", 1), ("rational", "version", "C"), ("rational", "init", "sine")],
    *[("linear_spline", "knots", 2), ("linear_spline", "tails", "zero"), ("linear_spline", "init", "step")],
    *[
        ("cubic_spline", "basis", "hermite"),
        ("cubic_spline", "knots", 3),
        ("lipschitz_spline", "boundary", 0),
    ],
    *[("kwta", "gamma", 0), ("kaf", "share", "batch"), ("kaf_elu_base", "base", "gelu")],
    *[
        ("kaf_elu_base", "tails", "mirror"),
        ("kaf_elu_base", "parametrisation", "v"),
        ("kaf_elu_base", "std", -1),
    ],
]


@pytest.mark.parametrize(("name", "argument", "value"), BAD)
def test_bad_arguments_are_named(name, argument, value):
    with pytest.raises(UserError, match=f"^{argument} must be .*, got"):
        create_activation(name, 4, **{argument: value})


def test_other_errors():
    with pytest.raises(ValueError, match=r"x must be \(N, 4, \*\), got \(2, 5\)"):
        create_activation("prelu", 4)(torch.randn(2, 5))
    with pytest.raises(ValueError, match="floating"):
        create_activation("prelu", 4)(torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(UserError, match=r"^channels must be a positive integer"):
        create_activation("apl", 0)
    with pytest.raises(UserError, match=r"^init must be a function that gives a finite number"):
        create_activation("linear_spline", 4, init=torch.log)


# -- what looks into networks


def test_plots_diagnostics_and_surrogates_see_every_layer():
    """Also where the layers hold the same parameters, or are no functions of one number."""
    from kafnets.attacks.adaptive import BACKWARDS, with_surrogates
    from kafnets.diagnostics.card import _layer_figures
    from kafnets.diagnostics.layers import compare
    from kafnets.report.plots import kafs

    x = torch.rand(2, 3, 16, 16)
    for name in ("pssilu", "kaf_elu_base", "maxmin", "kwta"):
        arguments = {"share": "network"} if ACTIVATIONS[name].learns else {}
        model = create_model("resnet8", name, activation_arguments=arguments).eval()
        found = [_layer_figures(model, layer) for layer in compare(model, x, x.flip(0), 2)]
        assert len(found) == 7
        assert all((layer["steepest"] is not None) == ACTIVATIONS[name].elementwise for layer in found)
        if ACTIVATIONS[name].learns:
            shapes = kafs.shapes(model, model)
            assert [len(one.after) for one in shapes] == [16] * 3 + [32] * 2 + [64] * 2
        for backward in BACKWARDS:
            images = x.clone().requires_grad_()
            logits = with_surrogates(model, backward)(images)
            torch.testing.assert_close(logits, model(x), rtol=0, atol=0)
            (gradient,) = torch.autograd.grad(logits.square().sum(), images)
            assert gradient.isfinite().all() and gradient.any()
