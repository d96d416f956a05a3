"""Normalisation, addition and activation on a GPU: which Triton kernels compute a call."""

import torch


def form(activation, x):
    """The activation of such an input for the kernels, or None."""
    from .triton_activations import FIXED

    if type(activation) in FIXED:
        return FIXED[type(activation)](activation)
    # one that learns says so itself, so that only networks that have it depend on its code
    found = activation.inlined(x.dtype) if hasattr(type(activation), "inlined") else None
    if found and (found.learned.shape[0], found.learned.device) != (x.shape[1], x.device):
        return None
    return found


def fused(x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    """:func:`.operators.normalise_activate` by the kernels, of what they cover."""
    from . import triton_launch

    site = triton_launch.Site(norm, form(activation, x), shift, copies)
    outputs = triton_launch.normalise_activate(x, added, residual, site)
    return outputs if copies > 1 else outputs[0]


def kind(x, activation):
    """What kernels are compiled for."""
    inlined = form(activation, x)
    side_by_side = x.is_contiguous(memory_format=torch.channels_last)
    return x.dtype, side_by_side, x.shape[1] % 16 == 0, inlined.value, inlined.sizes
