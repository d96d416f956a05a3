"""Sound bounds of pointwise activations: Lipschitz constants, ranges and linear relaxations.

    bounds = bounds_of(layer)
    bounds.lipschitz()             # (C,) or (1,): sup |f'|
    bounds.range(lower, upper)     # least and largest values on [lower, upper], unit by unit
    bounds.relax(lower, upper)     # lines below and above f there

An activation is a :class:`.curve.Curve`: its value, where its slope jumps, how strongly it bends, where it
turns. :class:`.bounds.ActivationBounds` makes all bounds from these.
"""

from . import families, fixed, kaf, rational, splines  # each registers its curves
from .bounds import ActivationBounds, Relaxation
from .curve import Curve
from .dispatch import bounds_of, curve_of, register

__all__ = [
    "ActivationBounds",
    "Curve",
    "Relaxation",
    "bounds_of",
    "curve_of",
    "families",
    "fixed",
    "kaf",
    "rational",
    "register",
    "splines",
]
