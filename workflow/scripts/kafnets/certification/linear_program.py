"""Bounds of tiny networks by linear programs: what the lines of CROWN are worth at best.

Each activation is replaced by the convex hull of its graph, up to what sampling leaves; the images and the
steps' results are variables. The solver's tolerances are not covered: it is a reference, not a proof.
"""

import itertools

import numpy as np
import torch

from ..runtime.errors import optional
from .crown import Lines, Relaxed
from .operations import Activation, Addition, Affine

PIECES = 16  # of an activation's interval, each with lines of its own
_FLAT = 1e-9  # intervals up to this width are left to their bounds


def lower_bounds(network, lower, upper, rows, pieces=PIECES, intermediate=True):
    """Lower bounds of linear functions of the logits, for one image; float64 array :math:`(R)`.

    Args:
        network (kafnets.certification.network.Network): as of :func:`.network.network_of`, of a few dozen
            numbers; its activations are pointwise.
        lower, upper (Tensor): of the image, float64 :math:`(1, C, H, W)`.
        rows (array-like): coefficients of the logits, :math:`(R, K)`.
        pieces (int): parts of each activation's interval whose lines make its hull.
        intermediate (bool): whether the bounds of the activations' inputs come from linear programs too, two
            for each of these numbers; else they are CROWN's. Default: ``True``

    Raises:
        ValueError: for maximum pooling, and for an activation that has no lines.
        UserError: without scipy.
    """
    program = _Program(network, lower, upper, pieces, intermediate)
    return np.array([program.least(len(network.steps) - 1, np.asarray(row, float)) for row in rows])


