"""Curves of the activations with learned parameters that are no kernels, splines or quotients."""

import torch

from ...activations.hinges import APL, SPLASH, Maxout
from ...activations.prelu import PReLU
from ...activations.smooth import LEAST_SCALE, MOST_B, PSoftplus, PSSiLU, SmoothReLU, SwishBeta
from ...activations.splines import LinearSpline, LipschitzSpline
from .curve import PiecewiseLinear
from .dispatch import register
from .shapes import SILU, SMOOTH_RELU, SOFTPLUS, Scaled


def in_float64(layer):
    """The function of a layer's rows: (R, U) float64 -> (R, U); gradients reach the parameters."""

    def value(x):
        rows = (p.double().reshape(1, p.shape[0], 1, *p.shape[1:]) for p in layer._parameters.values())
        return layer.curve(x[None], *rows)[0]

    return value


# -- hinges --------------------------------------------------------------------------------------------------


@register(PReLU)
def _(layer):
    slope = layer.slope.double()
    steepest = slope.abs().clamp(min=1)
    return PiecewiseLinear(
        in_float64(layer), slope.new_zeros(len(slope), 1), steepest, (0 * steepest, steepest)
    )


def _of_hinges(layer, corners, jumps, left, sizes):
    """A sum of hinges: f' is `left` at first and jumps at each corner; `sizes` of terms: (R, S) at 0."""
    order = corners.detach().argsort(1)
    corners, jumps = corners.gather(1, order), jumps.gather(1, order)
    slopes = torch.cat([left[:, None], left[:, None] + jumps.cumsum(1)], 1)
    # between corners that are the same there is no cell
    cells = torch.nn.functional.pad(corners.diff(dim=1) > 0, (1, 1), value=True)
    terms = sizes.shape[1] + 4
    absolute = terms * sizes.detach().sum(1)
    relative = terms * jumps.detach().abs().sum(1)
    lipschitz = torch.where(cells, slopes.abs(), 0).amax(1)
    return PiecewiseLinear(in_float64(layer), corners, lipschitz, (absolute, relative))


@register(APL)
def _(layer):
    a, b = layer.a.double(), layer.b.double()
    zero = b.new_zeros(len(b), 1)
    return _of_hinges(layer, torch.cat([zero, b], 1), torch.cat([zero + 1, a], 1), -a.sum(1), (a * b).abs())


@register(SPLASH)
def _(layer):
    right, left = layer.right.double(), layer.left.double()
    b = torch.tensor(layer.hinges, dtype=torch.float64, device=right.device)
    both, jumps = torch.cat([b, -b]).expand(len(right), -1), torch.cat([right, left], 1)
    return _of_hinges(layer, both, jumps, -left.sum(1), (jumps * both).abs())


@register(Maxout)
def _(layer):
    """Its corners are among the places where two of its lines meet."""
    slope, offset = layer.slope.double(), layer.offset.double()
    one, other = torch.triu_indices(layer.pieces, layer.pieces, 1, device=slope.device)
    apart = slope[:, one] - slope[:, other]
    meet = (offset[:, other] - offset[:, one]) / torch.where(apart == 0, 1, apart)
    steepest = slope.abs().amax(1)
    rounding = (4 * offset.detach().abs().amax(1), 4 * steepest.detach())
    return PiecewiseLinear(in_float64(layer), meet.sort(1).values, steepest, rounding)


# -- linear splines ------------------------------------------------------------------------------------------


def _of_knots(layer, values, knots):
    """A linear spline by its values at the knots, which lie at the places `knots`, in units of `values`."""
    lipschitz = values.diff(dim=1).abs().amax(1) / layer.step
    steep = lipschitz.detach()
    rounding = (8 * (values.detach().abs().amax(1) + steep * layer.boundary), 8 * steep)
    return PiecewiseLinear(in_float64(layer), knots, lipschitz, rounding)


@register(LinearSpline)
def _(layer):
    values = layer.coefficients.double()
    return _of_knots(layer, values, layer._points().to(values.device).expand(len(values), -1))


@register(LipschitzSpline)
def _(layer):
    values = layer._projected(layer.coefficients.double())
    scale = layer.scale.double().abs().clamp(min=1e-3)[:, None]
    curve = _of_knots(layer, values, layer._points().to(values.device) / scale)
    absolute, relative = curve.rounding
    # its values at the knots are cumulative sums
    curve.rounding = (layer.knots * absolute / scale.detach()[:, 0], relative)
    return curve


# -- smooth functions ----------------------------------------------------------------------------------------


@register(SwishBeta)
def _(layer):
    beta = layer.beta.double()
    # at 0, where it is x / 2, by a neighbour that differs from it by less than rounding
    return Scaled(SILU, torch.where(beta.abs() < 1e-12, 1e-12, beta))


@register(PSoftplus)
def _(layer):
    return Scaled(SOFTPLUS, layer.a.double().abs().clamp(min=LEAST_SCALE))


@register(SmoothReLU)
def _(layer):
    return Scaled(SMOOTH_RELU, layer.b.double().square().clamp(min=LEAST_SCALE**2))


@register(PSSiLU)
def _(layer):
    a = layer.a.double()
    if layer.learn_b:
        a, b = a.abs(), layer.b.double().abs().clamp(max=MOST_B)
    else:
        a, b = a.square(), torch.full_like(a, layer.starts[1])
    return Scaled(SILU, a, -b, _where_silu_rises(b.detach()) / a.detach())


def _where_silu_rises(slope):
    """Where SiLU's derivative is `slope`, 0 to 0.95: between its extremes at -2.4 and 2.4 it grows."""
    low, high = torch.full_like(slope, -2.4), torch.full_like(slope, 2.4)
    for _ in range(60):
        middle = (low + high) / 2
        below = SILU.slope(middle) < slope
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
