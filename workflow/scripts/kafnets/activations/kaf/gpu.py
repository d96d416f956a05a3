"""Gaussian KAF on the GPU: Triton kernels, forward and backward, everything in registers.

With evenly spaced points and m the middle of a group of them, u = x - d_m:
kappa(x, d_{m+k}) = exp(-gamma u^2) r^k exp(-gamma (k Delta)^2), r = exp(2 gamma u Delta),
so a group of points costs three exponentials instead of one a point. Where u is so large that a power of r
would overflow, r is that of a smaller u: exp(-gamma u^2) leaves less than 4e-9 of a kernel there, and 0 soon
after. The kernels look at the dictionary and the bandwidth themselves (reading them on the host would stall
the queue) and fall back to one exponential a point where the points are uneven or learned. Sums over elements
are stored per tile and added up in a fixed order, so that gradients are the same from run to run.
"""

import functools
import importlib.util
import itertools
import logging
import math
import os
import sys

import torch

from . import portable

log = logging.getLogger(__name__)

_ELEMENTS = 2048  # of a tile
_CHANNELS = 16  # of a tile at most, where the channels lie side by side in memory
_GROUP = 10  # points that share exponentials
_LEAST_GROUP = 5  # points that are worth three exponentials; fewer are taken one by one
_MOST_INLINED = 24  # points: coefficients of two channels, and their sums, are held in registers
_WARPS = 8  # 8 elements a thread: more do not fit its registers in the backward kernel
_REGISTERS = 128  # of a thread: two blocks fit a multiprocessor (left alone, the compiler takes 147)


@functools.cache
def available():
    """Whether Triton is installed and, where there is a GPU, agrees with the portable code (tried once)."""
    if importlib.util.find_spec("triton") is None:
        return False
    return not torch.cuda.is_available() or agrees(torch.device("cuda"))


def agrees(device):
    """Whether values and gradients of both kernels, on a small input on `device`, are the portable ones.

    A driver or a GPU that compiles them wrongly, or not at all, costs speed and a line in the log, no result.
    """
    try:
        alike = all(_agrees(*case, device) for case in itertools.product(*_CASES))
        reason = "" if alike else "its results differ"
    except Exception as error:  # whatever a compiler may raise
        alike, reason = False, str(error).partition("\n")[0]
    if not alike:
        log.warning("KAF: the Triton kernels do not work on this GPU (%s); the portable code runs", reason)
    return alike


# What the kernels are compiled for: dictionaries for all channels or one for each, layouts, dtypes.
_CASES = (
    (False, True),
    (torch.contiguous_format, torch.channels_last),
    (torch.float32, torch.bfloat16),
)


def _agrees(free, layout, dtype, device):
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 3, 5, 4, 4, generator=generator).mul(2).to(device, dtype)
    x, grad = x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    alpha = torch.randn(5, 20, generator=generator).to(device)
    dictionary = torch.linspace(-3, 3, 20, device=device)
    bandwidth = torch.tensor(1 / (6 * (6 / 19) ** 2), device=device)
    if free:
        dictionary, bandwidth = dictionary.repeat(5, 1), bandwidth.repeat(5)
    arguments = alpha, dictionary, bandwidth, "gaussian"
    needs = (True, True, free, free)
    ours, theirs = (
        [code.forward(x, *arguments), *code.backward(grad, x, *arguments, needs)[: 4 if free else 2]]
        for code in (sys.modules[__name__], portable)
    )
    tolerance = 1e-3 if dtype is torch.float32 else 2e-2
    return all(
        torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
        for a, b in zip(ours, theirs, strict=True)
    )


def supports(x, dictionary, bandwidth, kernel):
    """Whether this backend covers such a call; the portable one takes the others."""
    return (
        kernel == "gaussian"
        and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and available()
    )


def forward(x, alpha, dictionary, bandwidth, kernel):
    """y = sum_i alpha_i exp(-gamma (x - d_i)^2)."""
    x, out = _dense(x)
    y = torch.empty_like(x)
    if x.numel():
        grid, arguments = _launch(x, alpha, dictionary, bandwidth)
        with torch.cuda.device_of(x):  # Triton launches on the current device, whatever its arguments'
            _kernels().forward[grid](x, y, **arguments)
    return y if out is None else out.copy_(y)


