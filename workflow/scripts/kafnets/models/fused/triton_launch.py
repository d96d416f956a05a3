"""Normalisation, addition and activation by the Triton kernels: their launches, and the node for autograd.

Memory traffic in numbers of the size of x, read + written (a: with `added`, r: with `residual`, k: copies):

=============================  =============================  ================================================
kernel                         here                           torch's own operations
=============================  =============================  ================================================
statistics                     1 + 0; a: 2 + 1                1 + 0; a: another 2 + 1 for the addition
apply                          1 + 1; r: 2 + 1                1 + 1, activation 1 + 1; r: another 2 + 1
backward_sums                  1 + k + 0; stored: 1 + k + 1   activation 2 + 1, sums 2 + 0; k: another 2 + 1
backward_input                 1 + k + 1; stored: 2 + 1       2 + 1
=============================  =============================  ================================================

The sum x + added is stored: read twice in the forward pass instead, it would cost the same there, and one
more tensor in each of the two backward kernels. "Stored": the gradient before the activation is written by
the first backward kernel and read by the second. It is where it is asked for (the gradient of `residual`),
where it costs a KAF, and where several gradients would be read twice.
"""

from typing import NamedTuple

import torch

from ...activations.inlined import Inlined
from . import triton_kernels as kernels

_CHANNELS = 16  # of a tile at most, where the channels lie side by side in memory
_PARTS = 128  # programs of a kernel that sums up: one for each multiprocessor of a large GPU, or nearly
_PROGRAMS = 256  # of the other kernels
_WARPS = {_PARTS: 16, _PROGRAMS: 8}
_ELEMENTS = 8  # that a thread takes at a time
_ELEMENTS_LEARNED = 2  # beside the coefficients of the activation and their sums


class Site(NamedTuple):
    """What is not differentiated of a call."""

    norm: torch.nn.BatchNorm2d
    form: Inlined
    shift: torch.Tensor | None
    copies: int


