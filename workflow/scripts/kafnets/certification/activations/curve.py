"""What bounds need to know of a function of one number, channel by channel, in float64.

R is the number of rows: the channels, or 1 where all channels have the same function. Rows come first:
arguments and values are (R, U), with any number U of places in each row.
"""

import torch


class Curve:
    r"""A function of one number for each of R rows.

    Attributes:
        lipschitz (Tensor): :math:`(R)`, :math:`\sup |f'|`, sound and without gradient unless said.
        corners (Tensor): :math:`(R, K)`, sorted: all places where the slope jumps; :math:`K` may be 0.
        points (Tensor): :math:`(R, P)`, sorted: among them are all places where :math:`f` can turn from
            rising to falling or back, or they lie so close that `bend` bounds what is between them.
        bend (Tensor): :math:`(R, P + 1)`, of each cell between neighbouring points (and of both ends):
            :math:`\sup |f''|` there, or 0 where f is known to be monotone in the cell.
        linear (bool): between corners it is linear.
        convex (bool): it is convex in every row, and its `slope` is a subgradient.
        scale (Tensor): :math:`(R)`: rounding errors of a value in float64 are small against it.
        rounding (Tensor, Tensor): :math:`(a, b)`, each :math:`(R)`: what the layer computes in float32 is
            within :math:`2^{-24} (a + b |x|)` of :math:`f(x)`.
    """

    linear = False
    convex = False

    def value(self, x):
        """f(x), (R, U)."""
        raise NotImplementedError

    def slope(self, x):
        """f'(x), (R, U); at a corner any number between the slopes on both sides."""
        raise NotImplementedError

    def curvature(self, lower, upper):
        """At least sup |f''| on [lower, upper] without the corners, (R, U)."""
        raise NotImplementedError


class PiecewiseLinear(Curve):
    r"""A continuous function that is linear between corners.

    Args:
        corners (Tensor): :math:`(R, K)`, in any order, at least one.
        values (Tensor): :math:`(R, K)`: f there.
        left, right (Tensor): :math:`(R)`, the slopes before the first and behind the last.
        rounding (Tensor, Tensor): as of :class:`Curve`.
    """

    linear = True

    def __init__(self, corners, values, left, right, rounding):
        order = corners.detach().argsort(1)
        self.corners = self.points = corners.gather(1, order)
        self.values, self.left, self.right = values.gather(1, order), left, right
        widths = self.corners.diff(dim=1)
        slopes = self.values.diff(dim=1) / torch.where(widths > 0, widths, 1)
        self.slopes = torch.cat([left[:, None], slopes, right[:, None]], 1)
        self.bend = torch.zeros_like(self.slopes)
        self.lipschitz = self.slopes.abs().amax(1)
        self.scale = self.values.detach().abs().amax(1)
        self.rounding = rounding

    def value(self, x):
        cell = self._cells(x)
        anchor = (cell - 1).clamp(min=0)
        return self.values.gather(1, anchor) + self.slope(x) * (x - self.corners.gather(1, anchor))

    def slope(self, x):
        return self.slopes.gather(1, self._cells(x))

    def curvature(self, lower, upper):
        return torch.zeros_like(lower)

    def _cells(self, x):
        return torch.searchsorted(self.corners.detach().contiguous(), x.detach().contiguous(), right=True)


class RangeMax:
    """The largest of neighbouring numbers, in constant time for any stretch of them.

    Args:
        values (Tensor): (R, n). What is found has a gradient for them.
    """

    def __init__(self, values):
        self.values = values
        rows, size = values.shape
        found, level = torch.arange(size, device=values.device).expand(rows, size), [values.detach()]
        self.levels = [found]
        width = 1
        while 2 * width <= size:
            best = level[-1]
            one, other = best[:, : size - 2 * width + 1], best[:, width : size - width + 1]
            later = other > one
            index = torch.where(later, found[:, width : size - width + 1], found[:, : size - 2 * width + 1])
            level.append(torch.maximum(one, other))
            found = index
            self.levels.append(torch.nn.functional.pad(index, (0, size - index.shape[1])))
            width *= 2
        self.table = torch.stack([one.expand(rows, size) for one in self.levels]).reshape(
            len(self.levels), -1
        )

    def __call__(self, first, last):
        """The largest of values[first .. last], both (R, U), first <= last; where not, any of them."""
        rows, size = self.values.shape
        first, last = first.clamp(0, size - 1), last.clamp(0, size - 1)
        count = (last - first + 1).clamp(min=1)
        level = _log2(count, len(self.levels))
        row = torch.arange(rows, device=first.device)[:, None] * size
        start = level * self.table.shape[1] + row
        index = [
            self.table.view(-1)[start + place] for place in (first, (last - (1 << level) + 1).clamp(min=0))
        ]
        return torch.maximum(*(self.values.gather(1, one) for one in index))


def _log2(count, levels):
    """floor(log2(count)) of positive integers below 2^levels."""
    powers = 2 ** torch.arange(1, levels + 1, device=count.device)
    return torch.bucketize(count, powers, right=True)
