"""No attack: the floor that every other verdict is compared with."""

from collections.abc import Callable

import torch

from .arguments import prepare
from .base import AttackResult


def clean(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """Leaves the images as they are.

    Args:
        model: classifier of images in [0, 1].
        images: (N, ...) floats in [0, 1].
        labels: (N,) true classes, integers of any type.
        batch_size: images per forward pass.
        seed, progress: not used; every attack takes them.

    Returns:
        AttackResult: `robust` equals `clean`.
    """
    task = prepare(model, images, labels, batch_size)
    _, right = task.answers()
    return task.result(task.images.clone(), right, right.clone(), len(images), 0)