class _Program:
    """Variables for the results of all steps, one image's, and what is known of them."""

    def __init__(self, network, lower, upper, pieces, intermediate):
        self.sparse = optional("scipy.sparse", "statistics")
        self.solve = optional("scipy.optimize", "statistics").linprog
        self.network, self.pieces, self.intermediate = network, pieces, intermediate
        self.relaxed = Relaxed(network, lower, upper)
        sizes = [step.size for step in network.steps]
        self.starts = np.cumsum([0, *sizes])
        ends = [[end.flatten().numpy() for end in self.relaxed.ends(index)] for index in range(len(sizes))]
        self.lower, self.upper = (np.concatenate(side) for side in zip(*ends, strict=True))
        self.equal, self.values, self.at_most, self.limits = [], [], [], []
        for index, step in enumerate(network.steps[1:], 1):
            self._constrain(index, step)

    def _constrain(self, index, step):
        if isinstance(step.operation, Addition | Affine):
            self._equate(index, step)
        elif isinstance(step.operation, Activation):
            if self.intermediate:
                self._tighten(step.inputs[0])
            self._surround(index, step)
        else:
            raise ValueError(f"model: {step.name}: no linear program is known of maximum pooling")

    def _slice(self, index):
        return slice(self.starts[index], self.starts[index + 1])

    def _columns(self, blocks):
        """A matrix over all variables, from blocks for the results of some steps."""
        count = next(iter(blocks.values())).shape[0]
        whole = self.sparse.lil_matrix((count, self.starts[-1]))
        for index, block in blocks.items():
            whole[:, self._slice(index)] = self.sparse.lil_matrix(block)
        return whole.tocsr()

    def _equate(self, index, step):
        identity = self.sparse.identity(step.size)
        if isinstance(step.operation, Addition):
            blocks, values = {index: -identity}, np.zeros(step.size)
            for number in step.inputs:
                blocks[number] = blocks.get(number, 0) + identity
        else:
            matrix, offset = matrix_of(step.operation, self.network.steps[step.inputs[0]].shape)
            blocks, values = {index: -identity, step.inputs[0]: matrix.T}, -offset
        self.equal.append(self._columns(blocks))
        self.values.append(values)

    def _tighten(self, index):
        """The least and largest values of a step's numbers under what is known so far."""
        place = self._slice(index)
        for number in range(self.network.steps[index].size):
            unit = np.zeros(place.stop - place.start)
            unit[number] = 1
            least, most = self.least(index, unit), -self.least(index, -unit)
            position = place.start + number
            self.lower[position] = max(self.lower[position], min(least, self.upper[position]))
            self.upper[position] = min(self.upper[position], max(most, self.lower[position]))

    def _surround(self, index, step):
        """Lines above and below each activation: those of CROWN, and the edges of its hull."""
        (source,) = step.inputs
        shape = self.network.steps[source].shape
        ends = [
            torch.from_numpy(side[self._slice(source)]).view(1, *shape) for side in (self.lower, self.upper)
        ]
        lines = self.relaxed.lines[index]
        one_line = [
            getattr(lines, name)[0].flatten().numpy()
            for name in ("upper_slope", "upper_offset", "lower_slope", "lower_offset")
        ]
        x, above, below = self._corners(step.operation, *ends)
        rows = []
        for number in range(step.size):
            upper_lines, lower_lines = [[one_line[0][number], one_line[1][number]]], []
            lower_lines.append([one_line[2][number], one_line[3][number]])
            if x[-1, number] - x[0, number] > _FLAT:
                upper_lines += _edges(x[:, number], above[:, number])
                lower_lines += [
                    [-slope, -offset] for slope, offset in _edges(x[:, number], -below[:, number])
                ]
            output, entry = self.starts[index] + number, self.starts[source] + number
            rows += [(output, 1, entry, -slope, offset) for slope, offset in upper_lines]
            rows += [(output, -1, entry, slope, -offset) for slope, offset in lower_lines]
        outputs, signs, inputs, slopes, limits = (np.array(one) for one in zip(*rows, strict=True))
        count = np.arange(len(rows))
        matrix = self.sparse.csr_matrix((signs, (count, outputs)), (len(rows), self.starts[-1]))
        matrix += self.sparse.csr_matrix((slopes, (count, inputs)), (len(rows), self.starts[-1]))
        self.at_most.append(matrix)
        self.limits.append(limits)

    def _corners(self, operation, lower, upper):
        """Points whose hull the activation's graph lies in: (x, above, below), each (2P, K)."""
        share = torch.linspace(0, 1, self.pieces + 1, dtype=torch.float64).view(-1, *[1] * (lower.dim() - 1))
        x = lower + (upper - lower) * share
        x[-1:] = upper
        left, right = x[:-1], torch.maximum(x[1:], x[:-1])
        lines = Lines(*operation.bounds.relax(left, right))
        ends = torch.stack([left, right], 1)
        above = lines.upper_slope[:, None] * ends + lines.upper_offset[:, None]
        below = lines.lower_slope[:, None] * ends + lines.lower_offset[:, None]
        return [one.reshape(2 * self.pieces, -1).numpy() for one in (ends, above, below)]

    def least(self, index, row):
        """The least value of a linear function of a step's results."""
        objective = np.zeros(self.starts[-1])
        objective[self._slice(index)] = row
        known = {}
        if self.equal:
            known |= {"A_eq": self.sparse.vstack(self.equal), "b_eq": np.concatenate(self.values)}
        if self.at_most:
            known |= {"A_ub": self.sparse.vstack(self.at_most), "b_ub": np.concatenate(self.limits)}
        bounds = np.stack([self.lower, self.upper], 1)
        found = self.solve(objective, bounds=bounds, method="highs", **known)
        if found.status != 0:
            raise RuntimeError(f"the linear program was not solved: {found.message}")
        return found.fun


def matrix_of(operation, shape):
    """W' and b of an affine operation, as arrays."""
    size = torch.Size(shape).numel()
    identity = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad():
        matrix = operation.linear(identity).flatten(1)
        offset = operation(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    return matrix.numpy(), offset.numpy()


def _edges(x, y):
    """The edges of the upper convex hull of points, as (slope, offset); all points lie below each of them."""
    hull = []
    for number in np.lexsort((y, x)):
        point = x[number], y[number]
        while hull and point[0] == hull[-1][0]:
            hull.pop()  # lies below
        while len(hull) > 1 and _turn(hull[-2], hull[-1], point) >= 0:
            hull.pop()
        hull.append(point)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(hull)]
    return [[slope, (y - slope * x).max()] for slope in slopes]


def _turn(first, second, third):
    """Positive where the way over three points turns to the left."""
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])
