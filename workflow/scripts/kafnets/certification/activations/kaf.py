r"""Curves of kernel activation functions, with or without a base.

Between the points of a fine grid the next derivatives say how far a derivative can leave what it is at the
points; those of still higher order are bounded everywhere: of Gaussian kernels by the norm of the function in
their Hilbert space, see :mod:`kafnets.activations.kaf.lipschitz`; of softplus kernels by sum |alpha|.
"""

import math

import torch

from ...activations.kaf import half, lipschitz
from ...activations.kaf.bases import end_slopes
from ...activations.kaf.layer import KAF
from ...activations.kaf.one_lipschitz import LipschitzKAF, LipschitzKAFWithBase
from ...activations.kaf.with_base import KAFWithBase
from .curve import Curve, PiecewiseLinear, RangeMax
from .dispatch import register
from .shapes import ELU, IDENTITY, RELU, SILU, SOFTPLUS

_BASES = {"identity": IDENTITY, "relu": RELU, "elu": ELU, "silu": SILU}
# Beyond 40, a base's slope is constant to 1e-16; SiLU's is monotone beyond 2.5.
_FLAT, _MONOTONE = 40.0, 2.5
_OUTER = 512  # points of the grid on each side of the kernels, where it has to reach farther
_PER_UNIT = 100  # points of the grid of softplus kernels
# sup of |s|, |s'|, ... of the derivatives of softplus, by order from 1 to 5
_SOFTPLUS = (1.0, 0.25, 0.0962250449, 0.125, 0.1276839220)


class Gaussians:
    """A sum of Gaussian kernels, inside [-boundary, boundary] where it has tails.

    Args:
        mixture: alpha (R, D), dictionary and bandwidth, as of :func:`kafnets.activations.kaf.functional.kaf`.
        tails (str), boundary (float): as of :class:`kafnets.activations.kaf.with_base.KAFWithBase`.
    """

    def __init__(self, mixture, tails="zero", boundary=math.inf):
        self.mixture = tuple(one.double() for one in mixture)
        self.tails, self.boundary = tails, boundary if tails != "zero" else math.inf
        alpha, _, gamma = (one.detach() for one in self.mixture)
        self.total = alpha.abs().sum(1)
        self.norm = lipschitz.rkhs_norm(*(one.detach() for one in self.mixture))
        self.left = self.right = torch.zeros_like(self.total)
        if tails == "linear":
            self.left, self.right = end_slopes(*self.mixture, boundary).unbind(1)
        self.noise = lipschitz.outside_slope(alpha, gamma) + lipschitz.rounding_of_slope(alpha, gamma)

    def grid(self, base):
        """Places (R, P) from which all turns can be told, with a base and without."""
        if self.tails == "zero":
            reach = (-_MONOTONE, _MONOTONE) if base is SILU else (0.0, 0.0)
            return lipschitz.grid(*self.mixture[1:], reach)
        x = lipschitz.grid(*self.mixture[1:])
        inner = torch.linspace(-self.boundary, self.boundary, x.shape[1], dtype=x.dtype, device=x.device)
        if base not in (ELU, SILU):
            return inner[None]
        farthest = self.boundary + (_FLAT if self.tails == "linear" else _MONOTONE)
        outer = torch.linspace(self.boundary, farthest, _OUTER, dtype=x.dtype, device=x.device)[1:]
        return torch.cat([-outer.flip(0), inner, outer])[None]

    def value(self, x):
        inner = x.clamp(-self.boundary, self.boundary)
        y = lipschitz.derivatives(inner, *self.mixture, (0,))[0]
        if self.tails == "linear":
            beyond = x - inner
            y = y + torch.where(x < 0, self.left[:, None], self.right[:, None]) * beyond
        return y

    def derivatives(self, x):
        """f', f'' and f''' at places of a grid; at the boundary those of the inside."""
        first, *higher = lipschitz.derivatives(x, *self.mixture, (1, 2, 3))
        if self.tails == "zero":
            return first, *higher
        inside = x.abs() <= self.boundary
        beyond = torch.where(x < 0, self.left[:, None], self.right[:, None])
        return torch.where(inside, first, beyond), *(torch.where(inside, one, 0) for one in higher)

    def slopes(self, first, middles):
        """f' at both ends of the cells with these middles, from the inside, by what it is at the points."""
        ends = first[:, :-1], first[:, 1:]
        if self.tails == "zero":
            return ends
        beyond = torch.where(middles < 0, self.left[:, None], self.right[:, None])
        return tuple(torch.where(middles.abs() <= self.boundary, one, beyond) for one in ends)

    def bound(self, order, middles):
        """sup of the derivative of this order in the cells with these middles."""
        everywhere = lipschitz.derivative_bound(self.norm, self.mixture[2].detach(), order)[:, None]
        return torch.where(middles.abs() <= self.boundary, everywhere, 0)

    def outside_bend(self):
        """sup |f''| beyond the grid, (R,)."""
        if self.tails != "zero":
            return torch.zeros_like(self.total)
        gamma = self.mixture[2].detach()
        return self.total * 4 * gamma * lipschitz.FAR * math.exp(-lipschitz.FAR)

    def error(self, x):
        """(a, b) of :class:`.curve.Curve`: terms and sums are rounded, or polynomials in their place."""
        alpha, *others = (one.detach() for one in self.mixture)
        x = x.clamp(-self.boundary, self.boundary)
        terms, steepest = alpha.shape[1] + 8, (others[1] * 2 / math.e).sqrt()
        largest = lipschitz.derivatives(x, alpha.abs(), *others, (0,))[0].amax(1)
        between = steepest * x.diff(dim=1).amax(1) / 2 * self.total
        absolute = torch.maximum(terms * (largest + between).minimum(self.total), 4 * self.total)
        if self.tails != "linear":
            return absolute, torch.zeros_like(absolute)
        relative = (terms + 8) * self.total * steepest
        return absolute + relative * self.boundary, relative


