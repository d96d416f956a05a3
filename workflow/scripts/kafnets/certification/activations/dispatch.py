"""Which curve an activation layer is, by its class."""

import functools
import math

import torch
from torch import nn

from .bounds import ActivationBounds
from .curve import PiecewiseLinear
from .shapes import ELU, GELU, GELU_TANH, SILU, SOFTPLUS, TANH, Scaled, elu, of_shape


def bounds_of(module, rounding=True):
    """The bounds of a pointwise activation layer with the parameters that it has now.

    Args:
        module (nn.Module): a fixed, learned or kernel activation of the registry.
        rounding (bool): see :class:`.bounds.ActivationBounds`. Default: ``True``

    Returns:
        ActivationBounds

    Raises:
        ValueError: for what is no function of one number, or is not known.
    """
    return ActivationBounds(curve_of(module), rounding)


@functools.singledispatch
def curve_of(module):
    """The :class:`.curve.Curve` of an activation layer; raises as :func:`bounds_of`."""
    raise ValueError(
        f"module: bounds of {type(module).__name__} are not known; take an activation of the registry that "
        f"is a function of one number, or register its curve with curve_of.register"
    )


def _of_slopes(left, right):
    """The function with these slopes, (R,), on both sides of 0."""
    zero = torch.zeros(len(left), 1, dtype=torch.float64, device=left.device)
    none = zero[:, 0]
    relative = torch.maximum(left.detach().abs(), right.detach().abs())
    return PiecewiseLinear(zero, zero, left.double(), right.double(), (none, relative.double()))


def _fixed_slopes(left, right):
    return _of_slopes(*(torch.tensor([float(one)], dtype=torch.float64) for one in (left, right)))


@curve_of.register
def _(module: nn.Identity):
    return _fixed_slopes(1, 1)


@curve_of.register
def _(module: nn.ReLU):
    return _fixed_slopes(0, 1)


@curve_of.register
def _(module: nn.LeakyReLU):
    return _fixed_slopes(module.negative_slope, 1)


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
