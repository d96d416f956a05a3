"""Networks made from names."""

import numpy
import torch

from ..activations import layers_of
from ..registry import ARCHITECTURES, lookup


def create_model(
    architecture: str,
    activation: str = "relu",
    num_classes: int = 10,
    activation_arguments: dict | None = None,
    image_shape: tuple | None = None,
    **architecture_arguments: object,
) -> torch.nn.Module:
    r"""A freshly initialised network; the initial weights follow torch's global random state.

    Args:
        architecture (str): a name of :data:`kafnets.registry.ARCHITECTURES`, e.g. ``"vgg"``, ``"resnet20"``.
        activation (str): a name of :data:`kafnets.registry.ACTIVATIONS`, e.g. ``"relu"``, ``"kaf_elu"``.
        num_classes (int): the number of logits.
        activation_arguments (dict, optional): passed on to every activation, e.g. ``{"D": 30}``.
        image_shape (tuple, optional): (channels, rows, columns) of the images. Default: (3, 32, 32)
        **architecture_arguments: e.g. ``block="original"`` for a ResNet.

    Shape:
        - Input: :math:`(N, *\text{image\_shape})`, pixels in [0, 1], no normalisation
        - Output: :math:`(N, \text{num\_classes})` logits

    Raises:
        UserError: for an unknown architecture or activation.
        ValueError: for an argument out of its range; the message names it.
    """
    entry = lookup(ARCHITECTURES, architecture, "architecture")
    specification = {
        "architecture": architecture,
        "activation": activation,
        "num_classes": _plain(num_classes),
        "activation_arguments": _plain(dict(activation_arguments or {})),
        **({} if image_shape is None else {"image_shape": _plain(image_shape)}),
        **_plain(architecture_arguments),
    }
    arguments = {key: value for key, value in specification.items() if key != "architecture"}
    model = entry.load()(**{**entry.arguments, **arguments})
    model.specification = specification
    return model


def _plain(value):
    """NumPy's and torch's numbers and arrays as Python's, so that a file can hold them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, numpy.generic | numpy.ndarray | torch.Tensor) else value


def count_parameters(model):
    """Trainable parameters in all, and those of the activations among them."""
    of_activations = {parameter for layer in layers_of(model).values() for parameter in layer.parameters()}
    return {
        "trainable": sum(parameter.numel() for parameter in model.parameters()),
        "activation": sum(parameter.numel() for parameter in of_activations),
    }
