"""Learned splines: linear ones, 1-Lipschitz ones, and cubic ones.

A spline's values at a number depend on the few coefficients of the cell that it falls into; those alone get
a gradient from it.
"""

import torch

from .base import Learned, is_count, name_of, require, require_between, start_values

TAILS = ("linear", "clamp")
# Matrices B of (u^3, u^2, u, 1) B q: q are the four control points around a cell, u the place within it.
BASES = {
    "catmull_rom": (
        (-0.5, 1.5, -1.5, 0.5),
        (1.0, -2.5, 2.0, -0.5),
        (-0.5, 0.0, 0.5, 0.0),
        (0.0, 1.0, 0.0, 0.0),
    ),
    "b_spline": (
        (-1 / 6, 0.5, -0.5, 1 / 6),
        (0.5, -1.0, 0.5, 0.0),
        (-0.5, 0.0, 0.5, 0.0),
        (1 / 6, 2 / 3, 1 / 6, 0.0),
    ),
}


# By so much a slope may exceed 1: one of 1 that rounding made larger would be clipped, and never learn again.
_ROUNDING = 4e-6


class _Spline(Learned):
    """Coefficients at `knots` points evenly spaced on [-boundary, boundary]."""

    def __init__(self, channels, share, knots, boundary, init, least=3):
        super().__init__(channels, share)
        require(is_count(knots, least, 1000), "knots", f"an integer from {least} to 1000", knots)
        require_between("boundary", boundary, 1e-3, 1000)
        self.knots, self.boundary, self.init = int(knots), float(boundary), name_of(init)
        self.step = 2 * self.boundary / (self.knots - 1)
        self._start = self._coefficients_of(start_values(init, self._points()))
        self.hold("coefficients", self.knots)

    def _points(self):
        return torch.linspace(-self.boundary, self.boundary, self.knots, dtype=torch.float64, device="cpu")

    def _coefficients_of(self, values):
        """The coefficients of the spline that takes `values` at the knots."""
        return values

    @torch.no_grad()
    def reset_parameters(self):
        """Takes the values of the start at the knots."""
        self.coefficients.copy_(self._start.expand_as(self.coefficients))

    def _place(self, x):
        """The cell of each number, the first or last for what lies beyond, and the place in its units."""
        place = (x + self.boundary) / self.step
        cell = place.detach().nan_to_num(0.0).floor().clamp(0, self.knots - 2)
        return cell.long(), place - cell

    def extra_repr(self):
        text = f"{super().extra_repr()}, knots={self.knots}, boundary={self.boundary:g}"
        return f"{text}, init={self.init}"


def _pick(table, index):
    """Of `table`, (rows, n), the numbers at `index`, (N, C, *), each in the row of its channel."""
    rows, size = table.shape
    if rows > 1:
        first = torch.arange(rows, device=index.device) * size
        index = index + first.view(1, -1, *[1] * (index.dim() - 2))
    return table.flatten()[index]


def _rows(coefficients):
    """(1, rows, 1, ..., n) -> (rows, n)."""
    return coefficients.reshape(coefficients.shape[1], coefficients.shape[-1])


def _linear(c, cell, u):
    left = _pick(c, cell)
    return left + u * (_pick(c, cell + 1) - left)


class LinearSpline(_Spline):
    r"""Continuous and linear between evenly spaced knots; its coefficients are its values there.

    Beyond the knots it goes on with the slope of its last piece. The penalty ``tv2`` is its second-order
    total variation, the sum of the changes of slope (1e-4 in the source, with which few of them are left).

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"channel"``
        knots: 3 to 1000. Default: 51
        boundary: they lie on ``[-boundary, boundary]``, 0.001 to 1000. Default: 4.0
        init: the function whose values it starts with: a fixed activation's name, ``"identity"``, ``"abs"``,
            ``"leaky_relu"`` or a callable. Default: ``"leaky_relu"``
        tails: ``"linear"``, or ``"clamp"``: constant beyond the knots. Default: ``"linear"``

    Source: Bohra, Campos, Gupta, Aziznejad & Unser 2020, *Learning activation functions in deep (spline)
    neural networks*.
    """

    def __init__(self, channels, share="channel", knots=51, boundary=4.0, init="leaky_relu", tails="linear"):
        super().__init__(channels, share, knots, boundary, init)
        require(tails in TAILS, "tails", f"one of {', '.join(TAILS)}", tails)
        self.tails = tails
        self.reset_parameters()

    def curve(self, x, coefficients):
        cell, u = self._place(x)
        return _linear(_rows(coefficients), cell, u if self.tails == "linear" else u.clamp(0, 1))

    def total_variation(self):
        """The second-order total variation of each row, (rows,)."""
        return self.coefficients.diff(n=2).abs().sum(1) / self.step


