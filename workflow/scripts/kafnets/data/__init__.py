"""Data sets: prepared once from their verified sources, then loaded from one checksummed file.

A `prepare_*` function (registry.DATASETS) reads a source and returns a `Dataset`; `save` writes it; `load`
is all that the later steps use.
"""

from .cifar10 import prepare_cifar10
from .dataset import Dataset, load, save
from .digits import prepare_digits

__all__ = ["Dataset", "load", "prepare_cifar10", "prepare_digits", "save"]
