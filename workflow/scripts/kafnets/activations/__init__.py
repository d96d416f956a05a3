"""Activations: kernel activation functions (KAF) and the fixed ones, made by name."""

from ..errors import UserError
from ..registry import ACTIVATIONS, is_trainable, lookup
from . import functional
from .kaf import KAF

__all__ = ["KAF", "create_activation", "functional"]


def create_activation(name, channels, **arguments):
    """A fresh activation layer: every site needs its own, because a shared KAF ties parameters across layers.

    Args:
        name: a name of ``kafnets.registry.ACTIVATIONS``.
        channels: channels (or units) at dim 1 of the layer's input.
        **arguments: override the entry's own, for example ``D=30`` for a KAF.

    Raises:
        ValueError: for an unknown name or a bad argument.
    """
    entry = lookup(ACTIVATIONS, name, "activation")
    arguments = {**entry.arguments, **arguments}
    positional = (channels,) if is_trainable(name) else ()
    try:
        return entry.load()(*positional, **arguments)
    except TypeError as error:
        raise UserError(f"arguments of {name}: {error}") from None