class Softpluses:
    """A sum of softplus kernels; methods as of :class:`Gaussians`."""

    def __init__(self, mixture):
        self.alpha, dictionary = (one.double() for one in mixture[:2])
        self.dictionary = dictionary.reshape(-1, dictionary.shape[-1])
        self.total = self.alpha.detach().abs().sum(1)
        self.left, self.right = torch.zeros_like(self.total), self.alpha.sum(1)
        self.noise = self.total * (math.exp(-_FLAT) + 1e-15 * self.alpha.shape[1])

    def grid(self, base):
        low = self.dictionary.detach().amin(1, keepdim=True) - _FLAT
        high = self.dictionary.detach().amax(1, keepdim=True) + _FLAT
        points = min(lipschitz.MOST_POINTS, math.ceil((high - low).max().item() * _PER_UNIT))
        along = torch.linspace(0, 1, points, dtype=low.dtype, device=low.device)
        return low + (high - low) * along

    def _sum(self, x, function):
        terms = range(self.alpha.shape[1])
        return sum(self.alpha[:, i : i + 1] * function(x - self.dictionary[:, i : i + 1]) for i in terms)

    def value(self, x):
        return self._sum(x, SOFTPLUS.value)

    def derivatives(self, x):
        third = self._sum(x, lambda u: SOFTPLUS.second(u) * (1 - 2 * torch.sigmoid(u)))
        return self._sum(x, SOFTPLUS.slope), self._sum(x, SOFTPLUS.second), third

    def slopes(self, first, middles):
        return first[:, :-1], first[:, 1:]

    def bound(self, order, middles):
        return self.total[:, None] * _SOFTPLUS[order - 1] * torch.ones_like(middles)

    def outside_bend(self):
        return self.total * math.exp(-_FLAT)

    def error(self, x):
        farthest = self.dictionary.detach().abs().amax(1)
        terms = self.alpha.shape[1] + 8
        return terms * self.total * (1 + farthest), terms * self.total


