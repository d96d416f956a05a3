"""Activations, made by name: fixed ones, and ones that learn, such as kernel activation functions (KAF)."""

import importlib

from ..registry import ACTIVATIONS, lookup
from ..runtime.errors import UserError

__all__ = ["KAF", "active_backend", "create_activation", "functional", "layer_factory", "layers_of"]


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
        layer = entry.load()(*positional, **arguments)
    except TypeError as error:
        raise UserError(f"arguments of {name}: {error}") from None
    layer.activation_name = name  # by which layers_of finds it, in copies of a network too
    return layer


def active_backend(name, device):
    """Which implementation computes the activation `name` on `device`, compiled if it must be.

    None where there is only one, and for a name that the registry does not know.
    """
    return ACTIVATIONS[name].backend_on(device) if name in ACTIVATIONS else None


def layer_factory(name, arguments=None):
    """What a network calls, with the number of channels, for each of its activation layers.

    A fresh layer each time; of an activation that is made once for the network, the same layer.

    Args:
        name: a name of ``kafnets.registry.ACTIVATIONS``.
        arguments (dict, optional): as of :func:`create_activation`.
    """
    arguments = arguments or {}
    if lookup(ACTIVATIONS, name, "activation").per == "network":
        shared = create_activation(name, None, **arguments)
        return lambda channels: shared
    return lambda channels: create_activation(name, channels, **arguments)


def layers_of(model):
    """The activation layers of a network by name: those that :func:`create_activation` made."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "activation_name")}


def is_elementwise(layer):
    """Whether an activation layer is a function of one number, the same at every place of a channel."""
    name = getattr(layer, "activation_name", None)
    return ACTIVATIONS[name].elementwise if name in ACTIVATIONS else getattr(layer, "elementwise", True)
