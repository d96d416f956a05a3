"""Data sets: prepared once from their verified sources, then loaded from one checksummed file.

A `prepare_*` function (registry.DATASETS) reads a source and returns a `Dataset`; `save` writes it; `load`
is all that the later steps use.
"""

import importlib

_EXPORTS = {
    "Dataset": "dataset",
    "load": "dataset",
    "prepare_cifar10": "cifar10",
    "prepare_digits": "digits",
    "save": "dataset",
}
__all__ = [*_EXPORTS]


def __getattr__(name):
    # on first use: a step that loads a prepared data set does not depend on how any was prepared
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
