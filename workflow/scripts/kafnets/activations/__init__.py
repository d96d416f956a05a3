"""Activations, made by name: fixed ones, and ones that learn, such as kernel activation functions (KAF)."""

import importlib

from ..registry import ACTIVATIONS, lookup
from ..runtime.errors import UserError

__all__ = ["KAF", "active_backend", "create_activation", "functional"]


def __getattr__(name):
    # on first use: a network without KAFs runs none of their code
    if name == "KAF":
        return importlib.import_module("kafnets.activations.kaf.layer").KAF
    if name == "functional":
        return importlib.import_module("kafnets.activations.kaf.functional")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create_activation(name, channels, **arguments):
    """A fresh activation layer: every site needs its own, because a shared one ties parameters across layers.

    Args:
        name: a name of ``kafnets.registry.ACTIVATIONS``.
        channels: channels (or units) at dim 1 of the layer's input.
        **arguments: override the entry's own, for example ``D=30`` for a KAF.

    Raises:
        ValueError: for an unknown name or a bad argument.
    """
    entry = lookup(ACTIVATIONS, name, "activation")
    arguments = {**entry.arguments, **arguments}
    positional = (channels,) if entry.per == "channel" else ()
    try:
        return entry.load()(*positional, **arguments)
    except TypeError as error:
        raise UserError(f"arguments of {name}: {error}") from None


def active_backend(name, device):
    """Which implementation computes the activation `name` on `device`, compiled if it must be.

    None where there is only one, and for a name that the registry does not know.
    """
    return ACTIVATIONS[name].backend_on(device) if name in ACTIVATIONS else None
