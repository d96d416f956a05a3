"""What bounds need to know of a function of one number, channel by channel, in float64.

R is the number of rows: the channels, or 1 where all channels have the same function. Rows come first:
arguments and values are (R, U), with any number U of places in each row.
"""

import torch


class Curve:
    r"""A function of one number for each of R rows.

    Attributes:
        lipschitz (Tensor): :math:`(R)`, at least :math:`\sup |f'|`, with a gradient.
        corners (Tensor): :math:`(R, K)`: all places where the slope jumps; :math:`K` may be 0.
        points (Tensor): :math:`(R, P)`, sorted: among them are all places where f turns from rising to
            falling or back, or they lie so close that `bend` bounds what is between them.
        bend (Tensor): :math:`(R, P + 1)`, of each cell between neighbouring points, and of both ends: at
            least :math:`\sup |f''|` there, or 0 where f is known to be monotone in the cell.
        linear (bool): between corners it is linear.
        convex (bool): it is convex in every row.
        rounding (Tensor, Tensor): :math:`(a, b)`, each :math:`(R)`: what the layer computes in float32 is
            within :math:`2^{-24} (a + b |x|)` of :math:`f(x)`; `value` within :math:`2^{-50} (a + b |x|)`.
    """

    linear = False
    convex = False

    def value(self, x):
        """f(x), (R, U)."""
        raise NotImplementedError

    def slope(self, x):
        """Of a convex function: a subgradient, (R, U)."""
        raise NotImplementedError

    def curvature(self, lower, upper):
        """At least sup |f''| on [lower, upper] without the corners, (R, U); without a gradient."""
        raise NotImplementedError


class PiecewiseLinear(Curve):
    """A continuous function that is linear between corners.

    Args:
        value (callable): (R, U) -> (R, U).
        corners (Tensor): :math:`(R, K)`, sorted, at least one; places without a corner do not harm.
        lipschitz, rounding: as of :class:`Curve`.
    """

    linear = True

    def __init__(self, value, corners, lipschitz, rounding):
        self.value, self.lipschitz = value, lipschitz
        self.corners = self.points = corners.double()
        self.bend = self.corners.new_zeros(len(corners), corners.shape[1] + 1)
        self.rounding = tuple(one.detach().double() for one in rounding)


class RangeMax:
    """The largest of neighbouring numbers, in constant time for any stretch of them.

    Args:
        values (Tensor): (R, n). What is found has a gradient for them.
    """

    def __init__(self, values):
        self.values = values
        rows, size = values.shape
        best, place = (
            values.detach(),
            torch.arange(size, dtype=torch.int32, device=values.device).expand(rows, size),
        )
        tables, width = [place], 1  # of the largest of `width` numbers, by the first of them
        while 2 * width <= size:
            one, other = slice(None, size - 2 * width + 1), slice(width, size - width + 1)
            later = best[:, other] > best[:, one]
            place = torch.where(later, place[:, other], place[:, one])
            best = torch.maximum(best[:, one], best[:, other])
            tables.append(torch.nn.functional.pad(place, (0, size - place.shape[1])))
            width *= 2
        self.tables = torch.stack(tables)  # indices: what is found keeps its gradient

    def __call__(self, first, last):
        """The largest of values[first .. last], both (R, U), first <= last; where not, any of them."""
        levels, rows, size = self.tables.shape
        first, last = first.clamp(0, size - 1), last.clamp(0, size - 1)
        powers = 2 ** torch.arange(1, levels, device=first.device)
        level = torch.bucketize((last - first + 1).clamp(min=1).contiguous(), powers, right=True)
        begin = level * (rows * size) + torch.arange(rows, device=first.device)[:, None] * size
        starts = first, (last + 1 - 2**level).clamp(min=0)
        found = (self.values.gather(1, self.tables.view(-1)[begin + start].long()) for start in starts)
        return torch.maximum(*found)
