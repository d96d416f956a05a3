"""Normalisation, addition and activation on the CPU: a small compiled library, and the node for autograd.

Images are float32 with their channels side by side in memory. Their traffic is that of the GPU's kernels, see
:mod:`.triton_launch`; torch's own operations read and write twice as much.
"""

import ctypes
import functools
import logging
import pathlib
from typing import NamedTuple

import torch
from torch import nn

from ...runtime import compiled

_SOURCE = pathlib.Path(__file__).with_name("normalise.cpp")
_LANES = 16  # channels that are computed together

log = logging.getLogger("kafnets")


class _Form(NamedTuple):
    """An activation by its number in normalise.cpp, and its parameter."""

    number: int
    parameter: float = 0.0


# By exact type: a subclass may compute something else.
_FORMS = {
    nn.Identity: lambda layer: _Form(0),
    nn.ReLU: lambda layer: _Form(1),
    nn.ELU: lambda layer: _Form(2, float(layer.alpha)),
    nn.SiLU: lambda layer: _Form(3),
}


class _Site(NamedTuple):
    """What is not differentiated of a call."""

    norm: nn.BatchNorm2d
    form: _Form
    shift: torch.Tensor | None
    copies: int


def available():
    """Whether the compiled library is there (built on first use)."""
    return _library() is not None


def supports(x):
    """Whether the library covers such images."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[1] % _LANES == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and available()
    )


def form(activation, x):
    """The activation of such an input for the library, or None."""
    known = _FORMS.get(type(activation))
    return known(activation) if known else None


def kind(x, activation):
    """What decides which code runs."""
    return x.shape[1], form(activation, x)


def fused(x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    """:func:`.operators.normalise_activate` by the library, of what it covers."""
    site = _Site(norm, form(activation, x), shift, copies)
    outputs = _Fused.apply(x, added, residual, norm.weight, norm.bias, site)
    return outputs if copies > 1 else outputs[0]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, added, residual, weight, bias, site):
        ctx.set_materialize_grads(False)
        x, added, residual = (None if t is None else _as(t, x) for t in (x, added, residual))
        total = x if added is None else torch.empty_like(x)
        y = torch.empty_like(x)
        statistics = x.new_empty(2, x.shape[1], dtype=torch.float64)
        call = _call(x, residual, statistics, weight, bias, site, added=added, total=total, y=y)
        _library().normalise_forward(ctypes.byref(call))
        _track(site, x, *statistics)
        ctx.save_for_backward(total, residual, statistics, weight, bias)
        ctx.site = site
        return y, *(y.detach() for _ in range(site.copies - 1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        total, residual, statistics, weight, bias = ctx.saved_tensors
        grads = [_as(grad, total) for grad in grads if grad is not None]
        if not grads:
            return (None,) * 6
        needs_x, needs_added, needs_residual, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad, *others = grads
        other = sum(others[1:], others[0]) if others else None
        grad_x = torch.empty_like(total)
        slopes = torch.empty_like(total) if needs_residual else None
        sums = torch.empty_like(statistics)
        more = {"grad": grad, "other_grad": other, "slopes": slopes, "grad_x": grad_x, "sums": sums}
        call = _call(total, residual, statistics, weight, bias, ctx.site, **more)
        _library().normalise_backward(ctypes.byref(call))
        by_weight = (sums[1] * (statistics[1] + ctx.site.norm.eps).rsqrt()).float() if needs_weight else None
        by_bias = sums[0].float() if needs_bias else None
        return grad_x if needs_x else None, grad_x if needs_added else None, slopes, by_weight, by_bias, None


def _as(tensor, x):
    """`tensor` detached, in memory as `x` is."""
    if tensor.stride() != x.stride():
        return torch.empty_like(x).copy_(tensor)
    return tensor.detach()


def _track(site, x, mean, variance):
    """The running averages and the counter, as the module itself updates them."""
    norm = site.norm
    if not norm.track_running_stats:
        return
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
    points = x.numel() // x.shape[1]
    mean = mean if site.shift is None else mean + site.shift
    for running, value in ((norm.running_mean, mean), (norm.running_var, variance * (points / (points - 1)))):
        running.copy_(torch.lerp(running.double(), value, share))


# -- the compiled library ------------------------------------------------------------------------------------


class _Call(ctypes.Structure):
    """NormaliseCall of normalise.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("x", "added", "total", "residual", "y", "grad", "other_grad", "slopes", "grad_x"),
                *("partials", "mean", "variance", "sums", "weight", "bias"),
            )
        ),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("points", "channels")),
        ("parameter", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("activation", "threads")),
    )


def _call(x, residual, statistics, weight, bias, site, **tensors):
    """One call; it holds the memory that it needs while it runs."""
    channels = x.shape[1]
    mean, variance = statistics
    tensors |= {"x": x, "residual": residual, "mean": mean, "variance": variance}
    tensors |= {"weight": weight, "bias": bias}
    call = _Call(
        **{name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None},
        eps=site.norm.eps,
        points=x.numel() // channels,
        channels=channels,
        parameter=site.form.parameter,
        activation=site.form.number,
        threads=torch.get_num_threads(),
    )
    blocks = _library().normalise_blocks(ctypes.byref(call))
    call.held = torch.empty(2, blocks, channels, dtype=torch.float64)
    call.partials = call.held.data_ptr()
    return call


@functools.cache
def _library():
    """The compiled library, or None where it cannot be built (said once in the log)."""
    try:
        library = compiled.load(_SOURCE)
    except compiled.NotCompiled as error:
        log.warning("layers are computed one by one, which is slower: %s", error)
        return None
    call = ctypes.POINTER(_Call)
    library.normalise_blocks.argtypes, library.normalise_blocks.restype = [call], ctypes.c_int64
    for function in (library.normalise_forward, library.normalise_backward):
        function.argtypes, function.restype = [call], None
    return library
