"""Bounds of an activation on intervals, unit by unit, from its :class:`.curve.Curve`."""

from functools import partial
from typing import NamedTuple

import torch

from .curve import RangeMax

SAMPLES = 64  # of an interval; even, so that its middle is none of them
_AT_ONCE = 1 << 22  # numbers in a tensor of samples
_FLOAT64, _FLOAT32 = 2.0**-50, 2.0**-24


class Relaxation(NamedTuple):
    r"""Lines: :math:`s_l x + o_l \le f(x) \le s_u x + o_u` for all x in [l, u]; tensors of the shape of l."""

    lower_slope: torch.Tensor
    lower_offset: torch.Tensor
    upper_slope: torch.Tensor
    upper_offset: torch.Tensor


class ActivationBounds:
    r"""Sound bounds of one activation layer.

    They hold for the function that the layer's parameters, as they are now, define, and, with `rounding`, for
    the values that it computes in float32 too. All is evaluated in float64 and moved outwards by what
    rounding there can do. Results have the dtype of `lower`: of float32 ones the last digit is moved, too.
    Gradients reach `lower`, `upper` and the layer's parameters unless they are switched off.

    Args:
        curve (Curve): what is known of the function.
        rounding (bool): whether the layer's own rounding in float32 is covered. Default: ``True``
    """

    def __init__(self, curve, rounding=True):
        self.curve, self.rounding = curve, float(bool(rounding))
        self._tables = None

    def lipschitz(self):
        r""":math:`\sup_x |f'(x)|` of each channel, float64, (C,); (1,) where all channels are alike.

        It is that of the function itself: what rounding makes of it jumps by a last digit.
        """
        return self.curve.lipschitz * (1 + 16 * _FLOAT64)

    def range(self, lower, upper):
        """The least and the largest value on [lower, upper].

        Args:
            lower, upper (Tensor): (N, C, *), finite, lower <= upper.

        Returns:
            (Tensor, Tensor): of their shape.

        Raises:
            ValueError: for other tensors.
        """
        return self._in_rows(self._range, lower, upper)

    def relax(self, lower, upper, parallel=False):
        r"""Lines below and above the function on [lower, upper].

        Args:
            lower, upper: as of :meth:`range`.
            parallel (bool): both lines have the slope of the chord. Without, each is the tangent, at the
                middle of the interval, of the convex (concave) envelope: of all lines that with the least
                area between it and the function. Default: ``False``

        Returns:
            Relaxation
        """
        relax = partial(self._parallel if parallel else self._tangents, dtype=lower.dtype)
        return Relaxation(*self._in_rows(self._by_parts(relax), lower, upper, outwards=(0, -1, 0, 1)))

    # -- ranges ----------------------------------------------------------------------------------------------

    def _range(self, lower, upper):
        values = torch.stack([self.curve.value(lower), self.curve.value(upper)])
        slack = self._error(values.abs().amax(0), lower, upper)
        low, high = values.amin(0), values.amax(0)
        if self.curve.points.shape[1]:
            points = self.curve.points.detach().contiguous()
            first = torch.searchsorted(points, lower.detach().contiguous())
            last = torch.searchsorted(points, upper.detach().contiguous(), right=True) - 1
            # points first .. last lie in [lower, upper]: none, one, or more with whole cells between them
            tops, bottoms = self._extremes()
            high = _with(high, torch.maximum, tops(first, last), last >= first)
            low = _with(low, torch.minimum, -bottoms(first, last), last >= first)
            slack = slack + self._beside(first, last, lower, upper)
        return low - slack, high + slack

    def _extremes(self):
        """The largest numbers of f and of -f at the points, and in the cells between them."""
        if self._tables is None:
            points, values = self.curve.points, self.curve.value(self.curve.points)
            widths = points.detach().diff(dim=1)
            slack = widths.square() / 8 * self.curve.bend[:, 1:-1].detach()
            self._tables = tuple(_Largest(sign * values, slack) for sign in (1, -1))
        return self._tables

    def _beside(self, first, last, lower, upper):
        """How far f leaves what its values at the ends and at points say, in the cells of both ends."""
        bend, points = self.curve.bend.detach(), self.curve.points.detach()
        size = points.shape[1]
        width = (upper - lower).detach()
        before = points.gather(1, first.clamp(max=size - 1)) - lower
        behind = upper - points.gather(1, last.clamp(min=0))
        inside = last >= first
        before, behind = (torch.where(inside, one, width) for one in (before, behind))
        # with no point between them both ends lie in the cell before `first`, which is `last + 1`
        return torch.maximum(
            before.square() / 8 * bend.gather(1, first), behind.square() / 8 * bend.gather(1, last + 1)
        )

    # -- lines -----------------------------------------------------------------------------------------------

    # The offsets are those of the slopes as they are returned, rounded to `dtype`.

    def _tangents(self, lower, upper, dtype):
        if self.curve.convex:
            return self._convex(lower, upper, dtype)
        x, y, slack = self._samples(lower, upper)
        middle = (lower + upper) / 2
        upper_slope = _tangent_slope(x.detach(), y.detach(), middle.detach())
        lower_slope = -_tangent_slope(x.detach(), -y.detach(), middle.detach())
        lines = self._lines(x, y, slack, lower_slope.to(dtype).double(), upper_slope.to(dtype).double())
        if self.curve.linear:
            return lines
        # where the samples are too few for f, the range is better
        low, high = self._range(lower, upper)
        zero = torch.zeros_like(middle)
        under = _where(lines[0] * middle + lines[1] < low, (zero, low), lines[:2])
        return *under, *_where(lines[2] * middle + lines[3] > high, (zero, high), lines[2:])

    def _parallel(self, lower, upper, dtype):
        x, y, slack = self._samples(lower, upper)
        slope = _chord(x[..., 0], y[..., 0], x[..., -1], y[..., -1]).to(dtype).double()
        return self._lines(x, y, slack, slope, slope)

    def _convex(self, lower, upper, dtype):
        """The tangent at the middle, and the chord."""
        middle = (lower + upper) / 2
        ends, values = torch.stack([lower, upper], -1), (self.curve.value(lower), self.curve.value(upper))
        tangent = self.curve.slope(middle)
        lower_slope = tangent.to(dtype).double()
        upper_slope = _chord(lower, values[0], upper, values[1]).to(dtype).double()
        error = self._line_error(values[0].abs().maximum(values[1].abs()), lower_slope, upper_slope, ends)
        turned = (tangent - lower_slope).abs() * (upper - lower) / 2  # about the middle
        lower_offset = self.curve.value(middle) - lower_slope * middle - turned
        upper_offset = torch.maximum(values[0] - upper_slope * lower, values[1] - upper_slope * upper)
        return lower_slope, lower_offset - error, upper_slope, upper_offset + error

    def _lines(self, x, y, slack, lower_slope, upper_slope):
        above = (y - upper_slope[..., None] * x).amax(-1)
        below = (y - lower_slope[..., None] * x).amin(-1)
        ends = torch.stack([x[..., 0], x[..., -1]], -1)
        slack = slack + self._line_error(y.abs().amax(-1), lower_slope, upper_slope, ends)
        return lower_slope, below - slack, upper_slope, above + slack

    def _samples(self, lower, upper):
        """Places from `lower` to `upper`, the values there, and how far f leaves the chords between them."""
        corners = self.curve.corners[:, None].expand(len(lower), lower.shape[1], -1)
        inner = corners.maximum(lower[..., None]).minimum(upper[..., None])
        if self.curve.linear:
            x, slack = torch.cat([lower[..., None], inner, upper[..., None]], -1), 0
        else:
            even = torch.linspace(0, 1, SAMPLES, dtype=lower.dtype, device=lower.device)
            even = torch.lerp(lower[..., None], upper[..., None], even)
            even = torch.cat([lower[..., None], even[..., 1:-1], upper[..., None]], -1)  # the ends exactly
            x = torch.cat([even[..., :-1], inner, even[..., -1:]], -1)
            step = (upper - lower) / (SAMPLES - 1)
            slack = step.square() / 8 * self.curve.curvature(lower, upper)
        return x, self.curve.value(x.flatten(1)).view_as(x), slack

    # -- rounding --------------------------------------------------------------------------------------------

    def _error(self, size, lower, upper):
        """What rounding can do to values of this size, here and, if that is covered, in the layer."""
        absolute, relative = (one[:, None] for one in self.curve.rounding)
        farthest = torch.maximum(lower.detach().abs(), upper.detach().abs())
        error = (_FLOAT64 + self.rounding * _FLOAT32) * (absolute + relative * farthest)
        return error + 8 * _FLOAT64 * size.detach()

    def _line_error(self, size, lower_slope, upper_slope, ends):
        steepest = torch.maximum(lower_slope.detach().abs(), upper_slope.detach().abs())
        farthest = ends.detach().abs().amax(-1)
        return self._error(size + steepest * farthest, ends[..., 0], ends[..., 1])

    # -- shapes ----------------------------------------------------------------------------------------------

    def _in_rows(self, function, lower, upper, outwards=(-1, 1)):
        """Applies a function of (R, U) float64 tensors to tensors of a layer's shape."""
        _check(lower, upper, len(self.curve.points))
        one_row = len(self.curve.points) == 1
        moved = lower.shape if one_row else lower.movedim(1, 0).shape
        found = function(*(_rows(end, one_row).double() for end in (lower, upper)))
        return tuple(
            _narrow(one.reshape(moved) if one_row else one.reshape(moved).movedim(0, 1), lower.dtype, way)
            for one, way in zip(found, outwards, strict=True)
        )

    def _by_parts(self, function):
        """The function of as many units at a time as the memory of their samples allows."""
        rows, samples = len(self.curve.points), SAMPLES + self.curve.corners.shape[1]

        def all_parts(lower, upper):
            units = max(1, _AT_ONCE // (rows * samples))
            parts = [
                function(*ends) for ends in zip(lower.split(units, 1), upper.split(units, 1), strict=True)
            ]
            return [torch.cat(one, 1) for one in zip(*parts, strict=True)]

        return all_parts


class _Largest:
    """The largest of `values`, (R, P), at points and between them, where they are `slack` higher at most."""

    def __init__(self, values, slack):
        self.points = RangeMax(values)
        between = bool((slack > 0).any())
        self.cells = RangeMax(torch.maximum(values[:, :-1], values[:, 1:]) + slack) if between else None

    def __call__(self, first, last):
        """From point `first` to `last`, (R, U)."""
        found = self.points(first, last)
        if self.cells is None:
            return found
        return _with(found, torch.maximum, self.cells(first, last - 1), last > first)


def _where(condition, ones, others):
    return [torch.where(condition, one, other) for one, other in zip(ones, others, strict=True)]


def _with(values, function, others, where):
    return torch.where(where, function(values, others), values)


def _chord(left, left_value, right, right_value):
    width = right - left
    return (right_value - left_value) / torch.where(width > 0, width, 1) * (width > 0)


@torch.no_grad()
def _tangent_slope(x, y, middle):
    """The slope of the concave envelope of points (..., n), the first and last of them its ends, at `middle`.

    Of the lines above all points that with the least value at the middle is found by cutting planes: a chord
    over the middle, from whose ends it goes on to the point that lies highest above it.
    """
    left, left_value, right, right_value = x[..., 0], y[..., 0], x[..., -1], y[..., -1]
    for _ in range(x.shape[-1]):
        slope = _chord(left, left_value, right, right_value)
        above = y - slope[..., None] * x
        best, place = above.max(-1)
        higher = best > left_value - slope * left
        higher &= best - (left_value - slope * left) > 1e-12 * (1 + best.abs())
        if not higher.any():
            break
        at, value = (t.gather(-1, place[..., None])[..., 0] for t in (x, y))
        beyond = at > middle
        right, right_value = (torch.where(higher & beyond, *p) for p in ((at, right), (value, right_value)))
        left, left_value = (torch.where(higher & ~beyond, *p) for p in ((at, left), (value, left_value)))
    return slope


def _rows(tensor, one_row):
    return tensor.reshape(1, -1) if one_row else tensor.movedim(1, 0).flatten(1)


def _narrow(tensor, dtype, way):
    """The tensor in this dtype, moved up (1) or down (-1) by what that may have rounded away."""
    if dtype == torch.float64 or not way:
        return tensor.to(dtype)
    digit = torch.finfo(dtype)
    return (tensor + way * (tensor.detach().abs() * digit.eps + digit.tiny)).to(dtype)


def _check(lower, upper, rows):
    fits = lower.shape == upper.shape and lower.dim() >= 2 and (rows == 1 or lower.shape[1] == rows)
    if not fits or not lower.is_floating_point():
        raise ValueError(
            f"lower and upper must be floating-point tensors (N, {'C' if rows == 1 else rows}, *), "
            f"got {tuple(lower.shape)} and {tuple(upper.shape)}"
        )
    if not bool(((lower <= upper) & lower.isfinite() & upper.isfinite()).all()):
        raise ValueError("lower and upper must be finite, and lower at most upper")
