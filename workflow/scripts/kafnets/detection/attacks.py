"""Attacks on a network with a detector beside it, along both gradients.

All look for an image in the ball that is misclassified *and* looks harmless: of the misclassified points on
their way they keep that of the lowest score. They are called as the attacks of `kafnets.attacks` are, with a
:class:`.base.Detector` in the model's place, and their `robust` says that no misclassified point was found at
all; what of these the detector accepts depends on its threshold.
"""

import itertools

import torch

from ..attacks.arguments import HALVES, check_choice, check_integer, check_real, prepare
from ..attacks.balls import RandomStarts, check_radius, into_ball, lengths, per_image
from ..attacks.base import differentiable, frozen, is_correct, seeded
from ..attacks.losses import LOSSES, check_enough_classes, margins
from ..attacks.pgd import pgd
from ..runtime.errors import UserError
from .base import Detector

# By how much another logit has to exceed the label's before an attack turns to the detector: Bryniarski's.
MARGIN = 0.05
WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)


def static_pgd(
    network,
    images,
    labels,
    *,
    eps,
    step,
    iterations,
    restarts=1,
    loss="cross_entropy",
    norm="linf",
    momentum=0.0,
    batch_size=None,
    seed=0,
    progress=None,
):
    """PGD on the network alone, by an attacker who does not know that there is a detector.

    It goes on to the last step after the network is fooled, as the examples do that detectors are trained on.

    Args:
        network: the classifier itself.
        images, labels, eps, step, iterations, restarts, loss, norm, momentum, batch_size, seed, progress: as
            in :func:`kafnets.attacks.pgd`.

    Returns:
        AttackResult
    """
    return pgd(
        network,
        images,
        labels,
        **{"eps": eps, "step": step, "iterations": iterations, "restarts": restarts, "loss": loss},
        **{"norm": norm, "momentum": momentum, "early_stop": False},
        **{"batch_size": batch_size, "seed": seed, "progress": progress},
    )


def combined_pgd(
    detector, images, labels, *, eps, step, iterations, restarts=1, weights=WEIGHTS, norm="linf", **others
):
    r"""PGD along a weighted sum of the network's gradient and the detector's, with several weights in turn.

    .. math::
        x_{k+1} = \Pi\big(x_k + a\,[(1 - s)\,u(\nabla_x J_\text{cls}(x_k, y)) - s\,u(\nabla_x S(x_k))]\big)

    with :math:`u` the sign (in the L2 ball: the gradient over its length), :math:`S` the score. Metzen et al.
    write :math:`+\,s\,u(\nabla_x J_\text{det}(x_k, 1))`, the detector's cross-entropy for the answer
    "adversarial": where the score is its log-odds this is :math:`\log(1 + e^{-S})`, which falls as the score
    rises, so that :math:`u` of its gradient is the one above.

    Args:
        detector (Detector): what is attacked.
        images, labels, eps, step, iterations, norm: as in :func:`kafnets.attacks.pgd`.
        restarts: random starts for each weight.
        weights: the values of :math:`s`, between 0 and 1, which take turns.
        **others: `loss`, `batch_size`, `seed`, `progress`, as there; `threshold` is not used.

    Returns:
        AttackResult: `adversarial` holds the misclassified point of the lowest score, where one was found.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.

    Source: Metzen et al. 2017, arXiv:1702.04267, their dynamic adversary, which knows the detector.
    """
    if not isinstance(weights, list | tuple) or not weights:
        raise ValueError(f"weights: expected a list of numbers in [0, 1], found {weights!r}")
    weights = [check_real("weights", weight, 0, 1) for weight in weights]
    rules = [_weighted(weight) for weight in weights]
    ball = {"eps": eps, "step": step, "iterations": iterations, "restarts": restarts, "norm": norm}
    return _search(detector, images, labels, rules, **ball, **others)


