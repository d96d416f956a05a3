"""What stands between two convolutions of a network that is only evaluated, as one operator."""

import functools
import importlib.util
import os

import torch
from torch import nn
from torch.nn import functional

KINDS = ("identity", "relu", "elu", "silu")
_BLOCK = 2048  # numbers of a program
_WARPS = 4


class Pointwise(nn.Module):
    r"""Shift, scaled addition and activation, channel by channel, with a gradient for the tensors alone.

    .. math:: y = \sigma(x + a_c r + b_c)

    Args:
        kind (str): :math:`\sigma`, of `KINDS`.
        shift (Tensor): (C,) :math:`b`, held in float32.
        scale (Tensor, optional): (C,) :math:`a`, held in float32. Default: one
        alpha (float): of "elu". Default: 1
        copies (int): 1, or 2 for an output that is read twice: (y, y), whose gradients are added in one pass.

    Shape:
        x, r: (N, C, H, W), r optional -> y like x, or (y, y)
    """

    def __init__(self, kind, shift, scale=None, alpha=1.0, copies=1):
        super().__init__()
        self.kind, self.alpha, self.copies = kind, float(alpha), copies
        self.register_buffer("shift", shift.float())
        self.register_buffer("scale", None if scale is None else scale.float())

    def forward(self, x, residual=None):
        if _is_covered(x, residual):
            return _Fused.apply(x, residual, self)
        y = self.plain(x, residual)
        return (y, y) if self.copies == 2 else y

    def plain(self, x, residual=None):
        """The formula in torch's own operations."""
        z = x.float() + self.shift[:, None, None]
        if residual is not None:
            residual = residual.float()
            z = z + (residual if self.scale is None else residual * self.scale[:, None, None])
        y = {
            "identity": lambda z: z,
            "relu": functional.relu,
            "elu": lambda z: functional.elu(z, self.alpha),
            "silu": functional.silu,
        }[self.kind](z)
        return y.to(x.dtype)

    def extra_repr(self):
        return f"{self.kind}, copies={self.copies}, scaled={self.scale is not None}"


def _is_covered(x, residual):
    """Whether the kernels take such tensors."""
    alike = residual is None or (residual.shape == x.shape and residual.dtype == x.dtype)
    fits = x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return (
        fits
        and alike
        and x.dim() == 4
        and x.dtype in (torch.float16, torch.float32)
        and _kernels() is not None
    )


@functools.cache
def _kernels():
    if importlib.util.find_spec("triton") is None:
        return None
    from . import pointwise_kernels

    return pointwise_kernels


def _dense(tensor):
    return tensor.detach().contiguous(memory_format=torch.channels_last)


def _launch(kernel, like, tensors, layer, **constants):
    count = like.numel()
    with torch.cuda.device_of(like):  # Triton launches on the current device, whatever its arguments'
        kernel[(-(-count // _BLOCK),)](
            *tensors,
            layer.shift if layer.scale is None else layer.scale,
            layer.shift,
            count,
            layer.alpha,
            CHANNELS=like.shape[1],
            KIND=KINDS.index(layer.kind),
            SCALED=layer.scale is not None,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
            **constants,
        )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, layer):
        ctx.set_materialize_grads(False)
        x, residual = (None if one is None else _dense(one) for one in (x, residual))
        y = torch.empty_like(x)
        if x.numel():
            tensors = (x, x if residual is None else residual, y)
            _launch(_kernels().forward, x, tensors, layer, RESIDUAL=residual is not None)
        # the slopes of some follow from their values; the others' arguments are computed again
        again = layer.kind == "silu"
        ctx.save_for_backward(*((x, residual, None) if again else (None, None, y)))
        ctx.layer, ctx.added = layer, residual is not None
        return (y, y.detach()) if layer.copies == 2 else y

    @staticmethod
    def backward(ctx, *gradients):
        layer, (x, residual, y) = ctx.layer, ctx.saved_tensors
        given = [_dense(one) for one in gradients if one is not None]
        if not given:
            return None, None, None
        scaled = ctx.added and layer.scale is not None
        if layer.kind == "identity" and len(given) == 1 and not scaled:
            return given[0], given[0] if ctx.added else None, None
        by_x = torch.empty_like(given[0])
        by_residual = torch.empty_like(by_x) if scaled else by_x
        if by_x.numel():
            nothing = by_x  # in the place of tensors that are not read
            tensors = [given[0], given[-1], *(nothing if one is None else one for one in (x, residual, y))]
            _launch(
                _kernels().backward,
                by_x,
                (*tensors, by_x, by_residual),
                layer,
                RESIDUAL=ctx.added,
                TWO=len(given) == 2,
            )
        return by_x, by_residual if ctx.added else None, None
