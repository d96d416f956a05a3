"""Smooth functions of a number with what bounds need to know of them, and their scaled relatives.

The constants are zeros of the second, third and fourth derivatives and the values of the derivative below
there, found with 40 digits; rounded upwards where they bound something.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .curve import Curve


@dataclass(frozen=True)
class Shape:
    """One function of a number, smooth but for corners.

    Args:
        value, slope, second: f, f' (between those of both sides at a corner) and f'' (the one that is larger
            in absolute value where it jumps).
        peaks: all places where |f''| has a local maximum.
        minimum: where f turns from falling to rising; None where it rises everywhere.
        slopes: (least, largest) f'.
        third: sup |f'''| between `corners` and `peaks`.
        corners: where f' jumps.
        convex: whether f is.
        error: what its computation in float32 is off by, in units of 2^-24 |x|.
        error_at_0: the same where x is 0, in units of 2^-24.
    """

    value: Callable
    slope: Callable
    second: Callable
    slopes: tuple
    peaks: tuple = ()
    minimum: float | None = None
    third: float = 0.0
    corners: tuple = ()
    convex: bool = False
    error: float = 8.0
    error_at_0: float = 0.0

    def curvature(self, lower, upper):
        """sup |f''| on [lower, upper]."""
        found = torch.maximum(self.second(lower).abs(), self.second(upper).abs())
        for peak in self.peaks:
            at = self.second(torch.full((), peak, dtype=lower.dtype, device=lower.device)).abs()
            found = torch.where((lower <= peak) & (peak <= upper), torch.maximum(found, at), found)
        return found


def elu(alpha=1.0):
    """ELU: alpha (e^x - 1) where x < 0; it has a corner unless alpha is 1."""
    corners = () if alpha == 1 else (0.0,)
    return Shape(
        value=lambda x: F.elu(x, alpha),
        slope=lambda x: torch.where(x > 0, 1.0, alpha * torch.exp(x.clamp(max=0))),
        second=lambda x: torch.where(x > 0, 0.0, alpha * torch.exp(x.clamp(max=0))),
        slopes=(0.0, max(1.0, alpha)),
        peaks=(0.0,),
        third=alpha,
        corners=corners,
        convex=alpha <= 1,
        error=8 * max(1.0, alpha),
    )


def _tanh_second(x):
    t = torch.tanh(x)
    return -2 * t * (1 - t * t)


def _silu_slope(x):
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _silu_second(x):
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _phi(x):
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# The argument of GELU's tanh form: k (x + c x^3).
_K, _C = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh_slope(x):
    t = torch.tanh(_K * (x + _C * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _K * (1 + 3 * _C * x * x)


def _gelu_tanh_second(x):
    x = x.clamp(-40, 40)  # where it is 0: larger numbers would overflow
    t = torch.tanh(_K * (x + _C * x**3))
    rise, bend = _K * (1 + 3 * _C * x * x), 6 * _K * _C * x
    return (1 - t * t) * (rise + 0.5 * x * (bend - 2 * t * rise * rise))


def _smooth_relu(x):
    positive = x.relu()
    return positive - torch.log1p(positive)


IDENTITY = Shape(lambda x: x, torch.ones_like, torch.zeros_like, (1.0, 1.0), convex=True, error=0.0)
RELU = Shape(
    *(torch.relu, lambda x: (x > 0).to(x.dtype), torch.zeros_like, (0.0, 1.0)),
    corners=(0.0,),
    convex=True,
    error=0.0,
)
ELU = elu()
TANH = Shape(
    *(torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, _tanh_second, (0.0, 1.0)),
    peaks=(-math.atanh(3**-0.5), math.atanh(3**-0.5)),
    third=2.0,
)
SOFTPLUS = Shape(
    value=lambda x: F.softplus(x, threshold=40),
    slope=torch.sigmoid,
    second=lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    slopes=(0.0, 1.0),
    peaks=(0.0,),
    third=0.0962250449,
    convex=True,
    error_at_0=4.0,
)
SMOOTH_RELU = Shape(
    value=_smooth_relu,
    slope=lambda x: x.relu() / (1 + x.relu()),
    second=lambda x: torch.where(x < 0, 0.0, (1 + x.relu()) ** -2),
    slopes=(0.0, 1.0),
    peaks=(0.0,),
    convex=True,
)
SILU = Shape(
    *(F.silu, _silu_slope, _silu_second),
    slopes=(-0.09983932012886693, 1.0998393201288670),
    peaks=(-3.435840993535110689, 0.0, 3.435840993535110689),
    minimum=-1.2784645427610737951,
    third=0.3081815158,
)
GELU = Shape(
    value=F.gelu,
    slope=lambda x: 0.5 * torch.erfc(-x / math.sqrt(2)) + x * _phi(x),
    second=lambda x: _phi(x) * (2 - x * x),
    slopes=(-0.1289041451851548, 1.1289041451851548),
    peaks=(-2.0, 0.0, 2.0),
    minimum=-0.75179152469356445746,
    third=0.7787696351,
)
GELU_TANH = Shape(
    *(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope, _gelu_tanh_second),
    slopes=(-0.1289930686587718, 1.1289930686587718),
    peaks=(-2.0134807246242579281, 0.0, 2.0134807246242579281),
    minimum=-0.75246142207101625849,
    third=0.7766914504,
)


class Scaled(Curve):
    r""":math:`f(x) = \frac{s(a x)}{a} + q x`, divided by :math:`1 + q`, of a :class:`Shape` s, row by row.

    Args:
        shape (Shape): s.
        scale (Tensor): :math:`(R)`, a, not 0.
        shift (Tensor, optional): :math:`(R)`, q, above -1 to 0. Default: 0
        minimum (Tensor, optional): :math:`(R)`, where f turns from falling to rising; without, where s does.
    """

    def __init__(self, shape, scale, shift=None, minimum=None):
        self.shape, self.a = shape, scale.double()[:, None]
        self.q = torch.zeros_like(self.a) if shift is None else shift.double()[:, None]
        self.convex = shape.convex
        self.points = self._places(shape.minimum) if minimum is None else minimum.double()[:, None]
        self.corners = self._places(*shape.corners)
        self.bend = self.a.new_zeros(len(self.a), self.points.shape[1] + 1)
        least, largest = shape.slopes
        q = self.q[:, 0]
        self.lipschitz = torch.maximum((least + q).abs(), (largest + q).abs()) / (1 + q)
        relative = (shape.error + 8 * q.detach().abs()) / (1 + q.detach())
        self.rounding = (shape.error_at_0 / self.a.detach().abs()[:, 0], relative)

    def _places(self, *where):
        """Places of s as places of f, (R, number)."""
        known = [place for place in where if place is not None]
        row = torch.tensor(known, dtype=torch.float64, device=self.a.device)
        return (row / self.a.detach()).sort(1).values

    def value(self, x):
        return (self.shape.value(self.a * x) / self.a + self.q * x) / (1 + self.q)

    def slope(self, x):
        return (self.shape.slope(self.a * x) + self.q) / (1 + self.q)

    def curvature(self, lower, upper):
        ends = self.a * lower, self.a * upper
        inner = self.shape.curvature(torch.minimum(*ends), torch.maximum(*ends))
        return (self.a.abs() * inner / (1 + self.q)).detach()


def of_shape(shape):
    """The curve of a fixed function."""
    return Scaled(shape, torch.ones(1, dtype=torch.float64))
