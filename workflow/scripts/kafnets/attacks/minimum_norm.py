"""Attacks that look for the nearest misclassified image; Carlini-Wagner and DeepFool are foolbox's.

Their result is a distance per image; with a radius it becomes a verdict.
"""

import math
from collections.abc import Callable

import torch

from ..runtime.errors import optional
from .arguments import HALVES, check_choice, check_integer, check_real, prepare
from .balls import NORMS, distances, into_ball, lengths, per_image
from .base import AttackResult, Counted, InItsType, frozen, rows_of, seeded
from .losses import margins as logit_margins
from .survivors import Survivors


def cw(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float | None = None,
    iterations: int = 1000,
    search_steps: int = 9,
    learning_rate: float = 0.01,
    confidence: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """Carlini and Wagner's L2 attack: the shortest perturbation found by penalised optimisation.

    Args:
        model: classifier of images in [0, 1].
        images: (N, ...) floats in [0, 1].
        labels: (N,) true classes, integers of any type.
        eps: Euclidean radius of the verdict; None: an image is robust when nothing was found at any distance.
        iterations: steps of the optimiser, for each weight of the penalty.
        search_steps: weights of the penalty tried, by binary search.
        learning_rate: of the optimiser (Adam).
        confidence: margin in logits by which the label must be exceeded.
        batch_size: images per forward pass.
        seed: of torch's random numbers.
        progress: as in :func:`kafnets.attacks.pgd`.

    Returns:
        AttackResult: with `distances`. `adversarial` holds the nearest misclassified image where it decides
        the verdict, else the image itself.

    Raises:
        UserError: when the package is not installed.
        TypeError, ValueError: naming the argument that is wrong.

    Source: Carlini & Wagner 2017, arXiv:1608.04644. For their loss in the L-infinity ball see :func:`pgd`
    with `loss="margin"`.
    """
    settings = {
        "steps": check_integer("iterations", iterations, 1),
        "binary_search_steps": check_integer("search_steps", search_steps, 1),
        "stepsize": check_real("learning_rate", learning_rate, 0),
        "confidence": check_real("confidence", confidence, 0),
    }
    attack = optional("foolbox", "attacks").attacks.L2CarliniWagnerAttack(**settings)
    return _nearest(model, images, labels, _foreign(attack), eps, "l2", batch_size, seed, progress)


def deepfool(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float | None = None,
    norm: str = "l2",
    iterations: int = 50,
    overshoot: float = 0.02,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """DeepFool: step after step to the nearest boundary of the linearised classifier.

    Args:
        model, images, labels, batch_size, seed, progress: as in :func:`cw`.
        eps: radius of the verdict, or None.
        norm: of the distance: "l2" or "linf".
        iterations: steps at most.
        overshoot: how far to go beyond the boundary, as a share of the way to it.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, arXiv:1511.04599.
    """
    iterations = check_integer("iterations", iterations, 1)
    overshoot = check_real("overshoot", overshoot, 0)
    attacks = optional("foolbox", "attacks").attacks
    kind = attacks.L2DeepFoolAttack if norm == "l2" else attacks.LinfDeepFoolAttack
    search = _foreign(kind(steps=iterations, overshoot=overshoot))
    return _nearest(model, images, labels, search, eps, norm, batch_size, seed, progress)


def _foreign(attack):
    """An attack of foolbox as a function of a model, images and labels."""

    def search(model, pixels, classes):
        foolbox = optional("foolbox", "attacks")
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=pixels.device)
        return attack(wrapped, pixels, foolbox.criteria.Misclassification(classes), epsilons=None)[1]

    return search


def fmn(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float | None = None,
    norm: str = "linf",
    iterations: int = 100,
    step: float = 1.0,
    shrink: float = 0.05,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    r"""The fast minimum-norm attack: a ball that shrinks while its surface holds a misclassified image.

    .. math:: \delta \leftarrow \Pi_{\epsilon_k}(\delta + \alpha_k g / \lVert g \rVert_2)

    with :math:`g` the gradient of the margin, :math:`\epsilon_k` grown or shrunk by a share
    :math:`\gamma_k` as the point is classified rightly or not; :math:`\alpha_k` and :math:`\gamma_k` fall
    along a cosine to a hundredth and a fiftieth of their start.

    Args:
        model, images, labels, batch_size, seed, progress: as in :func:`cw`.
        eps: radius of the verdict, or None.
        norm: of the distance: "linf" or "l2".
        iterations: gradient steps.
        step: Euclidean length of the first step.
        shrink: first change of the radius, as a share of it.

    Source: Pintor, Roli, Brendel & Biggio 2021, arXiv:2102.12827 (own implementation).
    """
    iterations, step = check_integer("iterations", iterations, 1), check_real("step", step, 0)
    shrink = check_real("shrink", shrink, 0, 1)

    def search(model, pixels, classes):
        return _shrinking_ball(model, pixels, classes, norm, iterations, step, shrink)

    return _nearest(model, images, labels, search, eps, norm, batch_size, seed, progress)


def _shrinking_ball(model, pixels, classes, norm, iterations, step, shrink):
    offsets, best = torch.zeros_like(pixels), torch.zeros_like(pixels)
    radius = pixels.new_zeros(len(pixels))
    shortest = torch.full_like(radius, torch.inf)
    dual = 1 if norm == "linf" else 2
    for iteration in range(iterations):
        cosine = (1 + math.cos(math.pi * iteration / iterations)) / 2
        length, share = step * (0.01 + 0.99 * cosine), shrink * (0.02 + 0.98 * cosine)
        points = (pixels + offsets).requires_grad_()
        margins = logit_margins(model(points), classes)
        (gradient,) = torch.autograd.grad(margins.sum(), points)
        margins = margins.detach()
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        size = offsets.flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)
        slope = gradient.flatten(1).norm(dim=1, p=dual).clamp(min=torch.finfo(pixels.dtype).tiny)

        fooled = margins > 0
        nearer = fooled & (size < shortest)
        best[nearer], shortest = offsets[nearer], torch.where(nearer, size, shortest)
        grown = radius * (1 + share)
        # until a first misclassified image is found the ball reaches at least to where the linearised model
        # has one; not always farther it would creep up to the boundary for ever, where pixels are clipped
        grown = torch.where(shortest.isinf(), torch.maximum(grown, size - margins / slope), grown)
        radius = torch.where(fooled, torch.minimum(radius * (1 - share), shortest), grown)
        moved = pixels + offsets + length * gradient / lengths(gradient)
        offsets = into_ball(moved, pixels, per_image(radius, pixels), norm) - pixels
    return pixels + best


def _nearest(model, images, labels, search, eps, norm, batch_size, seed, progress):
    """Runs `search`, a function of a model, images and labels, on the images that are rightly classified."""
    task = prepare(model, images, labels, batch_size)
    pixels, classes, batch_size = task.images, task.labels, task.batch_size
    check_choice("norm", norm, NORMS)
    eps = None if eps is None else check_real("eps", eps, 0)
    seed = check_integer("seed", seed, 0)
    half = pixels.dtype in HALVES
    far = torch.full_like(classes, torch.inf, dtype=torch.float64 if half else pixels.dtype)
    counted = Counted(model)
    searched = InItsType(counted, pixels.dtype)
    with frozen(searched), seeded(seed, task.device):
        _, clean = task.answers()
        survivors = Survivors(task, clean)
        far[~clean] = 0
        left = int(clean.sum())
        for rows in rows_of(clean, batch_size):
            found = search(searched, pixels[rows].float() if half else pixels[rows], classes[rows])
            found = found.detach().to(pixels.dtype)
            fooled = survivors.judge(rows, found)
            far[rows[fooled]] = distances(pixels[rows], found, norm)[fooled]
            left -= len(rows)
            if progress is not None:
                standing = (far > eps if eps is not None else far.isinf()).double().mean().item()
                progress(int(clean.sum()) - left, left, standing)
    robust = clean & (far.isinf() if eps is None else far > eps)
    # an image is robust, too, whose nearest misclassified one lies outside the ball
    survivors.robust, survivors.adversarial[robust] = robust, pixels[robust]
    survivors.add_cost(counted)
    return survivors.result(distances=far)
