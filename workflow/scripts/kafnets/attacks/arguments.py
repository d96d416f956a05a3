"""The door of every attack: its arguments checked, and brought into the one form that it works on."""

import contextlib
import math
import warnings
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..runtime.errors import is_out_of_memory
from .base import AttackResult, default_batch_size, device_of, frozen, is_correct, predict

HALVES = (torch.float16, torch.bfloat16)
_DTYPES = (*HALVES, torch.float32, torch.float64)


@dataclass
class Task:
    """What an attack works on.

    Args:
        model: as it was given.
        images: (N, ...) on the model's device, with no graph behind them.
        labels: (N,) int64, there too.
        batch_size: images per forward pass.
        home: the device that the images came from, where the result goes.
    """

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    batch_size: int
    home: torch.device

    @property
    def device(self):
        return self.images.device

    def answers(self):
        """The model's outputs for the unperturbed images, (N, classes), and which are right, (N,) bool.

        One forward pass. Of no images there are no outputs: None, and no verdicts.

        Raises:
            ValueError: when the model does not return logits, cannot take such images, writes into them, or
                has fewer outputs than the labels have classes.
        """
        if not len(self.images):
            return None, self.labels == self.labels
        _warn_of_batch_statistics(self.model)
        version = self.images._version
        with frozen(self.model), _naming_the_dtype(self.model, self.images):
            logits = predict(self.model, self.images, self.batch_size)
        if self.images._version != version:
            raise ValueError("model: changes its input in place; let it compute x = x - mean, not x -= mean")
        if logits.shape[1] < 2:
            raise ValueError(
                "model: has one output, a classifier has one for each class, at least two; "
                "wrap a binary one so that it returns (0, logit)"
            )
        if self.labels.max() >= logits.shape[1]:  # on a GPU a stray one would end the process
            raise ValueError(
                f"labels: found class {self.labels.max().item()}, but the model has {logits.shape[1]} outputs"
            )
        return logits, is_correct(logits, self.labels)

    def nothing(self, **figures):
        """The result for an empty set."""
        none = self.labels == self.labels
        return self.result(self.images.clone(), none, none.clone(), 0, 0, **figures)

    def result(
        self, adversarial, robust, clean, queries, gradients, *, distances=None, stalled=None, **figures
    ):
        """An AttackResult where the images came from, with no graph behind it."""
        return AttackResult(
            adversarial=adversarial.detach().to(self.home),
            robust=robust.to(self.home),
            clean=clean.to(self.home),
            queries=queries,
            gradients=gradients,
            distances=None if distances is None else distances.detach().to(self.home),
            stalled=None if stalled is None else stalled.to(self.home),
            **figures,
        )


def prepare(model, images, labels, batch_size=None):
    """Checks what every attack is given, and brings it into one form.

    Images may be of any floating-point type, on any device, require gradients, and lie in memory in any
    order; labels may be of any integer type and on any device.

    Args:
        batch_size (int, optional): images per forward pass; None chooses by device.

    Returns:
        Task

    Raises:
        TypeError: when the model is not a module, or the images or labels are not tensors.
        ValueError: naming the argument, when its shape, type or range is wrong.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, found {type(model).__name__}")
    images = checked_images(images)
    device = device_of(model, images)
    batch_size = default_batch_size(device) if batch_size is None else batch_size
    batch_size = check_integer("batch_size", batch_size, 1)
    with torch.inference_mode(False):
        pixels, classes = images.to(device), _checked_labels(labels, images).to(device)
    return Task(model, pixels, classes, batch_size, images.device)


def _warn_of_batch_statistics(model):
    if any(isinstance(one, _BatchNorm) and one.running_mean is None for one in model.modules()):
        warnings.warn(
            "model: a normalisation has no running statistics, so that its answer for an image depends on "
            "the images beside it, and verdicts on the batch size",
            stacklevel=4,
        )


def checked_images(images):
    """The images without a graph behind them; see :func:`prepare`."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a tensor, found {type(images).__name__}")
    if images.dim() < 2 or images.dtype not in _DTYPES or not math.prod(images.shape[1:]):
        found = f"{images.dtype}, shape {tuple(images.shape)}"
        hint = "" if images.is_floating_point() else "; write images.float() / 255 for bytes"
        raise ValueError(f"images: expected floating-point pixels in [0, 1], (N, ...); found {found}{hint}")
    images = _free(images)
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        raise ValueError(
            f"images: pixels must lie in [0, 1], found {images.amin():.4g} to {images.amax():.4g}; "
            "divide bytes by 255"
        )
    return images


def _checked_labels(labels, images):
    if labels is None:
        raise ValueError(
            "labels: the true labels are required; an attack on the model's own predictions "
            "overstates robustness (thesis_pgd does that on purpose)"
        )
    if not isinstance(labels, torch.Tensor):
        raise TypeError(f"labels: expected a tensor of class indices, found {type(labels).__name__}")
    if labels.shape != images.shape[:1]:
        single = "; for a single image write images[None], labels[None]" if not labels.dim() else ""
        raise ValueError(
            f"labels: expected one class index per image, shape ({len(images)},), found "
            f"{tuple(labels.shape)}{single}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        raise ValueError(f"labels: expected integer class indices, found {labels.dtype}")
    labels = _free(labels.long())
    if labels.numel() and labels.min() < 0:
        raise ValueError(f"labels: class indices start at 0, found {labels.min().item()}")
    return labels


def _free(tensor):
    """The tensor without its graph; a copy of one made in inference mode, where gradients cannot be taken."""
    tensor = tensor.detach()
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


@contextlib.contextmanager
def _naming_the_dtype(model, images):
    """A failure of the forward pass is put down to the images' type where weights are of another one."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
        if types <= {images.dtype} or is_out_of_memory(error):
            raise
        weights = " and ".join(sorted(map(str, types)))
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"images: {images.dtype}, but the model's weights are {weights}; convert one to the other's type "
            f"({line})"
        ) from error


def as_pixels(model, images, device):
    """Bytes (N, C, H, W) as channels-last pixels in [0, 1] on `device`, of the type of the model's own."""
    dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
    return (images.to(device).float() / 255).to(dtype).contiguous(memory_format=torch.channels_last)


def check_choice(name, value, known):
    """Checks that `value` is one of the `known` names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: {value!r} is not known; choose one of {', '.join(known)}")


def check_real(name, value, least, most=math.inf):
    """`value`, a finite number in [least, most], as a float; NumPy's and tensors of no dimension are too."""
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, Real) or not least <= number <= most:
        raise ValueError(f"{name}: expected a number in [{least:g}, {most:g}], found {value!r}")
    if math.isinf(number):
        raise ValueError(f"{name}: expected a finite number, found {value!r}")
    return float(number)


def check_integer(name, value, least):
    """`value`, a whole number of at least `least`, as an int; NumPy's and tensors of no dimension are too."""
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r}")
    return int(number)


def _plain(value):
    """The Python number of a NumPy scalar, or of an array or tensor of no dimension; else `value` itself."""
    plain = isinstance(value, (np.generic, np.ndarray, torch.Tensor)) and not value.ndim
    return value.item() if plain else value
