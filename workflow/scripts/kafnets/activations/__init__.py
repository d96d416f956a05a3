"""Activations, made by name: fixed ones, and ones that learn, such as kernel activation functions (KAF)."""

import importlib
from functools import partial
from typing import TYPE_CHECKING

from ..registry import ACTIVATIONS, lookup
from ..runtime.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = [
    "KAF",
    "active_backend",
    "create_activation",
    "functional",
    "is_elementwise",
    "layer_factory",
    "layers_of",
]


def __getattr__(name):
    # on first use: a network without KAFs runs none of their code
    if name == "KAF":
        return importlib.import_module("kafnets.activations.kaf.layer").KAF
    if name == "functional":
        return importlib.import_module("kafnets.activations.kaf.functional")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create_activation(name: str, channels: int | None, **arguments: object) -> "torch.nn.Module":
    """A fresh activation layer: every site needs its own, because a shared one ties parameters across layers.

    Args:
        name: a name of ``kafnets.registry.ACTIVATIONS``.
        channels: channels (or units) at dim 1 of the layer's input.
        **arguments: override the entry's own, for example ``D=30`` for a KAF. ``share`` of those that learn:
            ``"channel"``, or ``"layer"``: all channels have the same parameters, or ``"network"``: as
            ``"layer"`` for this one layer, whose parameters :func:`layer_factory` gives to all others.

    Raises:
        ValueError: for an unknown name or a bad argument.
    """
    entry = lookup(ACTIVATIONS, name, "activation")
    arguments = {**_defaults(entry), **arguments}
    positional = (channels,) if entry.per == "channel" or _takes_share(entry) else ()
    try:
        layer = entry.load()(*positional, **arguments)
    except TypeError as error:
        raise UserError(f"arguments of {name}: {error}") from None
    layer.activation_name = name  # by which layers_of finds it, in copies of a network too
    return layer


def _takes_share(entry):
    return getattr(entry.load(), "takes_share", False)


def _defaults(entry):
    return {**({"share": entry.per} if _takes_share(entry) else {}), **entry.arguments}


def active_backend(name, device):
    """Which implementation computes the activation `name` on `device`, compiled if it must be.

    None where there is only one, and for a name that the registry does not know.
    """
    return ACTIVATIONS[name].backend_on(device) if name in ACTIVATIONS else None


def layer_factory(name, arguments=None):
    """What a network calls, with the number of channels, for each of its activation layers.

    A fresh layer each time. Where the network shares the parameters, these are the first layer's in all of
    them; of a class that does not take `share` and is made once for the network, it is the same layer.

    Args:
        name: a name of ``kafnets.registry.ACTIVATIONS``.
        arguments (dict, optional): as of :func:`create_activation`.
    """
    arguments = arguments or {}
    entry = lookup(ACTIVATIONS, name, "activation")
    if _takes_share(entry):
        shared = {**_defaults(entry), **arguments}["share"] == "network"
        return _Tied(name, arguments) if shared else partial(_create, name, arguments)
    if entry.per == "network":
        shared = create_activation(name, None, **arguments)
        return lambda channels: shared
    return partial(_create, name, arguments)


def _create(name, arguments, channels):
    return create_activation(name, channels, **arguments)


class _Tied:
    """Makes layers that hold the same parameters."""

    def __init__(self, name, arguments):
        self.name, self.arguments, self.first = name, arguments, None

    def __call__(self, channels):
        layer = create_activation(self.name, channels, **self.arguments)
        if self.first is None:
            self.first = layer
        for name, parameter in self.first.named_parameters(recurse=False):
            setattr(layer, name, parameter)
        return layer


def layers_of(model):
    """The activation layers of a network by name: those that :func:`create_activation` made."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "activation_name")}


def is_elementwise(layer):
    """Whether an activation layer is a function of one number, the same at every place of a channel."""
    name = getattr(layer, "activation_name", None)
    return ACTIVATIONS[name].elementwise if name in ACTIVATIONS else getattr(layer, "elementwise", True)
