"""Normalisation, addition and activation as one operator, for training."""

import functools
import importlib.util
import os

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

from . import cpu, gpu, trial

_MOST = 1 << 31  # elements: the kernels count them in int32
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normalise_activate(x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    r"""activation(norm(x + added) + residual), with the statistics of the batch.

    The running averages and the counter of `norm` are updated as the module itself does. On a GPU two Triton
    kernels in each direction compute it, in float32 and rounded once to the dtype of `x`, on a CPU two passes
    of a compiled library over float32 images that are channels-last; what they do not cover is left to
    :func:`plain`, an activation that they do not have to its module. The gradient cannot be differentiated
    again.

    Args:
        x (Tensor): (N, C, H, W), what a convolution without its bias gives.
        norm (nn.BatchNorm2d): in training mode.
        activation (nn.Module): of the registry, or nn.Identity.
        added (Tensor, optional): like x; added before the normalisation.
        residual (Tensor, optional): like x; added after it.
        shift (Tensor, optional): (C,), a bias that was left out of `x`: it changes nothing but the running
            mean.
        copies (int): how many tensors to return, all of the same memory; the gradients by them are added in
            the backward pass.

    Returns:
        Tensor like x, or a tuple of `copies` of them where there are several.
    """
    arguments = {"added": added, "residual": residual, "shift": shift, "copies": copies}
    kernels = _kernels(x, norm, added, residual, shift)
    if kernels is None:
        return plain(x, norm, activation, **arguments)
    inside = activation if _is_bare(activation) and kernels.form(activation, x) else nn.Identity()
    if inside is not activation:
        arguments["copies"] = 1
    if not _work(kernels, x, norm, inside, **arguments):
        return plain(x, norm, activation, **{**arguments, "copies": copies})
    y = kernels.fused(x, norm, inside, **arguments)
    if inside is activation:
        return y
    y = activation(y)
    return y if copies == 1 else (y,) * copies


def plain(x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    """:func:`normalise_activate` by torch's own operations, layer by layer: the oracle."""
    x = x if added is None else x + added
    x = x if shift is None else x + shift.detach()[:, None, None].to(x.dtype)
    x = norm(x)
    x = activation(x if residual is None else x + residual)
    return x if copies == 1 else (x,) * copies


def _kernels(x, norm, added, residual, shift):
    """The module that can do it all but for the activation, :mod:`.gpu` or :mod:`.cpu`; None for neither."""
    alike = [t for t in (x, added, residual) if t is not None]
    small = [norm.weight, norm.bias, norm.running_mean, norm.running_var, shift]
    covered = (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and _is_bare(norm)
        and x.dim() == 4
        and x.shape[1] == norm.num_features
        and x.numel() // max(1, x.shape[1]) > 1
        and x.numel() < _MOST
        and x.dtype in _DTYPES
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and all((t.shape, t.dtype, t.device) == (x.shape, x.dtype, x.device) for t in alike)
        and all(t.dtype == torch.float32 and t.device == x.device for t in small if t is not None)
        and not _is_transformed()
    )
    if not covered:
        return None
    if x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        return gpu if _has_triton() else None
    return cpu if cpu.supports(x) else None


_found = {}  # which kinds of calls have been tried, and whether they agreed


def _work(kernels, x, norm, activation, *, added, residual, shift, copies):
    """Whether the kernels of such a call may be used: tried before the first of its kind."""
    if kernels is gpu and not x.is_cuda:
        return True  # in Triton's interpreter
    given = {"added": added, "residual": residual, "shift": shift}
    given = frozenset(name for name, tensor in given.items() if tensor is not None)
    settings = norm.affine, norm.track_running_stats, norm.momentum is None
    kind = (x.device, *kernels.kind(x, activation), given, copies, *settings)
    if kind not in _found:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return False  # the trial waits for the device
        agree = all(works for (device, *_), works in _found.items() if device == x.device)
        _found[kind] = agree and trial.agrees(kernels.fused, plain, x, norm, activation, given, copies)
    return _found[kind]


def _is_bare(module):
    """Whether a call of the module is a call of its class's `forward` and nothing else."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in module.__dict__ and not modules._has_any_global_hook()


def _is_transformed():
    """Whether someone wants to see the operations themselves: to differentiate, export or compile them."""
    return (
        forward_ad._current_level >= 0  # torch has no public questions for these
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


@functools.cache
def _has_triton():
    return importlib.util.find_spec("triton") is not None