def normalise_activate(x, added, residual, site):
    """The outputs, as many as site.copies, of arguments that `operators` has found to be covered."""
    norm, learned = site.norm, site.form.learned
    return _Fused.apply(x, added, residual, norm.weight, norm.bias, learned, site)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, added, residual, weight, bias, learned, site):
        ctx.set_materialize_grads(False)
        x, added, residual = (None if t is None else _as(t, x) for t in (x, added, residual))
        with torch.cuda.device_of(x):  # Triton launches on the current device, whatever its arguments'
            total, y, stats = _forward(x, added, residual, site)
        ctx.save_for_backward(total, residual, stats, weight, bias, *site.form.parameters[: _tensors(site)])
        ctx.site = site
        return y, *(y.detach() for _ in range(site.copies - 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        total, residual, stats, weight, bias, *tensors = ctx.saved_tensors
        grads = [_as(grad, total) for grad in grads if grad is not None]
        if not grads:
            return (None,) * 7
        form = ctx.site.form
        form = form._replace(parameters=tuple(tensors)) if tensors else form
        with torch.cuda.device_of(total):
            by = _backward(total, residual, grads, stats, weight, bias, form, ctx.needs_input_grad)
        grad_x, grad_residual, *others = by
        needs_x, needs_added, *_ = ctx.needs_input_grad
        return grad_x if needs_x else None, grad_x if needs_added else None, grad_residual, *others, None


def _tensors(site):
    """How many of the activation's parameters are tensors."""
    return len(site.form.parameters) if site.form.prepare else 0


def _as(tensor, x):
    """`tensor` detached, in memory as `x` is."""
    if tensor.stride() != x.stride():
        return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)
    return tensor.detach()


class _Tiles(NamedTuple):
    """How a tensor is dealt out to the programs of a kernel."""

    grid: tuple
    arguments: dict


def _tiles(x, programs, form):
    batch, channels, rows, columns = x.shape
    points = batch * rows * columns
    side_by_side = x.is_contiguous(memory_format=torch.channels_last)
    block_c = min(_CHANNELS, 1 << (channels - 1).bit_length()) if side_by_side else 1
    threads = 32 * _WARPS[programs]
    block_p = threads * (_ELEMENTS_LEARNED if form and form.prepare else _ELEMENTS) // block_c
    groups = -(-channels // block_c)
    blocks = -(-points // block_p)
    share = -(-blocks // max(1, programs // groups)) * block_p
    return _Tiles(
        (-(-points // share), groups),
        {
            "points": points,
            "channels": channels,
            "positions": rows * columns,
            "share": share,
            "SIDE_BY_SIDE": side_by_side,
            "BLOCK_P": block_p,
            "BLOCK_C": block_c,
            "num_warps": _WARPS[programs],
        },
    )


def _activation(form, *functions):
    """The arguments of a kernel that say which activation it computes."""
    names = {"PREPARE": form.prepare, "VALUE": form.value, "SLOPE": form.slope, "WEIGHT": form.weight}
    sizes = dict(zip(("D", "GROUPS", "GROUP"), form.sizes, strict=True))
    parameters = tuple(p.detach() if isinstance(p, torch.Tensor) else p for p in form.parameters)
    return {"parameters": parameters, **{name: names[name] for name in functions}, **sizes}


def _forward(x, added, residual, site):
    """x + added, the output, and mean and 1 / standard deviation (2, C)."""
    norm = site.norm
    tracked = norm.track_running_stats
    counter = norm.num_batches_tracked if tracked else None
    total = x if added is None else torch.empty_like(x)
    tiles = _tiles(x, _PARTS, None)
    partials = x.new_empty(2, tiles.grid[0], x.shape[1], dtype=torch.float32)
    kernels.statistics[tiles.grid](
        x, added, None if added is None else total, partials, counter, **tiles.arguments
    )
    y = torch.empty_like(x)
    stats = x.new_empty(2, x.shape[1], dtype=torch.float32)
    parts, part_share = tiles.grid[0], tiles.arguments["share"]
    tiles = _tiles(x, _PROGRAMS, site.form)
    kernels.apply[tiles.grid](
        total,
        residual,
        y,
        partials,
        stats,
        norm.weight,
        norm.bias,
        norm.running_mean if tracked else None,
        norm.running_var if tracked else None,
        counter,
        site.shift,
        norm.momentum,
        norm.eps,
        parts=parts,
        part_share=part_share,
        PARTS=_PARTS,
        **_activation(site.form, "PREPARE", "VALUE"),
        **tiles.arguments,
    )
    if tracked:
        torch.autograd.graph.increment_version([norm.running_mean, norm.running_var, counter])
    return total, y, stats


def _backward(x, residual, grads, stats, weight, bias, form, needs):
    """The gradients of x, residual, weight, bias and of what the activation learns; None if not needed."""
    _, _, needs_residual, needs_weight, needs_bias, needs_learned, _ = needs
    tiles = _tiles(x, _PARTS, form)
    parts, channels = tiles.grid[0], x.shape[1]
    stored = needs_residual or form.prepare is not None or len(grads) > 1
    slopes = torch.empty_like(x) if stored else None
    new = dict(dtype=torch.float32, device=x.device)
    partials = torch.empty(2, parts, channels, **new)
    learned = torch.empty(form.sizes[0], parts, channels, **new) if needs_learned else None
    kernels.backward_sums[tiles.grid](
        x,
        residual,
        tuple(grads),
        slopes,
        partials,
        learned,
        stats,
        weight,
        bias,
        **_activation(form, "PREPARE", "SLOPE", "WEIGHT"),
        **tiles.arguments,
    )
    grad_x = torch.empty_like(x)
    grad_weight = torch.empty_like(weight) if needs_weight else None
    grad_bias = torch.empty_like(bias) if needs_bias else None
    grad_learned = torch.empty_like(form.learned) if needs_learned else None
    tiles = _tiles(x, _PROGRAMS, None)
    kernels.backward_input[tiles.grid](
        x,
        None if stored else residual,
        (slopes,) if stored else tuple(grads),
        grad_x,
        partials,
        learned,
        stats,
        weight,
        None if stored else bias,
        grad_weight,
        grad_bias,
        grad_learned,
        () if stored else form.parameters,
        SLOPE=None if stored else form.slope,
        D=form.sizes[0],
        parts=parts,
        PARTS=_PARTS,
        **tiles.arguments,
    )
    return grad_x, slopes if needs_residual else None, grad_weight, grad_bias, grad_learned
