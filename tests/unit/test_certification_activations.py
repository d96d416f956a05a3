"""Bounds of activations against the layers themselves, on more than a million points."""

import itertools
import math
import re

import pytest
import torch
from kafnets.activations import create_activation
from kafnets.activations.kaf.lipschitz import rkhs_lipschitz
from kafnets.certification.activations import bounds_of
from kafnets.certification.activations.curve import RangeMax
from kafnets.registry import ACTIVATIONS
from torch import nn

from tests.repository import ROOT

CHANNELS, INTERVALS, POINTS = 3, 160, 96
WIDTHS = (1e-3, 0.2, 1.0, 4.0, 12.0)
VARIANTS = {
    "elu, alpha 3": ("elu", {"alpha": 3.0}),
    "gelu, tanh": ("gelu", {"approximate": "tanh"}),
    "softplus, beta 4": ("softplus", {"beta": 4.0}),
    "kaf of one layer": ("kaf_elu", {"share": "layer"}),
    "kaf, few wide kernels": ("kaf", {"D": 4, "bandwidth": 0.2, "std": 1.0}),
    "kaf, many narrow kernels": ("kaf", {"D": 40, "bandwidth": 100.0, "std": 0.5}),
    "kaf, relu kernel": ("kaf", {"kernel": "relu", "std": 0.5}),
    "kaf, relu kernel, own dictionary": ("kaf", {"kernel": "relu", "trainable_dictionary": True}),
    "kaf, softplus kernel": ("kaf_relu", {"kernel": "softplus"}),
    "kaf in float16": ("kaf", {"arithmetic": "float16"}),
    "free of one layer": ("kaf_free", {"share": "layer"}),
    "base, values": ("kaf_elu_base", {"parametrisation": "values", "std": 0.3}),
    "base, free": ("kaf_silu_base", {"trainable_dictionary": True, "trainable_bandwidth": True, "std": 0.3}),
    "base, narrow dictionary": ("kaf_silu_base", {"boundary": 0.2, "std": 0.3}),
    **{
        f"{base} base, {tails}": (f"kaf_{base}_base", {"tails": tails, "std": 0.3})
        for base, tails in itertools.product(("identity", "relu", "elu", "silu"), ("clamp", "linear"))
    },
    "pssilu, b fixed": ("pssilu", {"learn_b": False, "b": 0.3, "a": 2.0}),
    "maxout of five": ("maxout", {"pieces": 5}),
    "rational b": ("rational", {"version": "B", "init": "swish", "share": "channel"}),
    "rational tanh": ("rational", {"init": "tanh"}),
    "cubic spline, linear tails": ("cubic_spline", {"tails": "linear", "share": "layer"}),
    "cubic b-spline": ("cubic_spline", {"basis": "b_spline"}),
    "linear spline, clamped": ("linear_spline", {"tails": "clamp"}),
}
CASES = {name: (name, {}) for name, entry in ACTIVATIONS.items() if entry.elementwise} | VARIANTS


def made(case):
    """The layer of a case with parameters that training could have left it."""
    torch.manual_seed(sum(map(ord, case)))
    name, arguments = CASES[case]
    layer = create_activation(name, CHANNELS, **arguments)
    for key, parameter in layer.named_parameters():
        noise = torch.randn_like(parameter)
        with torch.no_grad():
            if key == "bandwidth":
                parameter.mul_((0.3 * noise).exp())
            elif key == "alpha" and getattr(layer, "init", "normal") != "normal":
                parameter.mul_(1 + 0.002 * noise)  # of a ridge start more would be noise alone
            else:
                parameter.add_(noise * (0.1 * parameter.abs() + 0.05))
    return layer.eval()


