"""Which curve an activation layer is, by its class: the modules beside this one register what they know."""

from .bounds import ActivationBounds

_CURVES = {}


def register(*classes):
    """Decorates the function that makes the curve of a layer of exactly these classes.

    A subclass is another function, for all that is known: it registers a curve of its own.
    """

    def registered(function):
        _CURVES.update(dict.fromkeys(classes, function))
        return function

    return registered


def curve_of(module):
    """The :class:`.curve.Curve` of an activation layer; arguments and errors as of :func:`bounds_of`."""
    if type(module) not in _CURVES:
        raise ValueError(
            f"module: bounds of {type(module).__name__} are not known; take an activation of the registry "
            f"that is a function of one number, or register its curve (kafnets.certification.activations)"
        )
    return _CURVES[type(module)](module)


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
