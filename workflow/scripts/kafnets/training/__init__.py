"""Adversarial training that can be interrupted at any moment."""

__all__ = ["initial_model", "train"]


def __getattr__(name):
    # on first use: the learning-rate schedule is read where there is no torch
    if name in __all__:
        from . import run, training

        return getattr(run if name == "train" else training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
