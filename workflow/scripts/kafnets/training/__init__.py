"""Adversarial training that can be interrupted at any moment."""

import importlib

__all__ = ["initial_model", "train"]


def __getattr__(name):
    # on first use: what reads the learning-rate schedule needs no torch, and does not depend on the loop
    if name in __all__:
        return getattr(importlib.import_module("kafnets.training.loop"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