def backward(grad, x, alpha, dictionary, bandwidth, kernel, needs):
    """Gradients of x, alpha, dictionary and bandwidth; `needs` holds four booleans, the rest are None."""
    needs_x, needs_alpha, needs_dictionary, needs_bandwidth = needs
    x, out = _dense(x)
    if grad.stride() != x.stride():  # its dtype is the kernel's to convert
        grad = torch.empty_like(x).copy_(grad)
    grad_x = torch.empty_like(x) if needs_x else None
    # Per tile, channel and point: the sums that the gradients of alpha, dictionary and bandwidth are made of.
    order = 2 if needs_bandwidth else 1 if needs_dictionary else 0 if needs_alpha else -1
    if x.numel():
        grid, arguments = _launch(x, alpha, dictionary, bandwidth)
        sums = x.new_empty(order + 1, grid[0], *alpha.shape, dtype=torch.float32)
        with torch.cuda.device_of(x):
            _kernels().backward[grid](x, grad, grad_x, sums, NEEDS_X=needs_x, ORDER=order, **arguments)
    else:
        sums = x.new_zeros(order + 1, 1, *alpha.shape, dtype=torch.float32)
    sums = sums.sum(1)
    return (
        (grad_x if out is None else out.copy_(grad_x)) if needs_x else None,
        sums[0].to(alpha.dtype) if needs_alpha else None,
        portable.like(sums[1], dictionary) if needs_dictionary else None,
        portable.like(sums[2].sum(1), bandwidth) if needs_bandwidth else None,
    )


def narrowness(dictionary, bandwidth):
    """gamma Delta^2 of evenly spaced points, None of others (waits for the device)."""
    points, gamma = dictionary.tolist(), bandwidth.item()
    first, last = points[0], points[-1]
    delta = (last - first) / (len(points) - 1)
    away = max(abs(d - first - i * delta) for i, d in enumerate(points))
    even = away <= 1e-6 * (abs(first) + abs(last)) and delta > 0 and gamma > 0
    return gamma * delta**2 if even else None


def inlined(parameters, narrow, dtype):
    """A KAF for a kernel that computes other layers too; None if its points are many or not evenly spaced.

    Args:
        parameters (tuple of Tensor): alpha, dictionary, bandwidth.
        narrow (float or None): of :func:`narrowness`.
        dtype (torch.dtype): of the input; in half precision one group does if its powers stay within float32.
    """
    points = parameters[0].shape[1]
    sizes = _groups(points, narrow, points if dtype != torch.float32 else _GROUP)
    if sizes is None:
        return None
    from ..inlined import Inlined
    from . import triton_functions as code

    return Inlined(code.value, code.slope, parameters, code.prepare, code.weight, sizes)


def _groups(points, narrow, most):
    """(points, groups, points of a group), the fewest groups whose powers stay within float32, or None."""
    if narrow is None or points > _MOST_INLINED:
        return None
    for groups in range(1, points):
        size = -(-points // groups)
        whole = (groups - 1) * size + size // 2 < points  # the last group has its middle
        if whole and size <= most and narrow * size**2 / 4 <= 20:
            return (points, groups, size) if size >= _LEAST_GROUP else None
    return None


def _dense(x):
    """`x` with one stride from position to position, and where its results must be copied to, if anywhere."""
    x = x.detach()
    if x.is_contiguous() or x.movedim(1, -1).is_contiguous():
        return x, None
    return x.contiguous(), torch.empty_like(x)


def _launch(x, alpha, dictionary, bandwidth):
    """The launch grid (tiles, channel groups) and the arguments that both kernels share."""
    batch, channels = x.shape[:2]
    positions = math.prod(x.shape[2:])
    side_by_side = x.dim() == 2 or not x.is_contiguous()
    block_c = min(_CHANNELS, 1 << (channels - 1).bit_length()) if side_by_side else 1
    block_p = _ELEMENTS // block_c
    points = alpha.shape[1]
    groups = -(-points // _GROUP)
    arguments = {
        "alpha": alpha.detach().float().contiguous(),
        "dictionary": dictionary.detach().float().contiguous(),
        "bandwidth": bandwidth.detach().float().contiguous(),
        "points": batch * positions,
        "channels": channels,
        "stride_c": 1 if side_by_side else positions,
        # Where the channels lie side by side, positions of the whole batch follow each other.
        "POSITIONS": 0 if side_by_side else positions,
        "D": points,
        "D_PADDED": 1 << (points - 1).bit_length(),
        "GROUPS": groups,
        "GROUP": -(-points // groups),
        "DICTIONARY_STRIDE": points if dictionary.dim() == 2 else 0,
        "BANDWIDTH_STRIDE": bandwidth.dim(),
        "BLOCK_P": block_p,
        "BLOCK_C": block_c,
        "num_warps": _WARPS,
        "maxnreg": _REGISTERS,
    }
    return (-(-batch * positions // block_p), -(-channels // block_c)), arguments


@functools.cache
def _kernels():
    from . import triton_kernels

    return triton_kernels
