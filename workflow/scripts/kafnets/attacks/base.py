"""What all attacks share: their result, and the state in which a model is attacked."""

import contextlib
from dataclasses import dataclass

import torch
from torch import nn


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
            where none was found and 0 where the image itself is misclassified. Of the images' type, of
            half-precision images float64.
        stalled: for attacks along another network's gradients: (N,) bool, True where the image stayed rightly
            classified and at some step there was no gradient (zero, or not finite).
    """

    adversarial: torch.Tensor
    robust: torch.Tensor
    clean: torch.Tensor
    queries: int
    gradients: int
    accuracy_by_iteration: list | None = None
    distances: torch.Tensor | None = None
    stalled: torch.Tensor | None = None


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
    """Images per forward pass that keep the device busy and still fit.

    On a GPU eight for each multiprocessor: maps of 8 x 8 pixels make four tiles of 128 then,
    so that few idle at the end of a kernel; and no more than leave 32 MiB of its memory to each, for a
    ResNet20 keeps 4 MiB an image for its backward pass, and other jobs want some. An H200 (132
    multiprocessors) gets 1024; 1000 took it less time than 2500 (PGD-50-10 in float32, networks of two
    trainings).
    """
    if device.type != "cuda":
        return 128
    properties = torch.cuda.get_device_properties(device)
    return fitting_batch(properties.multi_processor_count, properties.total_memory)


def fitting_batch(multiprocessors, memory):
    """The batch of :func:`default_batch_size` for a GPU with so many bytes: a multiple of 64."""
    return max(min(8 * multiprocessors, memory // 2**25) // 64, 1) * 64


def is_correct(logits, labels):
    """(N,) bool: the largest output is the label's. Outputs that are not finite never count as right."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


@torch.no_grad()
def predict(model, images, batch_size):
    """The outputs of a frozen model, (N, classes), computed by batches.

    Raises:
        ValueError: when the model does not return logits.
    """
    return torch.cat([_logits(model(batch), len(batch)) for batch in images.split(batch_size)])


def _logits(outputs, count):
    """What a model returned for `count` images, when it is logits, (count, classes)."""
    if not isinstance(outputs, torch.Tensor):
        found = f"a {type(outputs).__name__}"
    elif outputs.dim() != 2 or len(outputs) != count:
        found = f"the shape {tuple(outputs.shape)} for {count} images"
    elif not outputs.is_floating_point():
        found = f"{outputs.dtype}"
    else:
        return outputs
    raise ValueError(f"model: returned {found}; wrap it so that it returns logits (N, classes)")


def differentiable(logits):
    """The logits, when there is a gradient to climb.

    Raises:
        ValueError: when the model cut it off.
    """
    if logits.requires_grad:
        return logits
    raise ValueError(
        "model: its outputs have no gradient with respect to the images; let it compute without no_grad() "
        "and detach(), or choose an attack that only asks for outputs (square, noise)"
    )


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
        if images.requires_grad and torch.is_grad_enabled():
            differentiable(logits).register_hook(self._count_gradient)
        return logits

    def _count_gradient(self, gradient):
        self.gradients += len(gradient)


class InItsType(nn.Module):
    """A model for those who compute in another type: it is asked in its own, and answers in theirs."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images):
        return self.model(images.to(self.dtype)).to(images.dtype)


@contextlib.contextmanager
def seeded(seed, device):
    """torch's global random numbers start from `seed` inside and go on outside as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def rows_of(chosen, batch_size):
    """The rows where `chosen`, (N,) bool, is True, in batches; none where it is nowhere."""
    rows = chosen.nonzero()[:, 0]
    return rows.split(batch_size) if len(rows) else ()
