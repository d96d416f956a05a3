"""Networks of a user's own: any factory's module, filled with weights as people have them."""

import inspect
import sys
from math import isfinite
from numbers import Real
from pathlib import Path

import torch
from torch import nn

from .. import registry
from ..entry import Entry
from ..runtime.errors import UserError, is_out_of_memory
from .resnet import Normalize
from .weights import load_state_dict


def own_entry(target, weights=None, *, arguments=None, key=None, mean=None, std=None, folders=()):
    """What :func:`load` takes, of a network that no configuration declares.

    Args:
        target (str): "module:name" of what makes the network: a class, or a function that returns a module.
        weights (str or Path, optional): as of :func:`kafnets.load_state_dict`; without, the factory fills it.
        arguments (dict, optional): of the factory.
        key (str, optional): which of several sets of weights in the file.
        mean, std (sequence of floats, optional): of the input's normalisation: one number, or one a channel.
        folders (iterable of Path): where the module may lie, when it is not installed.
    """
    return Entry(
        target,
        dict(arguments or {}),
        weights=str(weights or ""),
        key=key or "",
        mean=tuple(mean or ()),
        std=tuple(std or ()),
        folder=registry.folder_of(target, folders),
        own=True,
    )


def build(entry, /, *, num_classes, image_shape=(3, 32, 32), **others):
    r"""The network of an entry as its factory makes it, its normalisation a layer in front; not filled.

    Args:
        entry (Entry): of `kafnets.registry.ARCHITECTURES`, with weights; or of :func:`own_entry`.
        num_classes (int or None): of the data set; None: whatever it has.
        image_shape (sequence of 3 ints): channels, rows and columns of its images.
        **others: what networks of this library are told beside; a factory takes its own arguments alone.

    Shape:
        - Input: :math:`(N, *\text{image\_shape})`, pixels in [0, 1]
        - Output: :math:`(N, \text{num\_classes})` logits

    Raises:
        UserError: when the factory is not there, cannot be called so, or gives no network; or when that does
            not take such images or has not as many outputs as there are classes.
    """
    factory = entry.factory()
    if not callable(factory):
        raise UserError(f"{entry.target}: is no class and no function, but a {type(factory).__name__}")
    try:
        network = factory(**entry.arguments)
    except TypeError as error:
        raise UserError(
            f"{entry.target}: cannot be called with the arguments {entry.arguments or 'none'} ({error}); it "
            f"takes {_signature(factory)}"
        ) from None
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{entry.target}: returns a {type(network).__name__}, not a torch.nn.Module; "
            "name what makes the network"
        )
    network = _normalised(network, entry.mean, entry.std, image_shape[0])
    check_fits(network, entry.target, num_classes, image_shape)
    return network


def load(entry, *, num_classes, image_shape=(3, 32, 32)):
    """The network of an entry with its weights, in evaluation mode.

    Args, raises: as :func:`build`; UserError also for weights that are not this network's.
    """
    network = build(entry, num_classes=num_classes, image_shape=image_shape)
    return fill(network, entry) if entry.weights else network.eval()


def fill(network, entry):
    """Loads the weights of an entry into the network that :func:`build` made of it; evaluation mode.

    Raises:
        UserError: for weights that are not this network's.
    """
    load_state_dict(_inner(network), entry.weights, entry.key or None)
    return network.eval()


def check_fits(network, name, num_classes, image_shape):
    """Checks that a network takes images of that shape, and has an output for each class.

    Raises:
        UserError: in words, naming what differs; `name` is the network's.
    """
    shape = " x ".join(map(str, image_shape))
    modes = [(module, module.training) for module in network.modules()]
    parameter = next((one for one in network.parameters() if one.is_floating_point()), None)
    images = torch.zeros(2, *image_shape)
    images = images if parameter is None else images.to(parameter)
    try:
        with torch.no_grad():
            logits = network.eval()(images)
    except Exception as error:  # of a foreign network's own code
        if is_out_of_memory(error):
            raise
        line = str(error).partition("\n")[0]
        raise UserError(
            f"{name}: does not take images of {shape} pixels ({_channels(network, image_shape[0]) or line}); "
            "take the data set that it is for, or a network for this one"
        ) from None
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"{name}: returns {found} for 2 images; wrap it so that it returns logits (2, classes)"
        )
    if num_classes is not None and logits.shape[1] != num_classes:
        raise UserError(
            f"{name}: has {logits.shape[1]} outputs, the data set {num_classes} classes; give its factory "
            "the number of classes among its arguments, or take the data set that it is for"
        )


def _channels(network, channels):
    """In words whether the first convolution takes another number of channels; "" where it does not."""
    first = next((one for one in network.modules() if isinstance(one, nn.Conv2d)), None)
    if first is None or first.in_channels == channels:
        return ""
    return f"its first convolution takes {first.in_channels} channels, they have {channels}"


def _signature(factory):
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):
        return "other arguments"


def _normalised(network, mean, std, channels):
    """The network behind (x - mean) / std; itself where there is neither."""
    if not mean and not std:
        return network
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels) or not all(map(_is_number, values)):
            wanted = "one number" if channels == 1 else f"one number, or {channels}, one a channel,"
            raise UserError(f"{name}: {wanted} must be given, found {list(values) or 'nothing'}")
    if not all(value > 0 for value in std):
        raise UserError(f"std: the numbers must be positive, found {list(std)}")
    layers = nn.Sequential()
    layers.add_module("normalize", Normalize(mean, std))
    layers.add_module("network", network)
    return layers


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _inner(network):
    """What the factory made, behind the normalisation or without one."""
    behind = isinstance(network, nn.Sequential) and isinstance(next(iter(network), None), Normalize)
    return network.network if behind and hasattr(network, "network") else network


def module_file(entry):
    """The file of the module that an entry's factory is in, or None of one without a file."""
    entry.factory()
    file = getattr(sys.modules[entry.target.partition(":")[0]], "__file__", None)
    return None if file is None else Path(file)