def selective_pgd(
    detector, images, labels, *, eps, step, iterations, restarts=1, margin=MARGIN, norm="linf", **others
):
    """PGD along the network's gradient until it is fooled by a margin, then along the detector's.

    Args:
        detector, images, labels, eps, step, iterations, restarts, norm: as in :func:`combined_pgd`.
        **others: as there.
        margin: by how much another logit has to exceed the label's.

    Returns:
        AttackResult: `adversarial` holds the misclassified point of the lowest score, where one was found.

    Source: Bryniarski, Hingun, Pachuca, Wang & Carlini 2022, arXiv:2106.15023, "selective".
    """
    rules = [_selective(check_real("margin", margin, 0))]
    ball = {"eps": eps, "step": step, "iterations": iterations, "restarts": restarts, "norm": norm}
    return _search(detector, images, labels, rules, **ball, **others)


def orthogonal_pgd(
    detector, images, labels, *, eps, step, iterations, restarts=1, margin=MARGIN, norm="linf", **others
):
    r"""As :func:`selective_pgd`, but each gradient without its part along the other one.

    .. math::
        u\big(g - \tfrac{\langle g, h \rangle}{\lVert h \rVert^2} h\big)

    for each image, g the gradient that is followed and h the other: one step does not undo what the steps
    along the other gradient have reached.

    Args:
        detector, images, labels, eps, step, iterations, restarts, margin, norm: as in :func:`selective_pgd`.
        **others: as there.

    Returns:
        AttackResult: `adversarial` holds the misclassified point of the lowest score, where one was found.

    Source: Bryniarski, Hingun, Pachuca, Wang & Carlini 2022, arXiv:2106.15023, "orthogonal".
    """
    rules = [_orthogonal(check_real("margin", margin, 0))]
    ball = {"eps": eps, "step": step, "iterations": iterations, "restarts": restarts, "norm": norm}
    return _search(detector, images, labels, rules, **ball, **others)


class Point:
    """Where the images of a batch are, what they are answered there, and the two gradients, once asked for.

    Args:
        detector (Detector): frozen.
        points (Tensor): (n, ...).
        labels (Tensor): (n,).
        loss (callable): of `kafnets.attacks.losses`.
    """

    def __init__(self, detector, points, labels, loss):
        self.points, self.labels, self.loss = points.detach().requires_grad_(), labels, loss
        self.logits, self.scores = detector.look(self.points)
        differentiable(self.logits)

    def fooled(self, margin):
        """(n,) bool: another logit exceeds the label's by more than that."""
        return margins(self.logits.detach(), self.labels) > margin

    def gradients(self):
        """That of the network's loss, and that which lowers the score."""
        loss = self.loss(self.logits, self.labels, None)
        return self._gradient(loss, retain_graph=True), self._gradient(-self.scores.sum())

    def followed(self, fooled):
        """Of the fooled images the second, of all others the first, in one backward pass."""
        right = ~fooled
        # no image's answer depends on another's: the gradient of the sum holds each one's own
        total = self.loss(self.logits[right], self.labels[right], None) - self.scores[fooled].sum()
        return self._gradient(total)

    def _gradient(self, value, **options):
        if not value.requires_grad:
            return torch.zeros_like(self.points)
        (found,) = torch.autograd.grad(value, self.points, allow_unused=True, **options)
        found = torch.zeros_like(self.points) if found is None else found
        return found.nan_to_num(0.0, 0.0, 0.0)


def _unit(gradient, norm):
    return gradient.sign() if norm == "linf" else gradient / lengths(gradient)


def combination(towards_error, towards_harmless, weight, norm):
    """The direction of :func:`combined_pgd`; `weight` is a number or (n,)."""
    weight = per_image(weight, towards_error) if isinstance(weight, torch.Tensor) else weight
    return (1 - weight) * _unit(towards_error, norm) + weight * _unit(towards_harmless, norm)


def without_part_along(vectors, others):
    """The vectors, (n, ...), less their projections on the others, image by image."""
    flat, along = vectors.flatten(1), others.flatten(1)
    square = along.square().sum(1, keepdim=True)
    share = (flat * along).sum(1, keepdim=True) / square.clamp(min=torch.finfo(square.dtype).tiny)
    return (flat - share * along).view_as(vectors)


def _weighted(weight):
    def direction(point, norm):
        return combination(*point.gradients(), weight, norm), 2

    return direction


def _selective(margin):
    def direction(point, norm):
        return _unit(point.followed(point.fooled(margin)), norm), 1

    return direction


