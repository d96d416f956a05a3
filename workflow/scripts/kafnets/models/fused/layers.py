"""What the graph of a fused network calls, beside torch's own functions."""

import torch
from torch import nn
from torch.nn import functional

from . import operators


class Site(nn.Module):
    """A normalisation and what is joined to it, see :func:`.operators.normalise_activate`."""

    def __init__(self, norm, activation, copies):
        super().__init__()
        self.norm, self.activation, self.copies = norm, activation, max(copies, 1)

    def forward(self, x, **optional):
        return operators.normalise_activate(x, self.norm, self.activation, copies=self.copies, **optional)


class Margins(nn.Module):
    """Zeros around an image, for several convolutions: `copies` outputs of the same memory."""

    def __init__(self, margins, copies):
        super().__init__()
        self.margins, self.copies = margins, copies

    def forward(self, x):
        padded = _Padded.apply(x, self.margins(x), self.copies)
        return padded[0] if self.copies == 1 else padded


class _Padded(torch.autograd.Function):
    """The gradient is the sum of the inner parts, in one pass where there are two."""

    @staticmethod
    def forward(ctx, x, margins, copies):
        left, _, top, _ = margins
        ctx.inner = (..., slice(top, top + x.shape[-2]), slice(left, left + x.shape[-1]))
        padded = functional.pad(x, margins)
        return padded, *(padded.detach() for _ in range(copies - 1))

    @staticmethod
    def backward(ctx, *grads):
        total, *others = (grad[ctx.inner] for grad in grads)
        for other in others:
            total = total + other
        return total, None, None


class _Mean(torch.autograd.Function):
    """The mean over rows and columns; its gradient is in memory as the input is, in one pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.like = torch.empty_like(x, device="meta")
        return x.mean((2, 3))

    @staticmethod
    def backward(ctx, grad):
        new = torch.empty_like(ctx.like, dtype=grad.dtype, device=grad.device)
        return torch.div(grad[:, :, None, None].expand_as(new), new[0, 0].numel(), out=new)


def mean_of_positions(x):
    """x.mean((2, 3)) of (N, C, H, W)."""
    return _Mean.apply(x)


def sums(groups):
    """The sum of each tuple of one tensor or two, without gradients."""
    groups = [[tensor.detach() for tensor in group] for group in groups]
    pairs = [group for group in groups if len(group) > 1]
    added = iter(torch._foreach_add(*(list(side) for side in zip(*pairs, strict=True))) if pairs else ())
    return [next(added) if len(group) > 1 else group[0] for group in groups]


def cast(tensors, device_type):
    """`tensors` as autocast would give them to a product, all of them at once."""
    if not torch.is_autocast_enabled(device_type):
        return tensors
    narrow = [index for index, tensor in enumerate(tensors) if tensor.dtype is torch.float32]
    tensors = list(tensors)
    if narrow:
        found = _Cast.apply(torch.get_autocast_dtype(device_type), *(tensors[index] for index in narrow))
        for index, tensor in zip(narrow, found, strict=True):
            tensors[index] = tensor
    return tensors


class _Cast(torch.autograd.Function):
    """float32 tensors in another dtype, in new memory: an earlier pass may still need what it was given."""

    @staticmethod
    def forward(ctx, dtype, *tensors):
        ctx.set_materialize_grads(False)
        return tuple(_copied(tensors, dtype))

    @staticmethod
    def backward(ctx, *grads):
        there = [grad for grad in grads if grad is not None]
        copied = iter(_copied(there, torch.float32))
        return None, *(None if grad is None else next(copied) for grad in grads)


def _copied(tensors, dtype):
    new = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if new:
        torch._foreach_copy_(new, tensors)
    return new


class WithoutEffect(torch.autograd.Function):
    """The first tensor; the others, on which it does not depend, get gradients of zeros."""

    @staticmethod
    def forward(ctx, y, *others):
        ctx.others = others
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        if not any(ctx.needs_input_grad[1:]):
            return grad, *(None for _ in ctx.others)
        sizes = [other.numel() for other in ctx.others]
        zeros = torch.zeros(sum(sizes), dtype=ctx.others[0].dtype, device=grad.device).split(sizes)
        return grad, *(zero.view_as(other) for zero, other in zip(zeros, ctx.others, strict=True))
