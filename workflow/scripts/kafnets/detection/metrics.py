"""What a detector's scores are worth: thresholds, rates, and what an attacker reaches. Needs no torch.

An image is rejected where its score exceeds the threshold, and accepted otherwise.
"""

import numpy as np

# Shares of clean images that may be rejected.
RATES = (0.01, 0.05)


def threshold(scores, rate):
    """The lowest threshold that rejects at most this share of the images.

    Args:
        scores (array): (N,), of clean images that neither the network nor the detector was trained on.
        rate (float): the share, in [0, 1).

    Returns:
        float: one of the scores.

    Raises:
        ValueError: when so few images cannot say (at least 1 / rate are needed), or it is not finite.
    """
    scores = _scores(scores)
    if len(scores) * rate < 1:
        raise ValueError(
            f"scores: {len(scores)} cannot fix a rate of {rate:g}; at least {int(np.ceil(1 / rate))} are "
            "needed"
        )
    rejected = int(np.floor(rate * len(scores) + 1e-9))
    found = float(np.sort(scores)[len(scores) - rejected - 1])
    if not np.isfinite(found):
        raise ValueError(
            f"scores: the threshold would be {found}, too many of the {len(scores)} are no numbers"
        )
    return found


def roc(clean, adversarial):
    """The shares of clean and of adversarial images above each threshold, from none to all.

    Returns:
        (array, array): false and true positive rates, both from 0 to 1, without a step back.
    """
    clean, adversarial = _scores(clean), _scores(adversarial)
    thresholds = np.unique(np.concatenate([clean, adversarial]))[::-1]
    ordered = [np.sort(one) for one in (clean, adversarial)]
    above = [1 - np.searchsorted(one, thresholds, side="left") / len(one) for one in ordered]
    return tuple(np.concatenate([[0.0], rates]) for rates in above)


def auc(clean, adversarial):
    """The probability that an adversarial image has the higher score, ties counted half.

    Equal to the area under :func:`roc`; Mann and Whitney's U over the number of pairs.
    """
    clean, adversarial = _scores(clean), _scores(adversarial)
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, adversarial, side="left")
    not_above = np.searchsorted(ordered, adversarial, side="right")
    return float((below + not_above).mean() / (2 * len(clean)))


def lowest(attacks):
    """(N,) the lowest score at which any of the attacks has an image misclassified; infinite where none has.

    Args:
        attacks (sequence of dict): each with `misclassified` (N,) bool and `score` (N,), on the same images.
    """
    # what every threshold rejects is misclassified all the same
    highest = np.finfo(float).max
    found = [np.where(one["misclassified"], np.minimum(one["score"], highest), np.inf) for one in attacks]
    return np.minimum.reduce(found)


def of_fooled(clean, evading):
    """The scores that a detector of attacks is to tell apart, of images that are right unperturbed.

    An image that is misclassified without an attack shows nothing that such a detector looks for, and would
    stand on both sides.

    Args:
        clean, evading: as of :func:`figures`.

    Returns:
        (array, array): of the images as they are, and of those that the attack has misclassified.
    """
    right = ~np.asarray(clean["misclassified"], bool)
    scores, evading = np.asarray(clean["score"], float), np.asarray(evading, float)
    return scores[right], evading[right & np.isfinite(evading)]


def figures(clean, evading, thresholds):
    """What a table says of a detector under an attack; all are counts of images.

    Args:
        clean (dict): `score` (N,) and `misclassified` (N,) bool of the unperturbed images.
        evading (array): (N,) the lowest score at which the attack has each image misclassified, infinite
            where it does not: see :func:`lowest`. It includes the image itself.
        thresholds (dict): rate -> threshold.

    Returns:
        dict: `examples`; `natural`, images that are misclassified unperturbed; `misclassified`, these and all
        that the attack has misclassified; `fooled`, those that are right unperturbed and that it has
        misclassified; `auc`, of the fooled against the images that are right, unperturbed, None of none; and
        `rates`, for each its `threshold` and `false_positives`, clean images rejected; `detected`, of the
        fooled those rejected; `evaded`, images misclassified and accepted (the attacker's successes, natural
        errors among them); `robust`, images that are right and accepted as they are and not among these.
    """
    scores, right = np.asarray(clean["score"]), ~np.asarray(clean["misclassified"], bool)
    evading = np.asarray(evading, float)
    reached = np.isfinite(evading)
    clean_scores, fooled_scores = of_fooled(clean, evading)
    found = {
        "examples": len(scores),
        "natural": int((~right).sum()),
        "misclassified": int(reached.sum()),
        "fooled": len(fooled_scores),
        "auc": auc(clean_scores, fooled_scores) if len(fooled_scores) else None,
        "rates": [],
    }
    for rate, limit in thresholds.items():
        evaded = evading <= limit
        found["rates"].append(
            {
                "rate": rate,
                "threshold": limit,
                "false_positives": int((scores > limit).sum()),
                "detected": int((right & reached & ~evaded).sum()),
                "evaded": int(evaded.sum()),
                "robust": int((right & (scores <= limit) & ~evaded).sum()),
            }
        )
    return found


def _scores(values):
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ValueError(f"scores: expected numbers of shape (N,), at least one, found shape {values.shape}")
    return values
