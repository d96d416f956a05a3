r"""The curve of rational activations.

With the sign of what stands between bars fixed, :math:`f = P / Q`, and :math:`f^{(k)} = N_k / Q^{k+1}` with
:math:`N_0 = P`, :math:`N_{k+1} = N_k' Q - (k+1) N_k Q'`. In each of many narrow cells polynomials are bounded
by their Taylor coefficients at its middle; what lies far out, by polynomials in :math:`z = 1/x`.

Polynomials are tensors (..., degree + 1), the lowest power first.
"""

import numpy
import torch

from ...activations.rational import Rational
from .curve import Curve, RangeMax
from .dispatch import register
from .families import in_float64

_FAR = 64.0  # beyond, in z
_INNER, _OUTER = 2048, 256  # cells
_REAL = 1e-5  # a zero's imaginary part, relative to it, below which it may be that of a double real one
_FARTHEST = 1e6


def product(p, q):
    size = p.shape[-1] + q.shape[-1] - 1
    pad = torch.nn.functional.pad
    return sum(pad(p[..., i : i + 1] * q, (i, size - i - q.shape[-1])) for i in range(p.shape[-1]))


def derivative(p):
    return p[..., 1:] * torch.arange(1, p.shape[-1], dtype=p.dtype, device=p.device)


def evaluated(p, x):
    """p (R, n) at x (R, U)."""
    y = p[:, -1:].expand_as(x)
    for i in range(p.shape[1] - 2, -1, -1):
        y = y * x + p[:, i : i + 1]
    return y


def around(p, middle, radius):
    """(p at the middle, how far it can be from that within the radius), both (R, U)."""
    terms = [p[:, i : i + 1].expand_as(middle) for i in range(p.shape[1])]
    for i in range(len(terms) - 1):  # synthetic divisions leave the Taylor coefficients
        for j in range(len(terms) - 2, i - 1, -1):
            terms[j] = terms[j] + middle * terms[j + 1]
    spread = torch.zeros_like(middle)
    for term in reversed(terms[1:]):
        spread = (spread + term.abs()) * radius
    return terms[0], spread


def _largest(p, middle, radius):
    value, spread = around(p, middle, radius)
    return value.abs() + spread


def _least(p, middle, radius):
    value, spread = around(p, middle, radius)
    return value - spread


class Quotient:
    """f where the sign is fixed: the numerators N_0 .. N_3, (R, n) each, and Q, (R, 5)."""

    def __init__(self, p, q):
        self.q, self.numerators = q, [p]
        for k in range(3):
            last = self.numerators[-1]
            rise, fall = product(derivative(last), q), product(last, derivative(q))
            size = max(rise.shape[-1], fall.shape[-1])
            rise, fall = (torch.nn.functional.pad(one, (0, size - one.shape[-1])) for one in (rise, fall))
            self.numerators.append(rise - (k + 1) * fall)

    def slope(self, x):
        return evaluated(self.numerators[1], x) / evaluated(self.q, x).square()

    def bound(self, order, middle, radius):
        """sup |f^(order)| in cells in which Q is its denominator, which is at least 1."""
        bottom = _least(self.q, middle, radius).clamp(min=1)
        return _largest(self.numerators[order], middle, radius) / bottom ** (order + 1)

    def far(self, order, middle, radius):
        """sup |f^(order)| in cells of z; infinite where Q grows too slowly."""
        power = 4 * (order + 1)
        top = torch.nn.functional.pad(self.numerators[order], (0, power))[:, : power + 1].flip(1)
        bottom = _least(self.q.flip(1), middle, radius)
        bound = _largest(top, middle, radius) / torch.where(bottom > 0, bottom, 1) ** (order + 1)
        return torch.where(bottom > 0, bound, torch.inf)


