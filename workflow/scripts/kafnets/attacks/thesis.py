"""The protocol by which the thesis measured robustness, kept to explain its numbers."""

from collections.abc import Callable

import torch

from .arguments import check_integer, prepare
from .balls import RandomStarts, check_radius
from .base import AttackResult, frozen, is_correct, predict
from .pgd import pgd


def thesis_pgd(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float,
    iterations: int,
    restarts: int = 1,
    loss: str = "cross_entropy",
    batch_size: int | None = None,
    seed: int = 0,
    starts: torch.Tensor | None = None,
    surrogate: torch.nn.Module | None = None,
    progress: Callable | None = None,
    memory: object = None,
) -> AttackResult:
    """PGD against the model's own predictions, one best restart for the whole set.

    Two things make the result higher than the robustness of :func:`pgd`. The attack, called without labels,
    moves every image away from what the model said of it, so one that the model got wrong may be pushed to
    its true class and count as robust. And of all restarts only one is kept: the one whose last points
    changed the largest share of the predictions (the first of equals), instead of the worst per image.

    Args:
        model, images, labels: as in :func:`pgd`. The labels serve for the verdict only.
        eps, step, iterations, restarts, loss: as there.
        batch_size, seed, starts, surrogate, progress, memory: as there, with the same random starts.

    Returns:
        AttackResult: `robust` is True where the chosen restart's last point gets the true label, so it does
        not imply `clean`. `accuracy_by_iteration` is None.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.

    Source: the thesis's evaluation with the Adversarial Robustness Toolbox 1.3.3, which kept the restart of
    the highest success rate over all images.
    """
    task = prepare(model, images, labels, batch_size)
    eps = check_radius(eps, "linf")
    iterations, restarts = check_integer("iterations", iterations, 0), check_integer("restarts", restarts, 1)
    logits, _ = task.answers()
    if logits is None:
        return task.nothing()
    if starts is None:
        starts = RandomStarts(task.images, eps, seed)
    elif not isinstance(starts, torch.Tensor) or len(starts) != restarts:
        raise ValueError(f"starts: expected a tensor of shape {(restarts, *images.shape)} (restarts, N, ...)")

    best = {"restart": 0, "chosen": None, "most_changed": -1.0, "queries": len(images), "gradients": 0}
    best["logits"] = logits
    best["stalled"] = None if surrogate is None else torch.zeros(len(images), dtype=torch.bool)
    state = None if memory is None else memory.recall()
    if state is not None:
        best = state["best"]
    logits = best["logits"].to(task.device)
    predictions = logits.argmax(1)
    for restart in range(best["restart"], restarts):
        result = pgd(
            model,
            task.images,
            predictions,
            eps=eps,
            step=step,
            iterations=iterations,
            loss=loss,
            early_stop=False,
            batch_size=task.batch_size,
            starts=starts[restart][None],
            surrogate=surrogate,
            progress=_whole_progress(progress, restart, restarts, len(images) * (iterations + 2)),
            memory=None if memory is None else _MemoryOfARestart(memory, best, state),
        )
        state = None
        changed = 1 - result.robust.float().mean().item()
        if changed > best["most_changed"]:
            best.update(chosen=result.adversarial, most_changed=changed)
        if surrogate is not None:
            best["stalled"] = best["stalled"] | result.stalled.cpu()
        best.update(
            restart=restart + 1,
            queries=best["queries"] + result.queries,
            gradients=best["gradients"] + result.gradients,
        )
    with frozen(model):
        outputs = predict(model, best["chosen"].to(task.device), task.batch_size)
    return task.result(
        adversarial=best["chosen"],
        robust=is_correct(outputs, task.labels),
        clean=is_correct(logits, task.labels),
        queries=best["queries"] + len(images),
        gradients=best["gradients"],
        stalled=best["stalled"],
    )


class _MemoryOfARestart:
    """The memory of :func:`pgd` in one restart, within that of all of them."""

    def __init__(self, memory, best, state):
        self.memory, self.best, self.state = memory, best, state

    def recall(self):
        return None if self.state is None else self.state["pgd"]

    def note(self, state):
        self.memory.note(lambda: {"best": self.best, "pgd": state()})


def _whole_progress(progress, restart, restarts, per_restart):
    """The progress of one restart as that of all of them."""
    if progress is None:
        return None
    return lambda done, left, accuracy: progress(
        restart * per_restart + done, (restarts - restart - 1) * per_restart + left, accuracy
    )