class Kernels(Curve):
    r"""Kernels, and :math:`w\,b(x)` where there is a base.

    Args:
        kernels (Gaussians or Softpluses)
        base (Shape, optional): b.
        weight (Tensor, optional): :math:`(R)`, w.
    """

    def __init__(self, kernels, base=None, weight=None):
        self.kernels, self.base = kernels, base or IDENTITY
        rows = len(kernels.total)
        self.weight = kernels.total.new_zeros(rows, 1) if weight is None else weight.double()[:, None]
        self.size = self.weight.detach().abs()
        x = kernels.grid(base)
        # at 0 a base has a corner, or its f'' jumps: no cell has that inside
        x = torch.cat([x, torch.zeros_like(x[:, :1])], 1).sort(1).values
        corners = torch.tensor(self.base.corners, dtype=x.dtype, device=x.device).expand(len(x), -1)
        width, middle = x.diff(dim=1), (x[:, 1:] + x[:, :-1]) / 2
        first, second, third = kernels.derivatives(x)
        bends = _ends(second.detach().abs()) + width**2 / 8 * kernels.bound(4, middle)
        outside = kernels.outside_bend()[:, None]
        self.bends = RangeMax(torch.cat([outside, bends.minimum(kernels.bound(2, middle)), outside], 1))
        self.cells = x.expand(rows, -1).contiguous()
        slopes, slack = self._slopes(x, width, middle, first, third.detach())
        steepest = torch.maximum(*(one.abs() for one in slopes)) + slack
        self.lipschitz = self._lipschitz(x, steepest.amax(1))
        self.rounding = self._rounding(x)
        if getattr(kernels, "tails", "zero") == "clamp":
            ends = x.new_full((len(x), 1), kernels.boundary)
            corners = torch.cat([-ends, corners, ends], 1)
        self.corners, self.points = corners.expand(rows, -1), self.cells
        inner = self.bends.values[:, 1:-1] + self.size * self.base.curvature(x[:, :-1], x[:, 1:])
        least = torch.minimum(*slopes) - slack, torch.maximum(*slopes) + slack
        rises, falls = least[0] > kernels.noise[:, None], least[1] < -kernels.noise[:, None]
        # beyond the grid it is monotone, up to roundings
        self.bend = torch.nn.functional.pad(torch.where(rises | falls, 0, inner), (1, 1)).detach()

    def _slopes(self, x, width, middle, first, third):
        """f' at both ends of each cell, (R, P - 1) twice, and how far it can be from between them inside."""
        if self.base.corners:
            of_base = (self.base.slope(middle),) * 2
        else:
            of_base = (self.base.slope(x[:, :-1]), self.base.slope(x[:, 1:]))
        of_kernels = self.kernels.slopes(first, middle)
        slopes = [self.weight * b + k for b, k in zip(of_base, of_kernels, strict=True)]
        bent = _ends(third.abs()) + width**2 / 8 * self.kernels.bound(5, middle)
        return slopes, width**2 / 8 * (
            bent.minimum(self.kernels.bound(3, middle)) + self.size * self.base.third
        )

    def _lipschitz(self, x, inside):
        """The largest of the cells, and beyond, where the base's slope is between its end and its limit."""
        everywhere = self.kernels.bound(1, torch.zeros_like(x[:, :1]))[:, 0]  # of kernels narrower than cells
        inside = inside.minimum(everywhere + self.size[:, 0] * max(map(abs, self.base.slopes)))
        limits = (1.0 if self.base is IDENTITY else 0.0, 1.0)
        outside = [
            (self.weight[:, 0] * slope + tail).abs()
            for limit, end, tail in zip(
                limits, (x[:, :1], x[:, -1:]), (self.kernels.left, self.kernels.right), strict=True
            )
            for slope in (limit, self.base.slope(end)[:, 0])
        ]
        return torch.stack([inside, *outside]).amax(0) + self.kernels.noise

    def _rounding(self, x):
        absolute, relative = self.kernels.error(x)
        size = self.size[:, 0]
        return absolute + 4 * size, relative + (self.base.error + 4) * size

    def value(self, x):
        y = self.kernels.value(x)
        return y + self.weight * self.base.value(x)

    def curvature(self, lower, upper):
        first = torch.searchsorted(self.cells, lower.detach().contiguous())
        last = torch.searchsorted(self.cells, upper.detach().contiguous(), right=True)
        # cell i ends with point i
        found = self.bends(first, last)
        return found + self.size * self.base.curvature(lower.detach(), upper.detach())