class Rationals(Curve):
    """A rational activation.

    Args:
        layer (Rational)
    """

    def __init__(self, layer):
        self.value = in_float64(layer)
        a, b = layer.numerator.double(), layer.denominator.double()
        self.version, self.b = layer.version, b.detach()
        one = torch.ones_like(b[:, :1])
        if layer.version == "A":  # on both sides of 0
            odd = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=b.dtype, device=b.device)
            signed = (b.abs() * odd, b.abs())
        else:
            signed = (-b, b)
        self.sides = [Quotient(a, torch.cat([one, terms], 1)) for terms in signed]
        self.corners = self._corners()
        turns = [_real_zeros(side.numerators[1]) for side in self.sides]
        self.points = torch.cat([self.corners, *turns], 1).sort(1).values
        self.bend = self.points.new_zeros(len(a), self.points.shape[1] + 1)
        self._cells()
        self.rounding = self._rounding(a.detach(), b.detach())

    def _corners(self):
        """Where what is between bars is 0; 0 is one of them."""
        zero = torch.zeros_like(self.b[:, :1])
        return zero if self.version == "A" else torch.cat([zero, _real_zeros(self.b)], 1)

    def _is_positive(self, x):
        return x > 0 if self.version == "A" else evaluated(self.b, x) * x > 0

    def _chosen(self, x, function):
        """A function of the quotient that holds at each place."""
        negative, positive = (function(side) for side in self.sides)
        return torch.where(self._is_positive(x), positive, negative)

    def _cells(self):
        """The Lipschitz constant, and a bound of |f''| in each cell and far out on both sides."""
        along = torch.linspace(-1, 1, _INNER + 1, dtype=self.b.dtype, device=self.b.device)
        x = torch.sinh(along * numpy.arcsinh(_FAR)).expand(len(self.b), -1)
        x = torch.cat([x, self.corners.clamp(-_FAR, _FAR)], 1).sort(1).values
        middle, radius = (x[:, 1:] + x[:, :-1]) / 2, x.diff(dim=1) / 2
        bends = self._chosen(middle, lambda side: side.bound(2, middle, radius)).detach()
        thirds = self._chosen(middle, lambda side: side.bound(3, middle, radius)).detach()
        ends = [self._chosen(middle, lambda side, e=e: side.slope(e)).abs() for e in (x[:, :-1], x[:, 1:])]
        inside = (torch.maximum(*ends) + radius.square() / 2 * thirds).amax(1)
        far = [self._far(order) for order in (1, 2)]
        self.lipschitz = torch.stack([inside, *far[0]]).amax(0)
        left, right = (one.detach()[:, None] for one in far[1])
        self.cells, self.bends = x.contiguous(), RangeMax(torch.cat([left, bends, right], 1))

    def _far(self, order):
        """sup |f^(order)| on the left and on the right of the cells, (R,) each."""
        z = torch.linspace(0, 1 / _FAR, _OUTER + 1, dtype=self.b.dtype, device=self.b.device)
        middle, radius = ((z[1:] + z[:-1]) / 2).expand(len(self.b), -1), z[1] / 2
        found = []
        for way in (-1, 1):
            negative, positive = (side.far(order, way * middle, radius) for side in self.sides)
            if self.version == "A":
                chosen = positive if way > 0 else negative
            else:
                inner, spread = around(self.b.flip(1), way * middle, radius)  # times z^4 it has its sign
                chosen = torch.where(inner > spread, positive, torch.maximum(positive, negative))
                chosen = torch.where(inner < -spread, negative, chosen)
            found.append(chosen.amax(1))
        return found

    def curvature(self, lower, upper):
        first = torch.searchsorted(self.cells, lower.detach().contiguous())
        last = torch.searchsorted(self.cells, upper.detach().contiguous(), right=True)
        return self.bends(first, last)

    def _rounding(self, a, b):
        """The largest error of Horner's rule, relative to 1 + |x|, on a wide grid, twice."""
        x = torch.sinh(torch.linspace(0, numpy.arcsinh(_FARTHEST), 512, dtype=b.dtype, device=b.device))
        x = x.expand(len(b), -1)
        bars = evaluated(torch.nn.functional.pad(b.abs(), (1, 0)), x)
        worst = []
        for way in (-1, 1):
            bottom = self._chosen(way * x, lambda side, way=way: evaluated(side.q, way * x))
            top = 12 * evaluated(a.abs(), x) / bottom
            worst.append(top + self.value(way * x).abs() * (8 * bars / bottom + 4))
        largest = 2 * (torch.stack(worst) / (1 + x)).amax((0, 2)).detach()
        return largest, largest


def _real_zeros(p):
    """The real zeros of polynomials, and 0 in the place of others: (R, n - 1), without a gradient.

    Computed zeros are those of a polynomial that rounding has moved: where it has not the sign of p, p is as
    small as rounding errors.
    """
    found = torch.zeros(len(p), p.shape[1] - 1, dtype=p.dtype)
    for row, coefficients in zip(found, p.detach().cpu().numpy(), strict=True):
        zeros = numpy.roots(coefficients[::-1])
        real = zeros.real[numpy.abs(zeros.imag) <= _REAL * numpy.abs(zeros)]
        row[: len(real)] = torch.from_numpy(real.copy())
    return found.to(p.device)


@register(Rational)
def _(layer):
    return Rationals(layer)
