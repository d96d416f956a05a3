"""KAF with a base on the CPU: base and tails lie in the tables, so that the pass over the input is `cpu`'s.

Cells that end at 0 (and at +-boundary, where the tails begin) have the kinks between them: within each the
whole function is smooth, and its polynomial reproduces it as it does a KAF. Its value and slope at the cells'
nodes are linear in alpha and in w, and so are the gradients in the nodes' cotangents.
"""

import functools
import math
from typing import NamedTuple

import torch

from . import cpu, portable
from .bases import base_value
from .cpu import Grid


class Nodes(NamedTuple):
    """What does not depend on alpha and w: kernels (D, cells * 7) and base (cells * 7) at the nodes."""

    grid: Grid
    kappa: torch.Tensor
    kappa_table: torch.Tensor  # their polynomials' coefficients (.., 7 * cells)
    slope_table: torch.Tensor
    base: torch.Tensor
    base_table: torch.Tensor
    base_slope_table: torch.Tensor
    ends: torch.Tensor  # (D, 4): kernels and their slopes at -boundary and at boundary


def supports(x, dictionary, bandwidth, form):
    """Whether the compiled code covers such a call."""
    shared = dictionary.dim() == 1 and bandwidth.dim() == 0
    if not cpu.supports(x, dictionary, bandwidth, "gaussian") or not (shared or form.tails == "zero"):
        return False
    return (
        not shared or _shared_cells(tuple(dictionary.tolist()), bandwidth.item(), form)[2] <= cpu._MOST_CELLS
    )


def forward(x, weight, alpha, dictionary, bandwidth, form):
    """The value of :func:`.bases.composed`."""
    mixture, weight = cpu._mixture(alpha, dictionary, bandwidth), weight.detach().double()
    grid, table, fields, _ = _tables(mixture, weight, form, slope=False)
    return cpu.run(x, None, grid, table, mixture, derivative=False, adjoint=False, **fields)[0]


def backward(grad, x, weight, alpha, dictionary, bandwidth, form, needs):
    """Gradients of x, weight, alpha, dictionary, bandwidth; None where `needs` (five booleans) is False."""
    mixture, wide = cpu._mixture(alpha, dictionary, bandwidth), weight.detach().double()
    grid, table, fields, nodes = _tables(mixture, wide, form, slope=True)
    grad_x, cotangent, outside = cpu.run(
        *(x, grad, grid, table if needs[0] else None, mixture),
        **{"derivative": True, "adjoint": any(needs[1:]), **fields},
    )
    if cotangent is None:
        return grad_x, None, None, None, None
    base = _base_at_nodes(grid, form.base)[0] if nodes is None else nodes.base
    by_weight = (cotangent * base).sum(1) + outside[:, 0]
    by_dictionary = by_bandwidth = None
    if nodes is not None and not any(needs[3:]):
        by_alpha = cotangent @ nodes.kappa.T + outside[:, 1:] @ _of_ends(nodes.ends, form).T
    else:
        by_alpha, by_dictionary, by_bandwidth = cpu.parameter_gradients(cotangent, grid, mixture, edges=True)
    return (
        grad_x,
        by_weight.to(weight.dtype) if needs[1] else None,
        by_alpha.to(alpha.dtype) if needs[2] else None,
        portable.like(by_dictionary, dictionary) if needs[3] else None,
        portable.like(by_bandwidth, bandwidth) if needs[4] else None,
    )


def _of_ends(ends, form):
    """(D, 4): how the outside sums (of g, and of g times the way beyond, left and right) go to alpha."""
    weights = {"zero": (0, 0, 0, 0), "clamp": (1, 0, 1, 0), "linear": (1, 1, 1, 1)}[form.tails]
    return ends * torch.tensor(weights, dtype=torch.float64)


