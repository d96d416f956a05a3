"""Networks for small images, built from names and stored as safetensors."""

import json

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import UserError
from ..files import atomic_path
from ..registry import ARCHITECTURES, lookup

__all__ = ["create_model", "load_model", "model_metadata", "save_model"]

_METADATA = "kafnets"


def create_model(
    architecture, activation="relu", num_classes=10, activation_arguments=None, **architecture_arguments
):
    r"""A freshly initialised network; the initial weights follow torch's global random state.

    Args:
        architecture (str): a name of :data:`kafnets.registry.ARCHITECTURES`, e.g. ``"vgg"``, ``"resnet20"``.
        activation (str): a name of :data:`kafnets.registry.ACTIVATIONS`, e.g. ``"relu"``, ``"kaf_elu"``.
        num_classes (int): the number of logits.
        activation_arguments (dict, optional): passed on to every activation, e.g. ``{"D": 30}``.
        **architecture_arguments: e.g. ``block="original"`` for a ResNet.

    Shape:
        - Input: :math:`(N, 3, 32, 32)`, pixels in [0, 1], no normalisation
        - Output: :math:`(N, \text{num\_classes})` logits

    Raises:
        UserError: for an unknown architecture or activation.
        ValueError: for an argument out of its range; the message names it.
    """
    entry = lookup(ARCHITECTURES, architecture, "architecture")
    model = entry.load()(
        activation=activation,
        num_classes=num_classes,
        activation_arguments=activation_arguments or {},
        **{**entry.arguments, **architecture_arguments},
    )
    model.specification = {
        "architecture": architecture,
        "activation": activation,
        "num_classes": num_classes,
        "activation_arguments": dict(activation_arguments or {}),
        **architecture_arguments,
    }
    return model


def save_model(model, path):
    """Writes a network of :func:`create_model` with all that :func:`load_model` needs, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {_METADATA: json.dumps(model.specification, sort_keys=True)}
    content = save(tensors, metadata=metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def model_metadata(path):
    """How the network in the file `path` was created: the arguments of :func:`create_model`.

    Raises:
        UserError: when the file is absent, not safetensors, or not written by :func:`save_model`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if text is None:
        raise UserError(f"{path}: has no network description (was it written by kafnets.save_model?)")
    try:
        specification = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its network description is not JSON ({error})") from None
    if not isinstance(specification, dict) or "architecture" not in specification:
        raise UserError(f"{path}: its network description names no architecture")
    return specification


def load_model(path, device="cpu"):
    """The network that :func:`save_model` wrote to `path`, in evaluation mode on `device`.

    Raises:
        UserError: when the file is not readable, its description is of no network, or a tensor is missing,
            extra, of the wrong shape or type, or not finite; the message names the tensor.
    """
    specification = model_metadata(path)
    try:
        model = create_model(**specification)
    except Exception as error:  # what the constructors make of foreign arguments has no common error class
        raise UserError(f"{path}: its network description is not usable ({error})") from None
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    load_tensors(model, tensors, path)
    return model.to(device).eval()


def load_tensors(model, tensors, source):
    """Copies `tensors` (name to tensor) into `model`; every name, shape and type must agree.

    Raises:
        UserError: naming `source` and the first tensor that is missing, extra, of the wrong shape or type, or
            not finite.
    """
    expected = model.state_dict()
    for name in sorted(expected.keys() - tensors.keys()):
        raise UserError(f"{source}: tensor {name} is missing")
    for name in sorted(tensors.keys() - expected.keys()):
        raise UserError(f"{source}: tensor {name} does not belong to this network")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"the network needs {tuple(expected[name].shape)}"
            )
        if tensor.dtype != expected[name].dtype:
            raise UserError(
                f"{source}: tensor {name} is of {tensor.dtype}, the network needs {expected[name].dtype}"
            )
        if not tensor.isfinite().all():
            raise UserError(f"{source}: tensor {name} holds NaN or infinite values")
    with torch.no_grad():
        model.load_state_dict(tensors)
