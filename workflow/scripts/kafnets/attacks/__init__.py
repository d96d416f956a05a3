"""Attacks on image classifiers, one module per family; every one is called in the same way.

    result = attacks.pgd(model, images, labels, eps=8/255, step=2/255, iterations=50, restarts=10)
    result.robust  # (N,) bool, True = classified rightly whatever the attack tried

The names are those of `kafnets.registry.ATTACKS`. All but the plain ones are loaded on first use: a
training that probes itself with `pgd` does not depend on the others.
"""

from ..registry import ATTACKS
from .base import AttackResult
from .clean import clean  # these functions are named like their modules and so must be bound at once
from .expectation import Expectation
from .pgd import fgsm, pgd

_LATE = (name for name in ATTACKS if name not in ("clean", "fgsm", "pgd"))
__all__ = ["AttackResult", "Expectation", "clean", "fgsm", "pgd", *_LATE]


def __getattr__(name):
    if name in ATTACKS:
        return ATTACKS[name].load()
    raise AttributeError(f"module 'kafnets.attacks' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