def intervals(dtype=torch.float32):
    """(INTERVALS, CHANNELS) ends, of all widths, some of width 0."""
    generator = torch.Generator().manual_seed(0)
    lower = 2 * torch.randn(INTERVALS, CHANNELS, generator=generator)
    width = torch.tensor(WIDTHS).repeat(INTERVALS // len(WIDTHS))[:, None]
    lower = lower - width * torch.rand(INTERVALS, CHANNELS, generator=generator)
    lower[::9] = lower[::9].round()  # on corners and ends of dictionaries
    upper = lower + width
    upper[::31] = lower[::31]
    return lower.to(dtype), upper.to(dtype)


def inside(lower, upper, points=POINTS):
    """(points, INTERVALS, CHANNELS) places, the ends among them."""
    along = torch.linspace(0, 1, points, dtype=lower.dtype).view(-1, 1, 1)
    return torch.lerp(lower, upper, along).maximum(lower).minimum(upper)


def values_at(layer, x):
    with torch.no_grad():
        return layer(x.flatten(0, 1)).view_as(x)


def in_double(layer):
    """The layer's function in float64, (N, C) -> (N, C), computed by the layer itself."""
    layer = layer.double()
    if getattr(layer, "kernel", "") == "softplus":  # torch's jumps by 2e-9 where it becomes linear
        points, alpha = layer.dictionary, layer.alpha
        return lambda x: (alpha * nn.functional.softplus(x[..., None] - points, threshold=60)).sum(-1)
    if getattr(layer, "arithmetic", "float32") == "float16":
        layer.arithmetic = "float32"
    return layer


@pytest.mark.parametrize("case", CASES)
def test_no_point_is_outside_of_its_bounds(case):
    layer = made(case)
    lower, upper = intervals()
    x = inside(lower, upper)
    y = values_at(layer, x)
    with torch.no_grad():
        bounds = bounds_of(layer)
        low, high = bounds.range(lower, upper)
        assert low.shape == lower.shape and low.dtype == torch.float32
        assert bool((low <= y).all() and (y <= high).all())
        assert bool((low.isfinite() & high.isfinite()).all())
        for parallel in (False, True):
            lines = [one.double() for one in bounds.relax(lower, upper, parallel)]
            below, above = (slope * x.double() + offset for slope, offset in (lines[:2], lines[2:]))
            assert bool((below <= y).all() and (y <= above).all())
            if parallel:
                assert torch.equal(lines[0], lines[2])


@pytest.mark.parametrize("case", CASES)
def test_the_lipschitz_constant_is_that_of_the_function(case):
    layer = made(case)
    with torch.no_grad():
        bounds = bounds_of(layer)
        bound = bounds.lipschitz()
    assert bound.dtype == torch.float64 and bound.shape in ((1,), (CHANNELS,))
    near = [torch.linspace(-end, end, 24_001, dtype=torch.float64) for end in (12, 0.4)]
    far = torch.logspace(1, 5, 2000, dtype=torch.float64)
    beside = torch.logspace(-4.5, -1, 12, dtype=torch.float64)
    corners = bounds.curve.corners.clamp(-1e5, 1e5).flatten()[:, None] + torch.cat([-beside, beside])
    x = torch.cat([*near, far, -far, corners.flatten()]).sort().values
    y = in_double(layer)(x[:, None].expand(-1, CHANNELS)).detach()
    # a chord is no steeper than the steepest slope, up to the rounding of its ends
    wide = x.diff() > 1e-5
    slopes = (y.diff(dim=0).abs() / x.diff()[:, None])[wide].amax(0)
    assert bool((slopes <= bound * (1 + 1e-9) + 1e-9).all())
    assert bool((bound <= 1.001 * slopes + 1e-9).all())


@pytest.mark.parametrize("case", CASES)
def test_ranges_and_lines_are_tight(case):
    layer = made(case)
    lower, upper = (end[::2] for end in intervals(torch.float64))
    with torch.no_grad():
        bounds = bounds_of(layer, rounding=False)
        low, high = bounds.range(lower, upper)
        tangent, parallel = bounds.relax(lower, upper), bounds.relax(lower, upper, parallel=True)
    function, middle = in_double(layer), (lower + upper) / 2
    x = inside(lower, upper, 801)
    if bounds.curve.linear:  # the ends and the corners say all
        corners = bounds.curve.corners.T[:, None].expand(-1, *lower.shape).maximum(lower).minimum(upper)
        x = torch.cat([lower[None], corners, upper[None]])
    y, at = values_at(function, x), values_at(function, middle[None])[0]
    true = y.amax(0) - y.amin(0)
    # the upper and the lower line at the middle
    (above, below), (above_too, below_too) = (
        [slope * middle + offset for slope, offset in (lines[2:], lines[:2])] for lines in (tangent, parallel)
    )
    few = slice(None) if bounds.curve.linear else [*range(0, 385, 16), 399, 401, *range(416, 801, 16)]
    gaps = torch.maximum(
        above - envelope(x[few], y[few], middle, at), -below - envelope(x[few], -y[few], middle, -at)
    )
    for width in WIDTHS[1:]:
        those = (upper - lower - width).abs() < 1e-5
        size = true[those].median() + 1e-6
        assert bool((torch.maximum(above - above_too, below_too - below) <= 1e-4 * size)[those].all())
        if bounds.curve.linear:
            assert bool(((high - low - true)[those] < 1e-9 * (1 + size)).all())
            assert gaps[those].max() < 1e-6 * (1 + size)
        elif width <= 1 or "narrow" not in case:  # of which neither bounds nor test take enough samples
            excess = (high - low - true)[those] / (true[those] + 1e-3 * width)
            assert excess.median() < 5e-4 and excess.quantile(0.9) < 3e-3 and excess.max() < 0.012
            if width <= 4:
                assert gaps[those].median() < 0.02 * size and gaps[those].max() < 0.05 * size


def envelope(x, y, middle, at):
    """The concave envelope of points (n, *) at `middle`, where the value is `at`: the highest chord there."""
    left, right = x[:, None], x[None]
    over = (left < middle) & (middle < right)
    share = (middle - left) / torch.where(over, right - left, 1)
    chords = torch.where(over, torch.lerp(y[:, None].expand_as(over), y[None].expand_as(over), share), at)
    return torch.maximum(chords.amax((0, 1)), at)


@pytest.mark.parametrize("name", ["elu", "softplus", "relu", "psoftplus", "smooth_relu"])
def test_of_convex_functions_the_lines_are_exact(name):
    layer = create_activation(name, CHANNELS)
    lower, upper = intervals(torch.float64)
    with torch.no_grad():
        lines = bounds_of(layer, rounding=False).relax(lower, upper)
        y = [in_double(layer)(x) for x in (lower, (lower + upper) / 2, upper)]
    assert torch.allclose(lines[0] * (lower + upper) / 2 + lines[1], y[1], atol=1e-9)
    for x, value in ((lower, y[0]), (upper, y[2])):
        assert torch.allclose(lines[2] * x + lines[3], value, atol=1e-9)


def test_relu_has_the_lines_of_the_literature():
    lower, upper = torch.tensor([[-1.0, -3.0, 1.0, -2.0]]).T, torch.tensor([[3.0, 1.0, 2.0, -1.0]]).T
    lines = bounds_of(nn.ReLU()).relax(lower, upper)
    expected = ([1, 0, 1, 0], [0, 0, 0, 0], [0.75, 0.25, 1, 0], [0.75, 0.75, 0, 0])
    for found, numbers in zip(lines, expected, strict=True):
        assert torch.allclose(found[:, 0], torch.tensor(numbers, dtype=torch.float32), atol=1e-6)


# true constants of the ridge starts, and how much larger the closed form is
RIDGES = {"kaf_relu": (3.461, 2.01), "kaf_elu": (3.426, 2.09), "kaf_swish": (3.317, 1.89)}


@pytest.mark.parametrize("name", RIDGES)
def test_ridge_starts_have_known_constants(name):
    true, looser = RIDGES[name]
    layer = create_activation(name, 2)
    certified = bounds_of(layer).lipschitz().detach()
    assert certified.tolist() == pytest.approx([true] * 2, rel=5e-4)
    closed = rkhs_lipschitz(*layer.mixture())
    assert (closed / certified).tolist() == pytest.approx([looser] * 2, abs=0.02)
    (slope,) = torch.autograd.grad(closed.sum(), layer.alpha)
    points, alpha = layer.dictionary.double(), layer.alpha.detach().double()
    gram = torch.exp(-layer.bandwidth.double() * (points[:, None] - points).square())
    expected = 2 * layer.bandwidth.double() * (alpha @ gram) / closed.detach()[:, None]
    assert torch.allclose(slope.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("boundary", [1.0, 1.01, 1.02, 1.03])
def test_a_base_that_bends_at_0_is_steepest_there(boundary):
    layer = create_activation("kaf_elu_base", 1, D=3, boundary=boundary, bandwidth=0.5)
    layer.set_alpha(torch.tensor([[0.0, 0.5, 0.0]]))  # f' = e^x - x/2 ... left of 0, 1 - x/2 ... right of it
    assert 1 <= bounds_of(layer).lipschitz().item() <= 1.001


def test_a_clamped_sum_is_steepest_behind_its_end():
    layer = create_activation("kaf_silu_base", 1, tails="clamp")
    layer.set_alpha(layer._ridge_solution(-0.5 * layer._points())[None])  # SiLU less x / 2, until 3
    sigmoid = 1 / (1 + math.exp(-3))
    true = sigmoid * (1 + 3 * (1 - sigmoid))
    assert true <= bounds_of(layer).lipschitz().item() <= 1.001 * true


def test_a_subclass_may_be_another_function():
    class Doubled(nn.ReLU):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="bounds of Doubled are not known"):
        bounds_of(Doubled())


def test_gradients_reach_parameters_and_ends():
    layer = made("base, values")
    bounds = bounds_of(layer)
    lower, upper = torch.full((1, CHANNELS), -1.0), torch.full((1, CHANNELS), 1.5)
    lower.requires_grad_()
    low, high = bounds.range(lower, upper)
    by_weight, by_end = torch.autograd.grad((high - low).sum(), [layer.weight, lower])
    with torch.no_grad():
        widths = []
        for way in (-1, 1):
            layer.weight.add_(way * 1e-3)
            low, high = bounds_of(layer).range(lower, upper)
            widths.append((high - low)[0])
            layer.weight.sub_(way * 1e-3)
    assert torch.allclose(by_weight, (widths[1] - widths[0]) / 2e-3, atol=2e-2)
    assert by_end.isfinite().all()
    bounds_of(layer).lipschitz().sum().backward()
    assert layer.values.grad.abs().sum() > 0


def test_images_go_channel_by_channel():
    layer = made("kaf")
    lower, upper = intervals()
    bounds = bounds_of(layer)
    flat = [*bounds.range(lower, upper), *bounds.relax(lower, upper)]
    image = [one.view(-1, 2, 5, CHANNELS).permute(0, 3, 1, 2) for one in (lower, upper)]
    again = [*bounds.range(*image), *bounds.relax(*image)]
    for one, other in zip(flat, again, strict=True):
        assert torch.equal(one, other.permute(0, 2, 3, 1).reshape(-1, CHANNELS))


def test_the_largest_of_a_stretch():
    values = torch.randn(2, 37, generator=torch.Generator().manual_seed(0))
    largest = RangeMax(values)
    pairs = torch.tensor(list(itertools.combinations_with_replacement(range(37), 2))).T
    found = largest(*(one.expand(2, -1) for one in pairs))
    expected = [[row[i : j + 1].max() for i, j in pairs.T.tolist()] for row in values]
    assert torch.equal(found, torch.tensor(expected))


def test_a_rational_that_grows_too_fast_has_no_constant():
    layer = create_activation("rational", 1)
    with torch.no_grad():
        layer.denominator[:, 3] = 0
    assert bounds_of(layer).lipschitz().item() == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds_of(create_activation("maxmin", 4)), "bounds of MaxMin are not known"),
        (lambda: bounds_of(create_activation("kwta", 4)), "bounds of KWinners are not known"),
        (lambda: bounds_of(nn.Softplus(threshold=1)), "a softplus with the threshold 1 jumps"),
        (lambda: bounds_of(nn.ReLU()).range(torch.ones(2, 2), torch.zeros(2, 2)), "lower at most upper"),
        (lambda: bounds_of(nn.ReLU()).range(*[torch.full((1, 1), torch.inf)] * 2), "must be finite"),
        (lambda: bounds_of(create_activation("kaf", 3)).range(*[torch.ones(2, 4)] * 2), r"\(N, 3, \*\)"),
    ],
)
def test_what_has_no_bounds(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_kernel_that_grows_has_no_bounds():
    layer = create_activation("kaf_free", 2)
    with torch.no_grad():
        layer.bandwidth[0] = -0.1
    with pytest.raises(ValueError, match=r"a bandwidth must be positive, got -0\.1"):
        bounds_of(layer)


def test_the_program_of_the_page_runs():
    page = (ROOT / "docs" / "certification.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made = {}
    exec(compile(program, "docs/certification.md", "exec"), made)
    assert made["bounds"].lipschitz().shape == (16,)
