"""Attacks that do not look at the model's gradient: random noise, and images made for other models."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from .arguments import check_integer, check_real, prepare
from .balls import check_radius
from .base import AttackResult
from .pgd import pgd
from .survivors import Survivors


def noise(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    samples: int = 100,
    norm: str = "linf",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """Random points of the ball: what any attack must beat.

    Args:
        model, images, labels, norm, batch_size, seed, progress: as in :func:`kafnets.attacks.pgd`.
        eps: radius of the ball, in pixel units of [0, 1].
        samples: points tried per image.

    Returns:
        AttackResult: an image is robust when it is rightly classified at every point tried.
    """
    return pgd(
        model,
        images,
        labels,
        eps=eps,
        step=0.0,
        iterations=0,
        restarts=check_integer("samples", samples, 1),
        norm=norm,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )


def transfer(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    sources: Sequence,
    eps: float,
    step: float,
    iterations: int,
    momentum: float = 1.0,
    norm: str = "linf",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """Images that were perturbed to be misclassified by other models.

    Args:
        model, images, labels, eps, step, iterations, norm, batch_size, seed, progress: as in
            :func:`kafnets.attacks.pgd`.
        sources: the other models, or the paths of their weights: :func:`kafnets.load_model`.
        momentum: weight of the accumulated gradients, which makes the perturbations transfer better.

    Returns:
        AttackResult: an image is robust when it is rightly classified unperturbed and as perturbed for every
        source. `queries` counts the sources' forward passes too.

    Source: Dong et al. 2018, arXiv:1710.06081 (momentum iterative method).
    """
    task = prepare(model, images, labels, batch_size)
    sources = checked_sources(sources)
    if not sources:
        raise ValueError("sources: expected at least one model, or path of one")
    eps, step = check_radius(eps, norm), check_real("step", step, 0)
    iterations, momentum = check_integer("iterations", iterations, 0), check_real("momentum", momentum, 0)
    _, clean = task.answers()
    survivors = Survivors(task, clean)
    for number, source in enumerate(sources):
        rows = survivors.rows()
        if not len(rows):
            break
        crafted = craft(
            source,
            task.images[rows],
            task.labels[rows],
            eps=eps,
            step=step,
            iterations=iterations,
            momentum=momentum,
            norm=norm,
            batch_size=task.batch_size,
        )
        survivors.add_cost(crafted)
        survivors.judge(rows, crafted.adversarial)
        if progress is not None:
            progress(number + 1, len(sources) - number - 1, survivors.accuracy)
    return survivors.result()


def craft(source, images, labels, **settings):
    """PGD on the model `source` from the images themselves to the last iteration; `settings` as there."""
    source = _loaded(source, images.device)
    try:
        return pgd(source, images, labels, early_stop=False, starts=images[None], **settings)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"sources: {error}") from error


def checked_sources(sources):
    """The models, or paths of them, as a list."""
    if not isinstance(sources, Iterable) or isinstance(sources, (str, nn.Module)):
        raise ValueError("sources: expected models, or paths of them, in a list")
    return list(sources)


def _loaded(source, device):
    if isinstance(source, nn.Module):
        return source
    from ..models import load_model

    return load_model(source, torch.device(device))
