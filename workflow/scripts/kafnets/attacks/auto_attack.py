"""AutoAttack, the field's standard ensemble, and its parts, as the package pyautoattack provides them.

The package is the reference implementation; here it is given only the images that still stand, in full
batches, and what it finds is verified: a verdict "not robust" always comes with a valid image.
"""

from collections.abc import Callable

import torch
from torch import nn

from ..runtime.errors import optional
from .arguments import check_integer, prepare
from .balls import check_radius, into_ball
from .base import AttackResult, Counted, InItsType, frozen, rows_of, seeded
from .losses import margins, most_margin
from .survivors import Survivors

PARTS = ("apgd_ce", "apgd_t", "fab_t", "square")
# APGD-CE once more where the softmax saturates; in the whole ensemble the other three stand in.
_TEMPERED = "apgd_ce on divided logits"
_OURS = {"n_iter": "iterations", "n_restarts": "restarts", "n_queries": "queries"}


def autoattack(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: str = "linf",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """APGD on the cross-entropy, targeted APGD on the DLR loss, targeted FAB and Square, one after another.

    Each attacks what withstood the ones before, with the parameters of the standard version.

    Args:
        model: classifier of images in [0, 1] with at least four classes.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) true classes, integers of any type.
        eps: radius of the ball, in pixel units of [0, 1].
        norm: of the ball: "linf" or "l2".
        batch_size: images per forward pass. The package draws its random numbers batch by batch.
        seed: of those random numbers.
        progress: as in :func:`kafnets.attacks.pgd`.

    Returns:
        AttackResult: an image is robust when it is rightly classified unperturbed and withstands all four.

    Raises:
        UserError: when the package is not installed.
        TypeError, ValueError: naming the argument that is wrong.

    Source: Croce & Hein 2020, arXiv:2003.01690.
    """
    return _attack(model, images, labels, PARTS, eps, norm, batch_size, seed, progress, {})


def apgd_ce(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: str = "linf",
    iterations: int = 100,
    restarts: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """Auto-PGD on the cross-entropy, which needs no step size. Arguments: :func:`autoattack`.

    Images whose cross-entropy has no gradient that arithmetic can hold (see
    :func:`kafnets.attacks.losses.unsaturated`) are attacked a second time, all logits divided by one number.
    """
    parameters = {"n_iter": iterations, "n_restarts": restarts}
    parts = ("apgd_ce", _TEMPERED)
    return _attack(model, images, labels, parts, eps, norm, batch_size, seed, progress, parameters)


def apgd_t(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: str = "linf",
    iterations: int = 100,
    restarts: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """Auto-PGD on the DLR loss towards each other class, at most nine. Arguments: :func:`autoattack`."""
    parameters = {"n_iter": iterations, "n_restarts": restarts}
    return _attack(model, images, labels, ("apgd_t",), eps, norm, batch_size, seed, progress, parameters)


def fab_t(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: str = "linf",
    iterations: int = 100,
    restarts: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """The targeted fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044)."""
    parameters = {"n_iter": iterations, "n_restarts": restarts}
    return _attack(model, images, labels, ("fab_t",), eps, norm, batch_size, seed, progress, parameters)


def square(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: str = "linf",
    queries: int = 5000,
    restarts: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """The Square attack, which only asks for outputs (Andriushchenko et al. 2020, arXiv:1912.00049)."""
    parameters = {"n_queries": queries, "n_restarts": restarts}
    return _attack(model, images, labels, ("square",), eps, norm, batch_size, seed, progress, parameters)


def _attack(model, images, labels, parts, eps, norm, batch_size, seed, progress, parameters):
    task = prepare(model, images, labels, batch_size)
    device, classes, batch_size = task.device, task.labels, task.batch_size
    eps, seed = check_radius(eps, norm), check_integer("seed", seed, 0)
    _check_form(task.images, parts, norm)
    parameters = {name: check_integer(_OURS[name], value, 1) for name, value in parameters.items()}
    package = optional("pyautoattack", "attacks")
    task.images = pixels = task.images.contiguous()  # the package reads no other order
    counted = Counted(model)
    searched = InItsType(counted, pixels.dtype)
    with frozen(searched), seeded(seed, device):
        logits, clean = task.answers()
        if logits is None:
            return task.nothing()
        survivors = Survivors(task, clean)
        rivals = min(9, logits.shape[1] - 1)
        if rivals < 3 and "apgd_t" in parts:
            raise ValueError(f"model: the DLR loss needs at least four classes, found {logits.shape[1]}")
        lead, most = -margins(logits, classes), most_margin(logits.dtype)
        done = 0
        for number, part in enumerate(parts):
            standing, attacked = survivors.robust, searched
            if part == _TEMPERED:
                standing = survivors.robust & (lead > most)
                if not standing.any():
                    continue
                attacked = _Tempered(searched, 2 * lead[standing].amax() / most)
            run = _build(package, attacked, part, eps, norm, seed, rivals, device, parameters)
            for rows in rows_of(standing, batch_size):
                found = into_ball(run(pixels[rows], classes[rows]).detach(), pixels[rows], eps, norm)
                survivors.judge(rows, found)
                done += len(rows)
                if progress is not None:
                    left = int(survivors.robust.sum()) * (len(parts) - 1 - number)
                    progress(done, left, survivors.accuracy)
    survivors.add_cost(counted)
    return survivors.result()


def _check_form(images, parts, norm):
    """Checks that the package can take the images."""
    if images.dim() != 4 or images.dtype is not torch.float32:
        raise ValueError(
            f"images: expected (N, C, H, W) float32, found {images.dtype}, {tuple(images.shape)}; "
            "attack model.float() with images.float()"
        )
    height, width = images.shape[2:]
    if norm == "l2" and "square" in parts and not _can_be_tiled(height, width):
        raise ValueError(
            f"images: Square in the L2 norm cannot lay its tiles on {height} x {width} pixels; "
            "enlarge them, or leave it out: apgd_ce, apgd_t and fab_t take any size"
        )


def _can_be_tiled(height, width):
    """Whether the package's first perturbation fits: tiles a fifth of the height, laid from a margin on."""
    tile = height // 5
    margin = (height - 5 * tile) // 2
    fits = all(margin <= size % tile for size in (height, width)) if tile else False
    return fits or tile == 1 or 0 < width < tile


class _Tempered(nn.Module):
    """The model with its logits divided by a number."""

    def __init__(self, model, temperature):
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, images):
        return self.model(images) / self.temperature


def _build(package, model, part, eps, norm, seed, rivals, device, parameters):
    """One part as a function of images and labels; what `parameters` leaves open is the standard version."""
    shared = {
        "norm": {"linf": "Linf", "l2": "L2"}[norm],
        "eps": eps,
        "seed": seed,
        "device": device,
        "verbose": False,
        "n_restarts": 1,
        **parameters,
    }
    if part in ("apgd_ce", _TEMPERED):
        attack = package.autopgd_base.APGDAttack(model, loss="ce", **shared)
    elif part == "apgd_t":
        attack = package.autopgd_base.APGDAttack_targeted(model, n_target_classes=rivals, **shared)
    elif part == "fab_t":
        attack = package.fab_pt.FABAttack_PT(model, targeted=True, n_target_classes=rivals, **shared)
    else:
        attack = package.square.SquareAttack(model, p_init=0.8, resc_schedule=False, **shared)
    return attack.perturb
