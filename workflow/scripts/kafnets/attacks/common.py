"""What all attacks share: their result, the state a model is attacked in, the checks of their arguments."""

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import nn

NORMS = ("linf", "l2")


@dataclass
class AttackResult:
    """What an attack on N images found.

    Args:
        adversarial: the perturbed images, (N, ...) in [0, 1]: one that is misclassified where there is one.
        robust: (N,) bool, True where the image stayed rightly classified.
        clean: (N,) bool, True where the unperturbed image is rightly classified.
        queries: forward passes spent, counted in images.
        gradients: backward passes spent, counted in images.
        accuracy_by_iteration: for iterative attacks the share of all images still rightly classified after
            0, 1, ... iterations of the first restart.
        distances: for attacks that look for the nearest misclassified image: (N,) how far it is, infinite
            where none was found and 0 where the image itself is misclassified.
    """

    adversarial: torch.Tensor
    robust: torch.Tensor
    clean: torch.Tensor
    queries: int
    gradients: int
    accuracy_by_iteration: list | None = None
    distances: torch.Tensor | None = None


@contextlib.contextmanager
def frozen(model):
    """Evaluation mode without parameter gradients, with gradients enabled for the inputs.

    Every module's own mode and every parameter's `requires_grad` come back at the end, also after an
    exception, and whatever mixture of them the model was in.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)


def device_of(model, images):
    """Where `model` computes: the device of its first parameter or buffer, else that of the images."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return images.device


def default_batch_size(device):
    """Images per forward pass that keep the device busy and still fit anywhere."""
    return 1024 if device.type == "cuda" else 128


def check_images(model, images, labels):
    """Checks what every attack is given.

    Raises:
        TypeError: when the model is not a module, or the images or labels are not tensors.
        ValueError: naming the argument, when its shape, type or range is wrong.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, found {type(model).__name__}")
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images: expected a tensor, found {type(images).__name__}")
    if labels is None:
        raise ValueError(
            "labels: the true labels are required; an attack on the model's own predictions "
            "overstates robustness (thesis_pgd does that on purpose)"
        )
    if not isinstance(labels, torch.Tensor):
        raise TypeError(f"labels: expected a tensor of class indices, found {type(labels).__name__}")
    if images.dim() < 2 or not images.is_floating_point():
        raise ValueError(
            f"images: expected floating-point pixels in [0, 1], (N, ...); found {images.dtype}, "
            f"shape {tuple(images.shape)}"
        )
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        raise ValueError(
            f"images: pixels must lie in [0, 1], found {images.amin():.4g} to {images.amax():.4g}; "
            "divide bytes by 255"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels: expected one class index per image, shape ({len(images)},), found {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        raise ValueError(f"labels: expected integer class indices, found {labels.dtype}")
    if labels.numel() and labels.min() < 0:
        raise ValueError(f"labels: class indices start at 0, found {labels.min().item()}")


def check_classes(labels, classes):
    """Checks that the labels are among the model's outputs (on a GPU a stray one would end the process)."""
    if labels.numel() and labels.max() >= classes:
        raise ValueError(f"labels: found class {labels.max().item()}, but the model has {classes} outputs")


def check_real(name, value, least, most=math.inf):
    """Checks that `value` is a number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"{name}: expected a number in [{least:g}, {most:g}], found {value!r}")


def check_integer(name, value, least):
    """Checks that `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def is_correct(logits, labels):
    """(N,) bool: the largest output is the label's. Outputs that are not finite never count as right."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


@torch.no_grad()
def predict(model, images, batch_size):
    """The outputs of a frozen model, (N, classes), computed by batches."""
    return torch.cat([model(batch) for batch in images.split(batch_size)])


class _ContiguousGradient(torch.autograd.Function):
    """The images, with a gradient stored in the plain order: some libraries read no other."""

    @staticmethod
    def forward(ctx, images):
        return images.view_as(images)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.contiguous()


class Counted(nn.Module):
    """A model that counts what it is asked: forward and backward passes, in images."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.queries = self.gradients = 0

    def forward(self, images):
        self.queries += len(images)
        logits = self.model(_ContiguousGradient.apply(images))
        if logits.requires_grad:
            logits.register_hook(self._count_gradient)
        return logits

    def _count_gradient(self, gradient):
        self.gradients += len(gradient)


@contextlib.contextmanager
def seeded(seed, device):
    """torch's global random numbers start from `seed` inside and go on outside as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def distances(images, others, norm):
    """How far every image is from its other, (N,), in the "linf" or "l2" norm."""
    return (images - others).flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)


def into_ball(points, centers, eps, norm):
    """The points brought back into the balls around their centers, and to [0, 1].

    Args:
        eps: the radius, a number or a tensor that multiplies with the points.
    """
    if norm == "linf":
        return points.clamp((centers - eps).clamp_(0, 1), (centers + eps).clamp_(0, 1))
    offsets = points - centers
    return (centers + offsets * (eps / lengths(offsets)).clamp(max=1)).clamp_(0, 1)


def per_image(values, images):
    """(N,) values shaped to be multiplied with (N, ...) images."""
    return values.view(-1, *[1] * (images.dim() - 1))


def lengths(vectors):
    """Euclidean lengths, (N, 1, ...), kept above zero for dividing by them."""
    tiny = torch.finfo(vectors.dtype).tiny
    return per_image(vectors.flatten(1).norm(dim=1).clamp(min=tiny), vectors)