def _orthogonal(margin):
    def direction(point, norm):
        error, harmless = point.gradients()
        fooled = per_image(point.fooled(margin), error)
        followed = torch.where(
            fooled, without_part_along(harmless, error), without_part_along(error, harmless)
        )
        return _unit(followed, norm), 2

    return direction


def _search(
    detector,
    images,
    labels,
    rules,
    *,
    eps,
    step,
    iterations,
    restarts,
    norm,
    loss="cross_entropy",
    batch_size=None,
    seed=0,
    progress=None,
    threshold=None,
):
    """Follows each of the rules from each random start; see :func:`combined_pgd`.

    Args:
        rules: functions of a :class:`Point` and the norm that return a step of length 1 for each image, and
            how many backward passes it took.
        threshold: not used; every attack that knows the detector takes it.
    """
    task = prepare_detector(detector, images, labels, batch_size)
    eps, step = check_radius(eps, norm), check_real("step", step, 0)
    iterations, restarts = check_integer("iterations", iterations, 0), check_integer("restarts", restarts, 1)
    check_choice("loss", loss, LOSSES)
    if not len(images):
        return task.nothing()
    starts = RandomStarts(task.images, eps, seed, norm)
    search = _Lowest(task, detector, LOSSES[loss])
    with frozen(detector), seeded(seed, task.device):
        logits, clean = task.answers()
        check_enough_classes(logits.shape[1], loss, 0)
        runs = list(itertools.product(range(restarts), rules))
        points, before = None, None
        for number, (restart, rule) in enumerate(runs):
            if restart != before:
                points, before = starts[restart], restart
            for rows in torch.arange(len(images), device=task.device).split(task.batch_size):
                search.run(rows, points[rows], rule, eps, step, iterations, norm)
                if progress is not None:
                    done = number * len(images) + int(rows[-1]) + 1
                    left = len(runs) * len(images) - done
                    standing = float((clean & ~search.found).double().mean())
                    progress(done * (iterations + 1), left * (iterations + 1), standing)
    return task.result(
        search.adversarial,
        clean & ~search.found,
        clean,
        len(images) + search.queries,
        search.gradients,
    )


def prepare_detector(detector, images, labels, batch_size):
    """:func:`kafnets.attacks.arguments.prepare` for the network of a detector.

    Raises:
        TypeError: for what is no detector.
        UserError: for images in half precision, whose scores are too coarse to be lowered step by step.
    """
    if not isinstance(detector, Detector):
        raise TypeError(f"detector: expected a kafnets.detection Detector, found {type(detector).__name__}")
    task = prepare(detector.network, images, labels, batch_size)
    if task.images.dtype in HALVES:
        raise UserError(f"images: {task.images.dtype}; attacks on a detector need float32 or float64")
    return task


class _Lowest:
    """Of each image the misclassified point of the lowest score that was come by; else the last one."""

    def __init__(self, task, detector, loss):
        self.task, self.detector, self.loss = task, detector, loss
        self.adversarial = task.images.clone()
        self.found = torch.zeros_like(task.labels, dtype=torch.bool)
        self.lowest = torch.full_like(task.labels, torch.inf, dtype=task.images.dtype)
        self.queries = self.gradients = 0

    def run(self, rows, points, rule, eps, step, iterations, norm):
        """One run of the images in these rows."""
        centres, labels = self.task.images[rows], self.task.labels[rows]
        for iteration in range(iterations + 1):
            point = Point(self.detector, points, labels, self.loss)
            self.queries += len(rows)
            self._note(rows, point)
            if iteration == iterations:
                break
            direction, passes = rule(point, norm)
            self.gradients += passes * len(rows)
            points = into_ball(points + step * direction, centres, eps, norm)
        never = rows[~self.found[rows]]
        self.adversarial[never] = points[~self.found[rows]]

    @torch.no_grad()
    def _note(self, rows, point):
        scores = point.scores.detach()
        wrong = ~is_correct(point.logits.detach(), point.labels)
        # a score that is not a number is not lower than any other, but the point is misclassified
        lower = wrong & ((scores < self.lowest[rows]) | ~self.found[rows])
        better = rows[lower]
        self.adversarial[better] = point.points.detach()[lower]
        self.lowest[better] = scores[lower].nan_to_num(torch.inf)
        self.found[better] = True
