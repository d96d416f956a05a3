"""What a base and tails add to a KAF, and the whole in torch's own operations: the kernels' oracle."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from . import functional
from .kernels import KERNELS
from .portable import compute_dtype, per_channel

# In the order of piecewise.cpp and of triton_kernels, which count from 1 and from 0.
BASES = ("identity", "relu", "elu", "silu")
TAILS = ("zero", "clamp", "linear")


class Form(NamedTuple):
    """The base, and what holds of the kernels' sum outside [-boundary, boundary]."""

    base: str
    tails: str
    boundary: float

    @property
    def base_number(self):
        return 1 + BASES.index(self.base)

    @property
    def tails_number(self):
        return TAILS.index(self.tails)


def base_value(x, base):
    """b(x)."""
    return {"identity": lambda x: x, "relu": F.relu, "elu": F.elu, "silu": F.silu}[base](x)


def end_slopes(alpha, dictionary, bandwidth, boundary):
    """The slopes of the kernels' sum at -boundary and boundary, (C, 2); one dictionary for all channels."""
    # made on the device: a copy from the host cannot be part of a CUDA graph
    ends = torch.linspace(-boundary, boundary, 2, dtype=dictionary.dtype, device=dictionary.device)
    slopes = KERNELS["gaussian"].by_offset(ends[:, None] - dictionary, bandwidth)
    return (alpha[:, None] * slopes).sum(-1)


def composed(x, weight, alpha, dictionary, bandwidth, form, backend=None):
    r"""The formula of :class:`.with_base.KAFWithBase`, differentiable in every way.

    Args:
        x, alpha, dictionary, bandwidth, backend: as of :func:`.functional.kaf`.
        weight (Tensor): :math:`w`, :math:`(C)`.
        form (Form): what else.
    """
    dtype = compute_dtype(x)
    values = x.to(dtype)
    inner = values if form.tails == "zero" else values.clamp(-form.boundary, form.boundary)
    y = functional.kaf(inner, alpha, dictionary, bandwidth, "gaussian", backend)
    if form.tails == "linear":
        parameters = (t.to(dtype) for t in (alpha, dictionary, bandwidth))
        slopes = end_slopes(*parameters, form.boundary)
        left, right = (per_channel(slopes[:, i], x) for i in (0, 1))
        y = y + torch.where(values < 0, left, right) * (values - inner)
    return (y + per_channel(weight, x) * base_value(values, form.base)).to(x.dtype)


def kaf_with_base(x, weight, alpha, dictionary, bandwidth, form, backend=None):
    """As :func:`composed`, in one pass over `x` where the compiled code or the Triton kernels cover it."""
    functional._check(x, alpha, dictionary, bandwidth, "gaussian")
    backend = functional.get_backend() if backend is None else functional.check_backend(backend)
    code = _kernels(x, dictionary, bandwidth, form, backend)
    if code is None:
        return composed(x, weight, alpha, dictionary, bandwidth, form, backend)
    return _WithBase.apply(x, weight, alpha, dictionary, bandwidth, form, backend, code)


def _kernels(x, dictionary, bandwidth, form, backend):
    """The module whose kernels compute it in one pass; None where there is none."""
    if functional.needs_plain_steps() or functional._is_watched() or backend in ("plain", "portable"):
        return None
    from . import cpu_with_base, gpu_with_base  # beside their users: a KAF without a base needs neither

    on_gpu = x.is_cuda if backend == "auto" else backend == "triton"
    code = gpu_with_base if on_gpu else cpu_with_base
    return code if code.supports(x, dictionary, bandwidth, form) else None


class _WithBase(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, alpha, dictionary, bandwidth, form, backend, code):
        ctx.form, ctx.backend, ctx.code = form, backend, code
        ctx.save_for_backward(x, weight, alpha, dictionary, bandwidth)
        return code.forward(x, weight, alpha, dictionary, bandwidth, form)

    @staticmethod
    def backward(ctx, grad):
        needs = ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # to be differentiated once more
            value = composed(*ctx.saved_tensors, ctx.form, ctx.backend)
            wanted = [t for t, need in zip(ctx.saved_tensors, needs, strict=True) if need]
            found = iter(torch.autograd.grad(value, wanted, grad, create_graph=True, materialize_grads=True))
            return *(next(found) if need else None for need in needs), None, None, None
        return *ctx.code.backward(grad, *ctx.saved_tensors, ctx.form, needs), None, None, None
