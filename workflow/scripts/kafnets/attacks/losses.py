"""The losses that the steps of an attack increase, summed over the images of a batch.

Each is a function of the logits (N, classes), the true labels (N,) and `goals`: None, or the classes (N,) as
which the images are to be classified.
"""

import math

import torch
from torch.nn import functional


def _cross_entropy(logits, labels, goals):
    if goals is None:
        return functional.cross_entropy(unsaturated(logits, labels), labels, reduction="sum")
    return -functional.cross_entropy(logits, goals, reduction="sum")


def unsaturated(logits, labels):
    r"""Logits whose cross-entropy has a gradient that arithmetic can hold.

    The gradient towards the label's logit is :math:`p_y - 1`, of which rounding leaves nothing once the
    label's logit exceeds all others by much: an image can then look robust because the attack stands still
    (Carlini & Wagner 2016, arXiv:1607.04311, who divide the logits too). Where rounding would take more than
    one percent of it, the image's logits are divided by a temperature, held fixed, that leaves a quarter of
    the largest margin that can be held. All others stay as they are, to the bit.

    Args:
        logits (Tensor): (N, classes).
        labels (Tensor): (N,) int64 true classes.
    """
    lead, most = -margins(logits.detach(), labels), most_margin(logits.dtype)
    return logits / torch.where(lead > most, lead * (4 / most), 1)[:, None]


def most_margin(dtype):
    """The margin of the label's logit up to which rounding takes less than 1 % of :math:`p_y - 1`."""
    return -math.log(50 * torch.finfo(dtype).eps)  # 1 - p_y = exp(-margin), known to eps / 2


def margins(logits, labels, goals=None):
    """How far the goal's logit, or else the largest of the other classes', exceeds the label's."""
    if goals is None:
        rival = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    else:
        rival = logits.gather(1, goals[:, None])[:, 0]
    return rival - logits.gather(1, labels[:, None])[:, 0]


def _margin(logits, labels, goals):
    return margins(logits, labels, goals).sum()


def _difference_of_logits_ratio(logits, labels, goals):
    ordered = logits.sort(1, descending=True).values
    third = ordered[:, 2] if goals is None else (ordered[:, 2] + ordered[:, 3]) / 2
    return (margins(logits, labels, goals) / (ordered[:, 0] - third + 1e-12)).sum()


LOSSES = {"cross_entropy": _cross_entropy, "margin": _margin, "dlr": _difference_of_logits_ratio}


def check_enough_classes(classes, loss, targets):
    if targets >= classes:
        raise ValueError(f"targets: {targets} other classes were asked for, the model has {classes} in all")
    if loss == "dlr" and classes < (4 if targets else 3):
        raise ValueError(f"loss: dlr needs more than the model's {classes} classes; choose margin")


def rivals(logits, labels):
    """The classes but for the label, in the order of their logits, (N, classes - 1)."""
    order = logits.argsort(1, descending=True)
    return order[order != labels[:, None]].view(len(labels), -1)
