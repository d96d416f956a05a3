"""Kernel activation functions, adversarial training and robust evaluation on small images.

    import kafnets
    layer = kafnets.KAF(16)
    model = kafnets.create_model("resnet20", activation="kaf_elu")
    model = kafnets.load_model("published/kaf_elu")
    result = kafnets.attacks.pgd(model, images, labels, eps=8/255, step=2/255, iterations=50, restarts=10)

Names are loaded on first use: the workflow reads `kafnets.config.slices` and `kafnets.registry` in a process
that has no torch.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "KAF": "kafnets.activations",
    "create_activation": "kafnets.activations",
    "create_model": "kafnets.models",
    "export": "kafnets.models.exporting",
    "leaderboard": "kafnets.model_zoo",
    "load_model": "kafnets.model_zoo",
    "load_state_dict": "kafnets.models",
    "save_model": "kafnets.models",
}
_SUBMODULES = ("activations", "attacks", "data", "evaluation", "model_zoo", "models", "published", "training")

__all__ = [*_EXPORTS, *_SUBMODULES]


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"kafnets.{name}")
    raise AttributeError(f"module 'kafnets' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
