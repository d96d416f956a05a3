"""How a detector fares under one attack: what it says of every test image, clean and attacked."""

import time

import torch

from ..attacks.arguments import as_pixels
from ..attacks.balls import distances
from ..attacks.base import default_batch_size, device_of, frozen, is_correct, seeded
from ..data.dataset import balanced_order
from ..entry import RADIUS
from ..registry import DETECTION_ATTACKS, lookup
from ..runtime.device import exact_convolutions
from ..runtime.errors import UserError
from ..runtime.units import fraction
from . import metrics

# An attack that needs a threshold aims at this rate's: who passes the lower one passes the other.
AIMED_AT = max(metrics.RATES)
# Of each image, in the order of the columns of the CSV file.
COLUMNS = ("label", "clean_answer", "clean_score", "answer", "score", "linf", "l2")


def split(labels, examples, held_out):
    """The test images that are attacked, and others that fix the thresholds: as many of each class in both.

    The first are those of :func:`kafnets.data.dataset.load` with that number of examples.

    Args:
        labels (Tensor): (N,) of the whole test set.
        examples, held_out (int): how many.

    Returns:
        (Tensor, Tensor): their numbers, in rising order.

    Raises:
        UserError: when there are not so many.
    """
    if examples + held_out > len(labels):
        raise UserError(
            f"held_out: {examples} attacked and {held_out} held-out images were asked for, the test set has "
            f"{len(labels)}"
        )
    order = torch.from_numpy(balanced_order(labels.numpy()))
    return order[:examples].sort().values, order[examples : examples + held_out].sort().values


def judge(detector, images, labels, held_out, settings, *, batch_size=None, progress=None):
    """Attacks every image; an image whose unperturbed self has the lower score is left as it is.

    The answers and scores are the network's and the detector's own, without TF32, for the attack too.

    Args:
        detector (Detector): trained, on the device that shall compute.
        images (Tensor): (N, C, H, W) uint8, test images.
        labels (Tensor): (N,) int64 true classes.
        held_out (Tensor): (M, C, H, W) uint8, other test images, which fix the thresholds.
        settings (dict): `method`, a name of `kafnets.registry.DETECTION_ATTACKS`, and the attack's own
            settings (`eps` and `step` as "n/255" or floats); `start_seed` seeds the attack.
        batch_size (int, optional): images per forward pass.
        progress (callable, optional): see :func:`kafnets.attacks.pgd`.

    Returns:
        (dict, dict): the record's figures, see :func:`.metrics.figures`, and `COLUMNS`, arrays of (N,).

    Raises:
        UserError: for an unknown method or wrong settings, too few images, or scores that are no numbers.
    """
    if not len(images):
        raise UserError("the test set is empty")
    device = device_of(detector.network, images)
    size = default_batch_size(device) if batch_size is None else batch_size
    pixels, others = (as_pixels(detector.network, some, device) for some in (images, held_out))
    labels = labels.to(device)
    started = time.perf_counter()
    _, held_out_scores = look(detector, others, size)
    try:
        thresholds = {rate: metrics.threshold(held_out_scores.cpu().numpy(), rate) for rate in metrics.RATES}
    except ValueError as error:
        raise UserError(f"held_out: {error}") from error
    clean_answers, clean_scores = look(detector, pixels, size)
    result = _attack(detector, pixels, labels, settings, thresholds, size, progress)
    answers, scores = look(detector, result.adversarial, size)
    adversarial = result.adversarial.clone()
    clean_wrong, wrong = ~is_correct(clean_answers, labels), ~is_correct(answers, labels)
    # the image itself lies in every ball
    kept = clean_wrong & (~wrong | (clean_scores <= scores))
    adversarial[kept], answers[kept], scores[kept] = pixels[kept], clean_answers[kept], clean_scores[kept]
    columns = {
        "label": labels,
        "clean_answer": _classes(clean_answers),
        "clean_score": clean_scores,
        "answer": _classes(answers),
        "score": scores,
        "linf": distances(adversarial, pixels, "linf"),
        "l2": distances(adversarial, pixels, "l2"),
    }
    columns = {name: one.cpu().numpy() for name, one in columns.items()}
    figures = {
        "held_out": len(held_out),
        **metrics.figures(*of_columns(columns), thresholds),
        "queries": result.queries + len(held_out) + 2 * len(images),
        "gradients": result.gradients,
        "batch_size": size,
        "wall_seconds": time.perf_counter() - started,
    }
    return figures, columns


def _classes(answers):
    """(N,) what the network says; -1 where its outputs are no numbers."""
    return torch.where(answers.isfinite().all(1), answers.argmax(1), -1)


def of_columns(columns):
    """What :func:`.metrics.figures` is told of the clean and of the attacked images."""
    label = columns["label"]
    clean = {"score": columns["clean_score"], "misclassified": columns["clean_answer"] != label}
    attacked = {"score": columns["score"], "misclassified": columns["answer"] != label}
    return clean, metrics.lowest([attacked])


def look(detector, images, batch_size):
    """The answers, (N, classes), and the scores, (N,); what is no number counts as rejected by everything."""
    with frozen(detector), exact_convolutions(), torch.no_grad():
        found = [detector.look(some) for some in images.split(batch_size)]
    answers, scores = (torch.cat(one) for one in zip(*found, strict=True))
    return answers, scores.nan_to_num(torch.inf, torch.inf, -torch.inf)


def _attack(detector, pixels, labels, settings, thresholds, batch_size, progress):
    method = settings.get("method")
    entry = lookup(DETECTION_ATTACKS, method, "method")
    schemas = entry.schemas()
    arguments = {
        name: fraction(value) if schemas[name] == RADIUS and isinstance(value, str) else value
        for name, value in settings.items()
        if name in schemas and name != "start_seed"
    }
    attacked = detector.network
    if entry.adaptive:
        attacked, arguments["threshold"] = detector, thresholds[AIMED_AT]
    seed = settings.get("start_seed", 0)
    try:
        # what is misclassified by TF32's roundings alone would be right to the judge
        with seeded(seed, pixels.device), exact_convolutions():
            return entry.load()(
                attacked, pixels, labels, batch_size=batch_size, seed=seed, progress=progress, **arguments
            )
    except (TypeError, ValueError) as error:
        raise UserError(f"attack {settings.get('attack', method)}: {error}") from error
