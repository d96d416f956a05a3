"""Curves of the fixed activations."""

import math

import torch
from torch import nn

from .curve import PiecewiseLinear
from .dispatch import curve_of
from .shapes import ELU, GELU, GELU_TANH, SILU, SOFTPLUS, TANH, Scaled, elu, of_shape


def _of_slopes(left, right):
    """The function with these slopes on both sides of 0."""
    zero = torch.zeros(1, dtype=torch.float64)
    steepest = zero + max(abs(left), abs(right))
    return PiecewiseLinear(
        lambda x: torch.where(x < 0, left * x, right * x), zero[:, None], steepest, (zero, steepest)
    )


@curve_of.register
def _(module: nn.Identity):
    return _of_slopes(1, 1)


@curve_of.register
def _(module: nn.ReLU):
    return _of_slopes(0, 1)


@curve_of.register
def _(module: nn.LeakyReLU):
    return _of_slopes(module.negative_slope, 1)


@curve_of.register
def _(module: nn.ELU):
    return of_shape(ELU if module.alpha == 1 else elu(module.alpha))


@curve_of.register
def _(module: nn.Tanh):
    return of_shape(TANH)


@curve_of.register
def _(module: nn.SiLU):
    return of_shape(SILU)


@curve_of.register
def _(module: nn.GELU):
    return of_shape(GELU_TANH if module.approximate == "tanh" else GELU)


@curve_of.register
def _(module: nn.Softplus):
    jump = math.log1p(math.exp(-module.threshold)) / module.beta
    if jump > 2.0**-24 * module.threshold / module.beta:
        raise ValueError(
            f"module: a softplus with the threshold {module.threshold:g} jumps by {jump:.1g} there; write 20"
        )
    return Scaled(SOFTPLUS, torch.full((1,), float(module.beta), dtype=torch.float64))
