"""Networks as files: the weights, and how the network was created."""

import json
import os
import warnings
from collections import defaultdict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.utils import parametrize

from ..runtime import filetypes
from ..runtime.errors import UserError
from ..runtime.files import atomic_path
from .create import create_model
from .weights import load_tensors, tensor_faults, unwrapped, without_wrappers

_METADATA, _DTYPE = "kafnets", "dtype"
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}
_ALONE = "or write its weights alone: torch.save(model.state_dict(), path), and kafnets.load_state_dict"


def save_model(model: torch.nn.Module, path: str | os.PathLike) -> None:
    """Writes a network of :func:`create_model` with all that :func:`load_model` needs, atomically.

    What torch wraps around it (``torch.compile``, ``DataParallel``, ``AveragedModel``) is left away. A
    network in half (or double) precision is loaded as one. Tied parameters are written once for each name,
    with a warning: the loaded network computes the same and has them apart. The memory format is not kept: a
    network saved channels-last gives the same bits once the loaded one is
    ``.to(memory_format=torch.channels_last)``, and before that the same up to rounding, because torch has
    another convolution for each format.

    Args:
        model (nn.Module): the network; its weights and torch's random state stay as they are.
        path (str or Path): the file, safetensors.

    Raises:
        UserError: when :func:`load_model` could not make the same network of the file: it was not made by
            :func:`create_model` or was changed since (pruned, parametrized, a layer replaced, hooks), an
            argument is not plain data (a callable), or a weight is not finite; or when `path` cannot be
            written.
    """
    network = unwrapped(model)
    text = _description(network)
    state = network.state_dict()
    tensors = {
        without_wrappers(name): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    dtype = str(next((parameter.dtype for parameter in network.parameters()), torch.float32))
    made = _check_loadable(network, json.loads(text), tensors, dtype)
    _warn_of_ties(state, made.state_dict())
    told = {} if dtype == str(torch.float32) else {_DTYPE: dtype}
    content = save(tensors, metadata={_METADATA: text, **told})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _description(network):
    specification = getattr(network, "specification", None)
    if specification is None:
        raise UserError(
            f"model: this {type(network).__name__} was not made by kafnets.create_model, so a file cannot "
            "say what it is; make it there, fill it with kafnets.load_state_dict(made, model.state_dict()) "
            "and save that (an architecture of your own is one line in kafnets/registry.py)"
        )
    for name, value in _leaves(specification):
        if not isinstance(value, str | int | float | None):
            raise UserError(
                f"model: its argument {name} is {value!r}, which a file cannot hold; give a name or a number "
                f"there (init='tanh', say), {_ALONE}"
            )
    return json.dumps(specification, sort_keys=True)


def _leaves(value, name=""):
    """Every value that is no list or dict within `value`, with the keys that lead there."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _warn_of_ties(state, made):
    """Warns of tensors with several names that the same network, made anew, has apart."""
    kept = {tuple(names) for names in _ties(made)}
    tied = [names for names in _ties(state) if tuple(map(without_wrappers, names)) not in kept]
    if tied:
        more = f", and {len(tied) - 1} more such" if len(tied) > 1 else ""
        warnings.warn(
            f"{' and '.join(tied[0])} are tied{more}: a loaded network computes the same and has them apart",
            stacklevel=3,
        )


def _ties(state):
    """The names of each tensor that has several."""
    places = defaultdict(list)
    for name, tensor in state.items():
        if tensor.numel():
            places[tensor.data_ptr(), tensor.device].append(name)
    return [names for names in places.values() if len(names) > 1]


def _check_loadable(network, specification, tensors, dtype):
    """Compares the network with the one that `load_model` would make, layer by layer, tensor by tensor.

    Returns:
        nn.Module: that one.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            made = _created(specification, dtype)
    except Exception as error:  # of foreign arguments, as in load_model
        raise UserError(f"model: its specification is not usable ({error})") from None
    layers, expected = _layers(network), _layers(made)
    changed = sorted(
        name for name in layers.keys() | expected.keys() if layers.get(name) != expected.get(name)
    )
    faults = tensor_faults(made.state_dict(), tensors)
    if changed:
        name = changed[0]
        found = f"{name or 'model'} is {layers.get(name, 'absent')}, it was {expected.get(name, 'absent')}"
        faults = f"{found}; {faults}" if faults else found
    hooked = sorted(
        name for name, layer in network.named_modules() if layer._forward_hooks or layer._forward_pre_hooks
    )
    if hooked and not faults:
        faults = f"{hooked[0] or 'model'} has a forward hook, which a file cannot hold"
    if faults:
        raise UserError(f"model: load_model could not make it again: {faults}{_advice(network, tensors)}")
    return made


def _created(specification, dtype):
    if dtype not in _DTYPES:
        raise ValueError(f"values of {dtype} are not stored, only of {', '.join(_DTYPES)}")
    return create_model(**specification).to(_DTYPES[dtype])


def _layers(network):
    """Each layer's name and what it says of itself, a shared one under each of its names."""
    return {
        without_wrappers(name): f"{type(layer).__name__}({layer.extra_repr()})"
        for name, layer in network.named_modules(remove_duplicate=False)
    }


def _advice(network, tensors):
    if any(map(parametrize.is_parametrized, network.modules())):
        return "; call torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') first"
    if any(name.endswith("_orig") for name in tensors):
        return "; call torch.nn.utils.prune.remove(layer, 'weight') first"
    if any(name.endswith("_g") for name in tensors):
        return "; call torch.nn.utils.remove_weight_norm(layer) first"
    return ""


def model_metadata(path: str | os.PathLike) -> dict:
    """How the network in the file `path` was created: the arguments of :func:`create_model`.

    Raises:
        UserError: when the file is absent, not safetensors, or not written by :func:`save_model`.
    """
    return _specification(path)[0]


def _specification(path):
    """How the network in the file `path` was created, and the type of its values as text."""
    if filetypes.recognise(path) == filetypes.TORCH:
        raise UserError(f"{path}: is {filetypes.TORCH}: {_FILL}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if _METADATA not in metadata:
        raise UserError(f"{path}: has no network description (kafnets.save_model did not write it): {_FILL}")
    try:
        specification = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its network description is not JSON ({error})") from None
    if not isinstance(specification, dict) or "architecture" not in specification:
        raise UserError(f"{path}: its network description names no architecture")
    return specification, metadata.get(_DTYPE, str(torch.float32))


_FILL = (
    "it holds weights and does not say of which network; make that one and fill it: "
    "kafnets.load_state_dict(kafnets.create_model('resnet20', ...), path)"
)


def load_model(path: str | os.PathLike, device: str | torch.device = "cpu") -> torch.nn.Module:
    """The network that :func:`save_model` wrote to `path`, in evaluation mode on `device`.

    Raises:
        UserError: when the file is absent or of another kind (the message says which, and what to do: weights
            of ``torch.save`` go through :func:`load_state_dict`), cut short or damaged, when its description
            is of no network, or a tensor is missing, extra, of the wrong shape or type, or not finite.
    """
    specification, dtype = _specification(path)
    try:
        model = _created(specification, dtype)
    except Exception as error:  # what the constructors make of foreign arguments has no common error class
        raise UserError(f"{path}: its network description is not usable ({error})") from None
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    load_tensors(model, tensors, path)
    return model.to(device).eval()
