"""What is looked at before a network is judged: random answers, answers for a batch, and a faster copy."""

import torch

from ..attacks.base import frozen
from ..runtime.device import exact_convolutions
from ..runtime.errors import UserError, is_out_of_memory
from .folding import folded

# Images looked at, evenly spaced over the set: enough to see another function, seconds on a CPU.
IMAGES = 128
# Logits may differ by this share of their range and be the same up to rounding: folding the thesis's eight
# ResNet20 differs by 7e-7 at most in float32; KAFs in float16 arithmetic by 6e-4 from random starts, by 8e-2
# from ridge starts (128 test images of CIFAR-10, on a CPU), and these last are attacked themselves.
ROUNDING = 1e-3
# Rounding switches single units on or off, which turns the gradient a little: what cosine is still the same.
ALIGNED = 0.99
# Of the images this many must agree: rounding that meets a kink may not condemn a copy.
AGREEING = 0.95


def sample(images):
    """At most `IMAGES` of the images, evenly spaced."""
    return images[torch.linspace(0, len(images) - 1, min(IMAGES, len(images)), device=images.device).long()]


def is_random(model, images):
    """Whether two passes over the same images give different logits (dropout kept on, layers of noise).

    Args:
        model (nn.Module): asked in evaluation mode.
        images (Tensor): (N, ...) as the model takes them.
    """
    with frozen(model), torch.no_grad():
        first, second = model(images), model(images)
    return bool((_difference(first, second) > 1e-6).any())


def depends_on_the_batch(model, images):
    """Whether an image's logits depend on the images beside it, as with batch statistics in evaluation mode.

    The logits of the first eighth (at least two images) are compared with the same ones alone.
    """
    few = max(len(images) // 8, 2)
    if len(images) <= few:
        return False
    with frozen(model), torch.no_grad():
        together, alone = model(images)[:few], model(images[:few])
    return bool(_difference(together, alone).median() > 10 * ROUNDING)


def check_judgeable(model, images):
    """Whether `model` is random; refuses what has no verdict per image.

    Raises:
        UserError: when its answer for an image depends on the other images of the batch.
    """
    random = is_random(model, images)
    if not random and depends_on_the_batch(model, images):
        raise UserError(
            "the network's answer for an image depends on the other images of the batch (a normalisation "
            "without running statistics?), so no image has a verdict of its own; give its normalisations "
            "running statistics (track_running_stats=True), or use one that looks at each image alone"
        )
    return random


def fast_copy(model, images):
    """A faster network that computes the same, proved on the images at hand, and "" or why there is none.

    Logits, and the gradients with respect to the images, of the copy that :func:`.folding.folded`
    makes are compared with the network's own; where they differ beyond rounding, the network itself is
    returned.

    Args:
        model (nn.Module): deterministic; it is not changed.
        images (Tensor): (N, ...) as the model takes them, N >= 1; one batch, see :func:`sample`.

    Returns:
        (nn.Module, str): what to attack; "" for the copy, else in words why it is the network itself.
    """
    try:
        copy = folded(model)
    except Exception as error:  # whatever a network's own code does when it is copied
        return model, f"it cannot be copied ({type(error).__name__})"
    try:
        with exact_convolutions():
            why = compare(copy, model, images, ROUNDING, ALIGNED)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        why = f"its gradients cannot be compared ({type(error).__name__})"
    return (model, why) if why else (copy, "")


def compare(copy, model, images, rounding, aligned):
    """In words how a copy's answers differ from the network's; "" where they agree on most images.

    Args:
        copy, model (nn.Module): the two.
        images (Tensor): (N, ...) as they take them; one batch.
        rounding (float): the largest difference of two logits that are the same, as a share of their range.
        aligned (float): the least cosine of two gradients that are the same.
    """
    same_logits, same_gradients = agreement(copy, model, images, rounding, aligned)
    for what, agree in (("logits", same_logits), ("gradients", same_gradients)):
        if agree.float().mean() < AGREEING:
            return f"the copy's {what} differ on {int((~agree).sum())} of {len(agree)} images"
    return ""


def agreement(copy, model, images, rounding, aligned):
    """(N,) bool each: where the logits of a copy, and where its gradients, are the network's own.

    Args:
        copy, model, images, rounding, aligned: as of :func:`compare`.
    """
    logits, gradients = _answers(copy, images)
    expected, directions = _answers(model, images)
    return _difference(logits, expected) <= rounding, _are_aligned(gradients, directions, aligned)


def _answers(model, images):
    """The logits, and the gradients of a fixed random combination of them: one that never saturates."""
    with frozen(model):
        points = images.detach().clone().requires_grad_()
        logits = model(points)
        weights = torch.randn(logits.shape[1], generator=torch.Generator().manual_seed(0))
        (gradients,) = torch.autograd.grad((logits @ weights.to(logits)).sum(), points)
    return logits.detach(), gradients


def _difference(logits, others):
    """(N,) largest difference of two sets of logits, as a share of the range of each image's own."""
    logits, others = logits.double(), others.double()
    span = (others.amax(1) - others.amin(1)).clamp(min=torch.finfo(torch.float32).tiny)
    difference = (logits - others).abs().amax(1) / span
    same = (logits == others) | (logits.isnan() & others.isnan())
    # infinite or undefined logits agree where they are the very same
    return torch.where(same.all(1), 0.0, difference.nan_to_num(torch.inf))


def _are_aligned(gradients, others, least):
    """(N,) bool: the gradients point the same way and are about as long, or both are zero."""
    one, other = gradients.double().flatten(1), others.double().flatten(1)
    same = (one == other) | (one.isnan() & other.isnan())
    return (torch.cosine_similarity(one, other) >= least) | same.all(1)
