"""Which curve an activation layer is, by its class: the modules beside this one register what they know."""

import functools

from .bounds import ActivationBounds


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
