"""The curve of cubic splines: per cell a cubic, of which all is known."""

import torch

from ...activations.splines import CubicSpline
from .curve import Curve, RangeMax
from .dispatch import register
from .families import in_float64

_NEAR = 1e-9  # of a cell's width: a place so close to a knot may be on either side


class Cubics(Curve):
    """A cubic spline activation.

    Args:
        layer (CubicSpline)
    """

    def __init__(self, layer):
        self.value = in_float64(layer)
        self.step, self.boundary = layer.step, layer.boundary
        a, b, c, d = layer._at_cells(layer.coefficients.double())  # in each cell, of its place in cell widths
        knots = layer._points().to(a.device).expand(len(a), -1)
        ends = knots[:, [0, -1]]
        self.corners = ends if layer.tails == "clamp" else ends[:, :0]
        turns = [knots[:, :-1] + self.step * u.clamp(0, 1) for u in _zeros(3 * a, 2 * b, c)]
        self.points = torch.cat([knots, *turns], 1).detach().sort(1).values
        self.bend = self.points.new_zeros(len(a), self.points.shape[1] + 1)
        vertex = torch.where(a == 0, 0, -b / (3 * torch.where(a == 0, 1, a))).clamp(0, 1)
        slopes = [(3 * a * u + 2 * b) * u + c for u in (torch.zeros_like(a), torch.ones_like(a), vertex)]
        self.lipschitz = torch.stack(slopes).abs().amax((0, 2)) / self.step
        self.bends = RangeMax((torch.maximum(b.abs(), (3 * a + b).abs()) * 2 / self.step**2).detach())
        size = sum(one.detach().abs() for one in (a, b, c, d)).amax(1)
        steep = self.lipschitz.detach()
        self.rounding = (16 * (size + steep * self.boundary), 16 * steep)

    def curvature(self, lower, upper):
        places = ((end + self.boundary) / self.step for end in (lower, upper))
        first, last = (
            (place + near).floor().long() for place, near in zip(places, (-_NEAR, _NEAR), strict=True)
        )
        cells = self.bends.values.shape[1]
        return torch.where((last >= 0) & (first < cells), self.bends(first, last), 0.0)


def _zeros(a, b, c):
    """The zeros of a u^2 + b u + c, each at infinity where there is none."""
    root = (b * b - 4 * a * c).clamp(min=0).sqrt()
    q = -(b + torch.where(b < 0, -root, root)) / 2
    return [torch.where(bottom == 0, torch.inf, top / bottom) for top, bottom in ((q, a), (c, q))]


@register(CubicSpline)
def _(layer):
    return Cubics(layer)