class LipschitzSpline(_Spline):
    r"""A linear spline with slopes within [-1, 1] (to 4e-6, for rounding's sake).

    .. math:: f(x) = \frac{1}{|a|}\, s(|a|\, x)

    where :math:`s` interpolates :math:`c' = \text{cumsum}(T\,\text{clip}(\Delta c / T, -1, 1))`, shifted to
    the mean of the coefficients :math:`c`, and :math:`a` is learned, :math:`|a|` not below 0.001.

    Args:
        channels, share, knots, boundary: as of :class:`LinearSpline`
        init: as there; a start with steeper slopes is clipped. Default: ``"relu"``

    Source: Ducotterd, Goujon, Bohra, Perdios, Neumayer & Unser 2024, arXiv:2210.16222.
    """

    def __init__(self, channels, share="channel", knots=51, boundary=4.0, init="relu"):
        super().__init__(channels, share, knots, boundary, init)
        self.hold("scale")
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        super().reset_parameters()
        self.scale.fill_(1)

    def curve(self, x, coefficients, scale):
        scale = scale.abs().clamp(min=1e-3)
        cell, u = self._place(x * scale)
        return _linear(self._projected(_rows(coefficients)), cell, u) / scale

    def _projected(self, c):
        most = self.step * (1 + _ROUNDING)
        rises = c.diff().clamp(-most, most)
        climbed = torch.nn.functional.pad(rises.cumsum(1), (1, 0))
        return climbed + (c - climbed).mean(1, keepdim=True)

    def total_variation(self):
        """The second-order total variation of each row's :math:`s`, (rows,)."""
        return self._projected(self.coefficients).diff(n=2).abs().sum(1) / self.step


class CubicSpline(_Spline):
    r"""Spline activation function (SAF): cubic between evenly spaced knots.

    .. math:: f(x) = (u^3, u^2, u, 1)\, B\, (q_{i-1}, q_i, q_{i+1}, q_{i+2})^\top

    in cell :math:`i` at the place :math:`u`; the control points before the first and behind the last continue
    them on a line. It starts with the values of a function at the knots. The penalty ``saf_start`` is
    :math:`\|q - q_{\text{start}}\|^2`, which keeps its shape.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"channel"``
        knots, boundary: as of :class:`LinearSpline`; at least 4. Default: 21 on [-2, 2], 0.2 apart
        init: as there. Default: ``"tanh"``
        basis: ``"catmull_rom"``, through its control points, or ``"b_spline"``, with a continuous second
            derivative. Default: ``"catmull_rom"``
        tails: ``"clamp"``: constant beyond the knots, or ``"linear"``. Default: ``"clamp"``

    Source: Scardapane, Scarpiniti, Comminiello & Uncini 2017, arXiv:1605.05509.
    """

    def __init__(
        self,
        channels,
        share="channel",
        knots=21,
        boundary=2.0,
        init="tanh",
        basis="catmull_rom",
        tails="clamp",
    ):
        require(basis in tuple(BASES), "basis", f"one of {', '.join(BASES)}", basis)
        require(tails in TAILS, "tails", f"one of {', '.join(TAILS)}", tails)
        self.basis, self.tails = basis, tails  # before the start is fitted
        super().__init__(channels, share, knots, boundary, init, least=4)
        self.reset_parameters()

    def _coefficients_of(self, values):
        cells = self._at_cells(torch.eye(self.knots, dtype=torch.float64, device="cpu"))
        at_knots = torch.cat([cells[-1], cells.sum(0)[:, -1:]], 1)  # of each control point alone
        return torch.linalg.solve(at_knots.T, values)

    def _at_cells(self, q):
        """The coefficients of u^3, u^2, u and 1 in each cell: (..., n) -> (4, ..., n - 1)."""
        first, last = 2 * q[..., :1] - q[..., 1:2], 2 * q[..., -1:] - q[..., -2:-1]
        q = torch.cat([first, q, last], -1)
        near = [q[..., j : j + self.knots - 1] for j in range(4)]
        return torch.stack(
            [sum(b * one for b, one in zip(row, near, strict=True) if b) for row in BASES[self.basis]]
        )

    def curve(self, x, coefficients):
        cell, place = self._place(x)
        u = place.clamp(0, 1)
        a, b, c, d = (_pick(table, cell) for table in self._at_cells(_rows(coefficients)))
        y = ((a * u + b) * u + c) * u + d
        return y if self.tails == "clamp" else y + ((3 * a * u + 2 * b) * u + c) * (place - u)

    def distance_from_start(self):
        """The squared distance of the control points of each row from their start, (rows,)."""
        return (self.coefficients - self._start.to(self.coefficients)).square().sum(1)

    def extra_repr(self):
        return f"{super().extra_repr()}, basis={self.basis}, tails={self.tails}"