def _tables(mixture, weight, form, slope):
    """The grid, coefficients (C, 7 * cells) of the function or its slope, the call's fields, the Nodes."""
    fields = {"base": form.base_number, "tails": form.tails_number, "boundary": form.boundary, "edges": True}
    if mixture.dictionary.dim() == 2 or mixture.bandwidth.dim() == 1:
        grid = _grid(*cpu._bounds(*mixture[1:]), cpu._cells(*mixture[1:]))
        table = cpu.interpolated(grid, mixture, derivative=slope, edges=True)
        of_base = _base_at_nodes(grid, form.base)[2 if slope else 1]
        return grid, (table + weight[:, None] * of_base).float(), {**fields, "weight": weight}, None
    nodes = _nodes(tuple(mixture.dictionary.tolist()), mixture.bandwidth.item(), form)
    kernels = nodes.slope_table if slope else nodes.kappa_table
    base = nodes.base_slope_table if slope else nodes.base_table
    ends = (mixture.alpha @ nodes.ends).contiguous()
    table = torch.addr(mixture.alpha @ kernels, weight, base).float()
    return nodes.grid, table, {**fields, "weight": weight, "ends": ends}, nodes


@functools.lru_cache(maxsize=64)
def _shared_cells(dictionary, gamma, form):
    """(inverse width, first, number) of the cells for a dictionary that all channels share."""
    dictionary, bandwidth = (torch.tensor(values, dtype=torch.float64) for values in (dictionary, gamma))
    low, high = (t.item() for t in cpu._bounds(dictionary, bandwidth))
    cells = cpu._cells(dictionary, bandwidth)
    if form.tails == "zero":
        inverse = (cells - 1) / (high - low)
        return inverse, math.floor(low * inverse), cells
    narrowest = math.sqrt(2 * gamma) / (2 * cpu._HALF_CELL)
    inverse = math.ceil(form.boundary * narrowest) / form.boundary
    cells = cpu._CELLS * math.ceil(2 * form.boundary * inverse / cpu._CELLS)
    return inverse, -cells // 2, cells


def _grid(low, high, cells):
    inverse = ((cells - 1) / (high - low)).reshape(-1).float()
    low = low.expand_as(high) if low.dim() < high.dim() else low
    return Grid(inverse, (low.reshape(-1) * inverse).floor().int(), cells)


def _places(grid):
    """The nodes (C, cells * 7) in units of the input."""
    at = torch.arange(grid.cells, dtype=torch.float64)[:, None] + 0.5 + cpu._chebyshev(cpu._NODES)
    return (grid.first.double()[:, None] + at.flatten()) / grid.inverse_width.double()[:, None]


def _base_at_nodes(grid, base):
    """The base at the nodes, (C, cells * 7), and the coefficients of it and of its slope, (C, 7 * cells)."""
    with torch.enable_grad():
        x = _places(grid).requires_grad_()
        values = base_value(x, base)
        (slopes,) = torch.autograd.grad(values.sum(), x)
    values = values.detach()
    return values, cpu._coefficients(values, grid.cells), cpu._coefficients(slopes, grid.cells)


@functools.lru_cache(maxsize=64)
def _nodes(dictionary, gamma, form):
    inverse, first, cells = _shared_cells(dictionary, gamma, form)
    dictionary = torch.tensor(dictionary, dtype=torch.float64)
    grid = Grid(torch.tensor([inverse]).float(), torch.tensor([first], dtype=torch.int32), cells)
    x = _places(grid)[0]
    bounds = torch.tensor([-form.boundary, form.boundary], dtype=torch.float64)
    inner = x if form.tails == "zero" else x.clamp(*bounds)
    kappa, slope = _kernels(inner, dictionary, gamma)
    ends = torch.stack(_kernels(bounds, dictionary, gamma), 2).flatten(1)
    if form.tails == "linear":
        kappa = kappa + slope * (x - inner)
    elif form.tails == "clamp":
        slope = slope * (x == inner)
    tables = (cpu._coefficients(values, cells) for values in (kappa, slope))
    return Nodes(grid, kappa, *tables, *(one[0] for one in _base_at_nodes(grid, form.base)), ends)


def _kernels(x, dictionary, gamma):
    """The kernels (D, n) and their slopes at x (n,)."""
    u = x - dictionary[:, None]
    kappa = torch.exp(-gamma * u.square())
    return kappa, -2 * gamma * u * kappa
