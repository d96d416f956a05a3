"""Carlini and Wagner's L2 attack on a network and its detector as one classifier of N + 1 classes."""

import torch
from torch import nn

from ..attacks.arguments import check_integer, check_real
from ..attacks.balls import distances
from ..attacks.base import frozen, rows_of, seeded
from ..attacks.losses import margins
from .attacks import prepare_detector

# A pixel of exactly 0 or 1 would lie infinitely far out.
_INSIDE = 1 - 1e-6
_LARGEST_WEIGHT = 1e10


class WithExtraClass(nn.Module):
    r"""A network and its detector as one classifier, whose last class is "adversarial".

    .. math::
        G_i = Z_i, \quad G_{N+1} = (D + 1) \max_i Z_i, \quad D = S - t

    It answers N + 1 exactly where the score :math:`S` exceeds the threshold :math:`t`. The logits
    :math:`Z` are shifted so that the lowest is 0, which changes no answer: the largest is positive then, as
    the formula needs.

    Args:
        detector (Detector): with its network.
        threshold (float): :math:`t`.

    Source: Carlini & Wagner 2017, arXiv:1705.07263, section 3.
    """

    def __init__(self, detector, threshold):
        super().__init__()
        self.detector, self.threshold = detector, threshold

    def forward(self, images):
        logits, scores = self.detector.look(images)
        logits = logits - logits.amin(1, keepdim=True)
        last = (scores - self.threshold + 1) * logits.amax(1)
        return torch.cat([logits, last[:, None]], 1)


def cw_detector(
    detector,
    images,
    labels,
    *,
    threshold,
    eps=None,
    iterations=1000,
    search_steps=9,
    learning_rate=0.01,
    confidence=0.0,
    batch_size=None,
    seed=0,
    progress=None,
):
    r"""The shortest perturbation whose image is misclassified and accepted.

    .. math::
        \min_w \lVert x' - x \rVert_2^2 + c \max(0, \max(G_y, G_{N+1}) - \max_{i \ne y, N+1} G_i + \kappa),
        \quad x' = (\tanh w + 1) / 2

    with G of :class:`WithExtraClass`, by Adam, with c found by binary search for each image.

    Args:
        detector (Detector): what is attacked.
        images, labels: as in :func:`kafnets.attacks.pgd`.
        threshold (float): the score above which an image is rejected.
        eps: Euclidean radius of the verdict; None: an image is robust when nothing was found at any distance.
        iterations: steps of the optimiser, for each weight :math:`c`.
        search_steps: weights tried.
        learning_rate: of the optimiser.
        confidence: :math:`\kappa`.
        batch_size, seed, progress: as in :func:`kafnets.attacks.pgd`; nothing is random but the network.

    Returns:
        AttackResult: `distances` to the nearest image that is misclassified and accepted, 0 where the image
        itself is; infinite where none was found, and `adversarial` is then the image itself.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.

    Source: Carlini & Wagner 2017, arXiv:1608.04644 (the attack) and arXiv:1705.07263 (on detectors).
    """
    task = prepare_detector(detector, images, labels, batch_size)
    threshold = check_real("threshold", threshold, -torch.inf)
    iterations = check_integer("iterations", iterations, 1)
    search_steps = check_integer("search_steps", search_steps, 1)
    learning_rate = check_real("learning_rate", learning_rate, 0)
    confidence = check_real("confidence", confidence, 0)
    eps = None if eps is None else check_real("eps", eps, 0)
    if not len(images):
        return task.nothing()
    both = WithExtraClass(detector, threshold)
    far = torch.full_like(task.labels, torch.inf, dtype=task.images.dtype)
    adversarial = task.images.clone()
    queries, gradients = len(images), 0
    with frozen(both), seeded(seed, task.device):
        _, clean = task.answers()
        with torch.no_grad():
            answers = torch.cat([both(batch) for batch in task.images.split(task.batch_size)])
        evades = _excess(answers, task.labels) < 0
        queries += len(images)
        far[evades] = 0
        batches = rows_of(~evades, task.batch_size)
        for number, rows in enumerate(batches):
            found, distance = _nearest(
                both,
                task.images[rows],
                task.labels[rows],
                (iterations, search_steps, learning_rate, confidence),
            )
            within = distance <= (torch.inf if eps is None else eps)
            hit = distance.isfinite() & within
            adversarial[rows[hit]], far[rows] = found[hit], distance
            spent = len(rows) * iterations * search_steps
            queries, gradients = queries + spent, gradients + spent
            if progress is not None:
                progress(number + 1, len(batches) - number - 1, float(far.isinf().double().mean()))
    robust = far.isinf() if eps is None else far > eps
    return task.result(adversarial, robust, clean, queries, gradients, distances=far)


def _excess(answers, labels):
    """How far the label's, or the detector's, of the N + 1 outputs exceeds all others; < 0: it is evaded."""
    others = answers[:, :-1]
    return torch.maximum(-margins(others, labels), _above(answers, labels))


def _above(answers, labels):
    """The last output less the largest of the classes that are wrong."""
    wrong = answers[:, :-1].scatter(1, labels[:, None], -torch.inf).amax(1)
    return answers[:, -1] - wrong


def _nearest(model, images, labels, settings):
    """The nearest images found that evade `model`, and their distances, infinite where none was found."""
    iterations, search_steps, learning_rate, confidence = settings
    start = torch.atanh((2 * images - 1) * _INSIDE)
    # Where the search sets out, a rounding off the images: measured from these, the first step would go along
    # that rounding, which Adam scales up to a whole step.
    origin = (start.tanh() + 1) / 2
    count = len(images)
    low, high = images.new_zeros(count), images.new_full((count,), torch.inf)
    weight = images.new_full((count,), 1e-3)
    nearest, shortest = images.clone(), images.new_full((count,), torch.inf)
    for _ in range(search_steps):
        place = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([place], learning_rate)
        reached = torch.zeros(count, dtype=torch.bool, device=images.device)
        for _ in range(iterations):
            points = (place.tanh() + 1) / 2
            excess = _excess(model(points), labels)
            squared = (points - origin).flatten(1).square().sum(1)
            loss = squared + weight * (excess + confidence).clamp(min=0)
            (place.grad,) = torch.autograd.grad(loss.sum(), place)
            with torch.no_grad():
                distance = distances(points.detach(), images, "l2")
                evades = (excess.detach() < 0) & (excess.detach() <= -confidence)
                reached |= evades
                nearer = evades & (distance < shortest)
                nearest[nearer], shortest[nearer] = points.detach()[nearer], distance[nearer]
                place.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimiser.step()
        # too heavy a weight where it was reached, too light a one where it was not
        high = torch.where(reached, torch.minimum(high, weight), high)
        low = torch.where(reached, low, torch.maximum(low, weight))
        weight = torch.where(high.isinf(), weight * 10, (low + high) / 2).clamp(max=_LARGEST_WEIGHT)
    return nearest, shortest
