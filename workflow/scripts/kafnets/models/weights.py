"""Weights that others have trained, into a network that is there."""

import argparse
import os
import re
import warnings
from collections.abc import Mapping

import numpy
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..runtime import filetypes
from ..runtime.errors import UserError

# Parts of a tensor's name that torch's wrappers put there, wherever they stand.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_COUNTER = "num_batches_tracked"
_NAMED = 3  # of each kind of fault, the rest is counted

# What checkpoints hold beside tensors and is mere data: the arguments of a script, NumPy's numbers.
_MERE_DATA = [
    argparse.Namespace,
    numpy.dtype,
    *(type(numpy.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
    *((numpy.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def load_state_dict(
    model: torch.nn.Module, weights: str | os.PathLike | dict, key: str | None = None
) -> torch.nn.Module:
    """Fills `model` with weights that are not a file of :func:`kafnets.save_model`::

        model = kafnets.create_model("resnet20", block="original", shortcut="pad_both")
        kafnets.load_state_dict(model, "resnet20.th")

    It stands for ``model.load_state_dict(torch.load(path))`` and is a function of its own beside
    :func:`kafnets.load_model`, because such a file holds tensors and does not say of which network they are:
    the network comes first, and may be one of your own. Nothing in a file is run (``weights_only=True``).

    What people's files have is understood: checkpoints that hold the weights under some key, beside arguments
    and numbers; the prefixes of ``DataParallel``, ``torch.compile``, ``AveragedModel`` or a module around the
    network (``module.``, ``_orig_mod.``, ``model.``, ...); no ``num_batches_tracked``; values in another
    floating-point type than the network's, into whose type they are cast; for a ResNet, the names of other
    CIFAR ResNets (:class:`kafnets.models.resnet.ResNet`).

    Args:
        model (nn.Module): any network, also inside torch's wrappers; its mode (training, evaluation) stays.
        weights (str, Path or dict): a file of ``torch.save`` or safetensors, or names to tensors or arrays.
        key (str, optional): which of several sets of weights in a checkpoint, e.g. ``"state_dict_ema"``;
            ``"a.b"`` for one within another. Default: the only one whose names are of this network

    Returns:
        nn.Module: `model`.

    Raises:
        UserError: in one line, when the file is of another kind or damaged, holds none or several sets of
            weights, or when tensors are missing, extra, of another shape or not finite. `model` is unchanged.
    """
    network = unwrapped(model)
    source = "weights" if isinstance(weights, Mapping) else weights
    content = weights if isinstance(weights, Mapping) else _read(weights)
    expected = network.state_dict()
    tensors = _chosen(content, network, expected, key, source)
    load_tensors(network, {**_counters(expected), **tensors}, source, cast=True)
    return model


def unwrapped(model):
    """The network inside torch's wrappers: torch.compile, (Distributed)DataParallel, AveragedModel."""
    while True:
        if "_orig_mod" in model._modules:
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
            model = model.module
        else:
            return model


def without_wrappers(name):
    """A tensor's or module's name without the parts that torch's wrappers put there."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _read(path):
    """What a file holds: tensors by name, or a checkpoint."""
    try:
        if filetypes.recognise(path) == filetypes.SAFETENSORS:
            return load_file(path)
        with torch.serialization.safe_globals(_MERE_DATA):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # what torch makes of a file that it does not like has no common class
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:
            reason = str(error).partition("\n")[0][:200]
            raise UserError(f"{path}: is damaged ({reason}); copy or download it again") from None
        raise UserError(
            f"{path}: holds a Python object ({foreign[1]}), not weights alone, and is not opened, because "
            "that could run code; where it was made, write torch.save(model.state_dict(), path)"
        ) from None


def _chosen(content, network, expected, key, source):
    """The set of weights `key` of a checkpoint, or the only one that fits, by the network's names."""
    found = dict(_states(content))
    if not found:
        raise UserError(f"{source}: holds no weights (looked for: a dict of names to tensors)")
    if key is not None and key not in found:
        raise UserError(f"{source}: no weights under {key!r}; there are some under {_listed(found)}")
    chosen = found if key is None else {key: found[key]}
    renamed = {}
    for name, state in chosen.items():
        renamed[name] = _named_as(network, expected, state)
    fitting = [key for key in renamed if expected.keys() == (_counters(expected) | renamed[key]).keys()]
    candidates = fitting or list(renamed)
    if len(candidates) > 1:
        raise UserError(f"{source}: holds several sets of weights; give key, one of {_listed(candidates)}")
    return renamed[candidates[0]]


def _states(content, key=""):
    """Every mapping of names to tensors in a checkpoint, with the keys that lead there."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return
    if content and all(isinstance(value, torch.Tensor | numpy.ndarray) for value in content.values()):
        yield key, {name: torch.as_tensor(value) for name, value in content.items()}
        return
    for name, value in content.items():
        yield from _states(value, f"{key}.{name}" if key else name)


def _listed(keys):
    return ", ".join(map(repr, keys))


def _counters(expected):
    """How many batches each normalisation has seen, which old and converted files lack."""
    return {name: tensor for name, tensor in expected.items() if name.rpartition(".")[2] == _COUNTER}


def _named_as(network, expected, tensors):
    """`tensors` by the network's names, as far as they can be known."""
    if tensors.keys() == expected.keys():
        return tensors
    tensors = _renamed(tensors, without_wrappers)
    tensors = _without_prefixes(tensors, {name.partition(".")[0] for name in expected})
    return _translated(network, expected, tensors)


def _translated(network, expected, tensors):
    """`tensors` with the names of other implementations replaced; a warning of what names cannot say."""
    theirs = tensors.keys()

    def ours(name):
        for pattern, replacement in () if name in expected else getattr(network, "OTHER_NAMES", ()):
            name = re.sub(pattern, replacement, name)
        return name

    tensors = _renamed(tensors, ours)
    if tensors.keys() != theirs and getattr(network, "doubt", None):
        warnings.warn(network.doubt, stacklevel=5)  # of load_state_dict's caller
    return tensors


def _renamed(tensors, rename):
    """`tensors` by other names; as they are where two would have one name."""
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def _without_prefixes(tensors, ours):
    """The names without what all of them begin with and the network's, which begin with `ours`, do not."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}  # AveragedModel's
    while len(beginnings := {name.partition(".")[0] for name in tensors}) == 1:
        if beginnings <= ours or not all("." in name for name in tensors):
            break
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def load_tensors(model, tensors, source, cast=False):
    """Copies `tensors` (name to tensor) into `model`; names and shapes must agree, and types without `cast`.

    Raises:
        UserError: naming `source` and the tensors that are missing, extra, of the wrong shape or type, or not
            finite.
    """
    expected = model.state_dict()
    if cast:
        tensors = {name: _cast(tensor, expected.get(name)) for name, tensor in tensors.items()}
    faults = tensor_faults(expected, tensors)
    if faults:
        raise UserError(f"{source}: {faults}")
    with torch.no_grad():
        model.load_state_dict(tensors)


def _cast(tensor, expected):
    alike = expected is not None and tensor.is_floating_point() == expected.is_floating_point()
    return tensor.to(expected.dtype) if alike else tensor


def tensor_faults(expected, tensors):
    """What keeps a network with the tensors `expected` from taking `tensors`, in one line; "" for nothing."""
    shapes, types, values = [], [], []
    for name in sorted(expected.keys() & tensors.keys()):
        given, wanted = tensors[name], expected[name]
        if given.shape != wanted.shape:
            needs = f"the network needs {tuple(wanted.shape)}"
            shapes.append(f"tensor {name} has shape {tuple(given.shape)}, {needs}")
        elif given.dtype != wanted.dtype:
            types.append(f"tensor {name} is of {given.dtype}, the network needs {wanted.dtype}")
        elif not given.isfinite().all():
            values.append(f"tensor {name} holds NaN or infinite values")
    faults = [
        *_counted(sorted(expected.keys() - tensors.keys()), "is missing", "are missing"),
        *_counted(
            sorted(tensors.keys() - expected.keys()),
            "does not belong to this network",
            "do not belong to this network",
        ),
    ]
    for found in (shapes, types, values):
        faults += found[:_NAMED] + ([f"{len(found) - _NAMED} more such"] if len(found) > _NAMED else [])
    return "; ".join(faults)


def _counted(names, one, many):
    if len(names) == 1:
        yield f"tensor {names[0]} {one}"
    elif names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"tensors {', '.join(names[:_NAMED])}{more} {many}"
