r"""CROWN: linear bounds of a network's outputs, taken backwards from the outputs to the images.

Between two lines, :math:`\underline{s} z + \underline{o} \le f(z) \le \overline{s} z + \overline{o}`, an
activation lets coefficients through: a lower bound takes the lower line where its coefficient is positive,
the upper one where it is negative. On a box of images the linear bound that is left is least at a corner.

Source: H. Zhang, T.-W. Weng, P.-Y. Chen, C.-J. Hsieh and L. Daniel, NeurIPS 2018, arXiv:1811.00866; with
intermediate bounds by intervals: H. Zhang et al., ICLR 2020, arXiv:1906.06316.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from .interval import Rounded, rounding
from .operations import Activation, Addition, Affine, Dense, Reshaping, Scaling, Selection

INTERMEDIATE = ("crown", "interval")
# bytes of the coefficients of one step, at most; a few such tensors are held at a time
MEMORY = 1 << 28
_FLOAT64 = 1e-11  # what sums of a million terms may be off by, as a share of their terms


def margins(network, lower, upper, labels, intermediate="crown", memory=MEMORY):
    """Lower bounds of how far the label's logit is above each other one; float64 :math:`(N, K)`, 0 at labels.

    They are never worse than those of :func:`.interval.margins`, but for rounding.

    Args:
        network (kafnets.certification.network.Network): as of :func:`.network.network_of`.
        lower, upper (Tensor): of the images, float64 :math:`(N, C, H, W)`.
        labels (Tensor): int64 :math:`(N)`.
        intermediate, memory: see :class:`Relaxed`.

    Raises:
        ValueError: for another `intermediate`, or an activation that has no lines.
    """
    relaxed = Relaxed(network, lower, upper, intermediate, memory)
    last = len(network.steps) - 1
    one_hot = torch.eye(network.num_classes, dtype=torch.float64, device=lower.device)
    rows = one_hot[labels][:, None] - one_hot
    by_lines = relaxed.lower_bounds(rows, last)
    operation = network.steps[last].operation
    read = network.steps[last].inputs[0] if isinstance(operation, Dense) else last
    by_intervals = Rounded().margins(operation, relaxed.intervals[read], labels)
    return torch.maximum(by_lines, by_intervals).masked_fill(one_hot[labels].bool(), 0.0)


@dataclass(frozen=True)
class Lines:
    """Of each number of an activation's output: lines of its input below and above it, :math:`(N, ...)`."""

    lower_slope: torch.Tensor
    lower_offset: torch.Tensor
    upper_slope: torch.Tensor
    upper_offset: torch.Tensor

    def back(self, rows):
        """The coefficients of the input, and the constant."""
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        before = positive * self.lower_slope[:, None] + negative * self.upper_slope[:, None]
        return before, _product(positive, self.lower_offset) + _product(negative, self.upper_offset)

    def size(self, largest):
        """The absolute values of a line's terms, added up, for inputs of absolute value `largest`."""
        slope = torch.maximum(self.lower_slope.abs(), self.upper_slope.abs())
        return slope * largest + torch.maximum(self.lower_offset.abs(), self.upper_offset.abs())


class Largest:
    """Bounds of the largest number of each window: the one whose lower bound is largest, or a constant.

    Args:
        operation (kafnets.certification.operations.MaxPooling)
        lower, upper (Tensor): of its input, :math:`(N, C, H, W)`.
    """

    def __init__(self, operation, lower, upper):
        self.shape = lower.shape[1:]
        rows, columns = self.shape[1:]
        places = torch.arange(rows * columns, dtype=lower.dtype, device=lower.device)
        places = operation.windows(places.view(1, 1, rows, columns))
        lowers, uppers = operation.windows(lower), operation.windows(upper)
        best, which = lowers.max(-1, keepdim=True)
        others = uppers.scatter(-1, which, -torch.inf).amax(-1)
        # it is the largest whatever the others are
        self.sure = (best[..., 0] >= others).to(lower.dtype)
        self.place = places.expand_as(lowers).gather(-1, which)[..., 0].long()
        self.constant = uppers.amax(-1)

    def back(self, rows):
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        chosen = positive + negative * self.sure[:, None]
        before = rows.new_zeros(*rows.shape[:2], self.shape[0], self.shape[1] * self.shape[2])
        place = self.place.flatten(2)[:, None].expand(-1, rows.shape[1], -1, -1)
        before.scatter_add_(3, place, chosen.flatten(3))
        constant = _product(negative, self.constant * (1 - self.sure))
        return before.view(*rows.shape[:2], *self.shape), constant

    def size(self, largest):
        return self.constant.abs() + largest.flatten(1).amax(1).view(-1, 1, 1, 1)


