"""Curves of the fixed activations."""

import math

import torch
from torch import nn

from .curve import PiecewiseLinear
from .dispatch import register
from .shapes import ELU, GELU, GELU_TANH, SILU, SOFTPLUS, TANH, Scaled, elu, of_shape


def _of_slopes(left, right):
    """The function with these slopes on both sides of 0."""
    zero = torch.zeros(1, dtype=torch.float64)
    steepest = zero + max(abs(left), abs(right))
    return PiecewiseLinear(
        lambda x: torch.where(x < 0, left * x, right * x), zero[:, None], steepest, (zero, steepest)
    )


@register(nn.Identity)
def _(module):
    return _of_slopes(1, 1)


@register(nn.ReLU)
def _(module):
    return _of_slopes(0, 1)


@register(nn.LeakyReLU)
def _(module):
    return _of_slopes(module.negative_slope, 1)


@register(nn.ELU)
def _(module):
    return of_shape(ELU if module.alpha == 1 else elu(module.alpha))


@register(nn.Tanh)
def _(module):
    return of_shape(TANH)


@register(nn.SiLU)
def _(module):
    return of_shape(SILU)


@register(nn.GELU)
def _(module):
    return of_shape(GELU_TANH if module.approximate == "tanh" else GELU)


@register(nn.Softplus)
def _(module):
    jump = math.log1p(math.exp(-module.threshold)) / module.beta
    if jump > 2.0**-24 * module.threshold / module.beta:
        raise ValueError(
            f"module: a softplus with the threshold {module.threshold:g} jumps by {jump:.1g} there; write 20"
        )
    return Scaled(SOFTPLUS, torch.full((1,), float(module.beta), dtype=torch.float64))