def _ends(values):
    """The larger of both ends of each cell."""
    return torch.maximum(values[:, :-1], values[:, 1:])


def _rows(layer, mixture):
    """The mixture of a layer, of its first channel where all have the same."""
    alpha, dictionary, bandwidth = mixture
    if not bool((bandwidth > 0).all()) and layer.kernel == "gaussian":
        raise ValueError(f"module: a bandwidth must be positive, got {bandwidth.min().item():g}")
    return alpha[: layer.rows], dictionary, bandwidth


@register(KAF, LipschitzKAF)
def _(layer):
    mixture = _rows(layer, layer.mixture())
    if layer.kernel == "relu":
        curve = _of_relus(*mixture[:2])
    elif layer.kernel == "softplus":
        curve = Kernels(Softpluses(mixture))
    else:
        curve = Kernels(Gaussians(mixture))
    if layer.arithmetic == "float16":
        curve.rounding = _of_half(curve, mixture, layer.kernel)
    return curve


@register(KAFWithBase)
def _(layer):
    return _with_base(layer, layer.weight, layer.mixture())


@register(LipschitzKAFWithBase)
def _(layer):
    weight, *mixture = layer.divided()
    return _with_base(layer, weight, mixture)


def _with_base(layer, weight, mixture):
    kernels = Gaussians(_rows(layer, mixture), layer.tails, layer.boundary)
    return Kernels(kernels, _BASES[layer.base], weight[: layer.rows])


def _of_relus(alpha, dictionary):
    """Kernels max(0, x - d): linear between the points of the dictionary."""
    alpha = alpha.double()
    points = dictionary.double().expand(len(alpha), -1)
    order = points.detach().argsort(1)
    points, jumps = points.gather(1, order), alpha.gather(1, order)
    slopes = jumps.cumsum(1)
    cells = torch.nn.functional.pad(points.diff(dim=1) > 0, (0, 1), value=True)
    terms = alpha.shape[1] + 4
    relative = terms * alpha.detach().abs().sum(1)
    absolute = relative * points.detach().abs().amax(1)

    def value(x):
        places = range(alpha.shape[1])
        return sum(jumps[:, i : i + 1] * (x - points[:, i : i + 1]).relu() for i in places)

    return PiecewiseLinear(value, points, torch.where(cells, slopes.abs(), 0).amax(1), (absolute, relative))


@torch.no_grad()
def _of_half(curve, mixture, kernel):
    """What float16 steps are off by: at its numbers as their table says, elsewhere after rounding to them."""
    table = half.tabulate(*mixture, kernel).double()
    x = torch.arange(1 << 16, dtype=torch.int32, device=table.device).to(torch.int16).view(torch.float16)
    finite = x.isfinite()
    x = x[finite].double().expand(len(table), -1)
    worst = (table[:, finite] - curve.value(x)).abs().nan_to_num(torch.inf).amax(1)
    digit = 2.0**-11
    steep = curve.lipschitz.detach()
    return (worst + 2.0**-24 * steep) * 2.0**24, digit * steep * 2.0**24