class Relaxed:
    """A network on boxes of images, with bounds of all steps and lines in the place of its activations.

    Args:
        network (kafnets.certification.network.Network): as of :func:`.network.network_of`.
        lower, upper (Tensor): of the images, float64 :math:`(N, C, H, W)`.
        intermediate (str): where the bounds of the activations' inputs come from: "crown": each from linear
            bounds of its own, which costs a pass for each of these numbers; "interval": from intervals.
        memory (int): bytes that the coefficients of one step may take, at most.

    Attributes:
        intervals (list of (Tensor, Tensor)): of each step, centre and radius.
        lines (dict): by the number of a step, what stands in the place of its activation.
    """

    def __init__(self, network, lower, upper, intermediate="crown", memory=MEMORY):
        if intermediate not in INTERMEDIATE:
            raise ValueError(f"intermediate: must be one of {', '.join(INTERMEDIATE)}, got {intermediate!r}")
        self.network, self.memory = network, memory
        self.visit = Rounded()
        self.intervals, self.lines = [self.visit.between(lower, upper)], {}
        curved = {n for step in network.steps if not _is_linear(step) for n in step.inputs}
        boxes = {0}  # steps whose results can take all values of their intervals, each for itself
        with torch.no_grad():
            for index, step in enumerate(network.steps[1:], 1):
                inputs = [self.intervals[number] for number in step.inputs]
                if not _is_linear(step):
                    self.lines[index] = self._lines(step)
                self.intervals.append(self.visit(step, *inputs))
                of_box = boxes.issuperset(step.inputs)
                if of_box and isinstance(step.operation, Scaling | Reshaping | Selection):
                    boxes.add(index)
                # of an affine function of a box the interval is exact
                if intermediate == "crown" and index in curved and not (of_box and _is_linear(step)):
                    self.intervals[index] = self._tightened(index)

    def ends(self, index):
        """The bounds of a step as (lower, upper), :math:`(N, ...)`."""
        return self.visit.ends(*self.intervals[index])

    def largest(self, index):
        """The largest absolute values of a step's numbers."""
        center, radius = self.intervals[index]
        return center.abs() + radius

    def _lines(self, step):
        operation, (number,) = step.operation, step.inputs
        if not isinstance(operation, Activation):
            return Largest(operation, *self.ends(number))
        try:
            return Lines(*operation.bounds.relax(*self.ends(number)))
        except ValueError as error:
            raise ValueError(f"model: {step.name}: {error}") from None

    def _tightened(self, index):
        """The interval of a step from linear bounds of each of its numbers, where they are tighter."""
        lower, upper = self.ends(index)
        shape, size, count = self.network.steps[index].shape, self.network.steps[index].size, len(lower)
        lowers, uppers = [], []
        for start in range(0, size, self.rows_at_once(count)):
            several = torch.arange(start, min(start + self.rows_at_once(count), size), device=lower.device)
            rows = functional.one_hot(several, size).to(lower).view(1, -1, *shape)
            rows = rows.expand(count, *rows.shape[1:])
            lowers.append(self.lower_bounds(rows, index))
            uppers.append(-self.lower_bounds(-rows, index))
        lower = torch.maximum(lower, torch.cat(lowers, 1).view_as(lower))
        upper = torch.minimum(upper, torch.cat(uppers, 1).view_as(upper))
        return self.visit.between(lower, upper)

    def rows_at_once(self, count):
        """How many rows of coefficients for `count` images the memory holds."""
        widest = max(step.size for step in self.network.steps)
        return max(self.memory // (8 * count * widest), 1)

    @torch.no_grad()
    def lower_bounds(self, rows, index):
        r"""Lower bounds of linear functions of a step's result.

        Args:
            rows (Tensor): their coefficients, float64 :math:`(N, R, \ldots)`, R functions for each image.
            index (int): the step's number.

        Returns:
            Tensor: float64 :math:`(N, R)`.
        """
        waiting, total = {index: rows}, rows.new_zeros(rows.shape[:2])
        for number in range(index, 0, -1):
            rows = waiting.pop(number, None)
            if rows is None:
                continue
            befores, constant = self._back(number, rows)
            total = total + constant
            for source, before in zip(self.network.steps[number].inputs, befores, strict=True):
                waiting[source] = waiting[source] + before if source in waiting else before
        if 0 in waiting:
            lower, upper = self.ends(0)
            rows = waiting[0]
            total = total + _product(rows.clamp(min=0), lower) + _product(rows.clamp(max=0), upper)
            total = total - _FLOAT64 * _product(rows.abs(), self.largest(0))
        return total

    def _back(self, number, rows):
        """The coefficients of a step's inputs, and the constant, less what rounding may do."""
        step = self.network.steps[number]
        operation, largest = step.operation, self.largest(step.inputs[0])
        if isinstance(operation, Addition):
            size = largest + self.largest(step.inputs[1])
            return (rows, rows), -self._doubt(2) * _product(rows.abs(), size)
        if not isinstance(operation, Affine):
            lines = self.lines[number]
            before, constant = lines.back(rows)
            return (before,), constant - _FLOAT64 * _product(rows.abs(), lines.size(largest))
        shape = self.network.steps[step.inputs[0]].shape
        before = operation.transposed(rows.flatten(0, 1), shape).view(*rows.shape[:2], *shape)
        size = operation.spread(largest) + operation.offset_size()
        constant = -self._doubt(operation.terms) * _product(rows.abs(), size)
        offset = operation.offset()
        if isinstance(offset, torch.Tensor):
            constant = constant + _product(rows, offset.expand(1, *step.shape))
        return (before,), constant

    @staticmethod
    def _doubt(terms):
        return rounding(terms) + _FLOAT64


def _is_linear(step):
    return isinstance(step.operation, Affine | Addition | type(None))


def _product(rows, values):
    """Of each row, (N, R, ...), with the values of its image, (N, ...) or (1, ...)."""
    values = values.expand(len(rows), *values.shape[1:])
    return torch.einsum("nrk,nk->nr", rows.flatten(2), values.flatten(1))
