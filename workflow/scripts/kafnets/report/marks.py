"""What is wrong with a network: a sign behind its name in a table, and a sentence in the caption."""

from collections.abc import Callable
from dataclasses import dataclass

from ..chance import WITHOUT_GRADIENT, is_too_many
from ..registry import DATASETS
from . import statistics
from .summary import OVERFITTING

FAILED = "§"
CHANCE_SIGN = "¶"
_COLLAPSE = "catastrophic overfitting (FGSM accuracy soars while PGD accuracy collapses)"


@dataclass(frozen=True)
class Mark:
    """One thing that may be wrong.

    Args:
        name: in the CSV file.
        sign: behind the activation's name; `typesetting.tex` has to know it.
        says: what it means, in the caption; {} stands for the accuracies of `found`.
        found: function of (rows, settings, failed): the activation's rows of the summary, of all seeds and
            attacks; the settings of the table; the checks that its cards fail. Returns whether it is so, or
            in which respect, a text that the caption repeats, or an accuracy.
    """

    name: str
    sign: str
    says: str
    found: Callable


def overfitting(rows):
    """The worst of `OVERFITTING` among the seeds."""
    seen = rows["catastrophic_overfitting"].dropna()
    return OVERFITTING[max(map(OVERFITTING.index, seen), default=0)]


def chance(rows):
    """The accuracy of guessing on the data set of these rows, the largest where there are several."""
    known = [DATASETS[name] for name in rows["dataset"].unique() if name in DATASETS]
    return max((1 / dataset.classes for dataset in known), default=0.0)


def share_without_gradient(rows):
    """The largest share of images without a gradient that is too large for their number, else 0."""
    shares = zip(rows["zero_gradient_fraction"], rows["examples"], strict=True)
    found = [share for share, count in shares if is_too_many(round(share * count), count, WITHOUT_GRADIENT)]
    return max(found, default=0)


def any_at_chance(rows):
    """Whether a network of these rows classifies no better than by guessing, without any attack."""
    correct = rows["clean_accuracy"] * rows["examples"]
    intervals = map(statistics.wilson, correct, rows["examples"])
    return any(interval.low <= chance(rows) for interval in intervals)


def is_unfit(rows):
    """Whether a network of these rows is at chance level, or gives attacks no gradient: it is the best of
    nothing, whatever its numbers and those of other seeds."""
    return any_at_chance(rows) or share_without_gradient(rows) > 0


# In the order of their signs and sentences. A new one is a line here (and its sign one in typesetting.py).
MARKS = (
    Mark("at_end", "†", f"the training ended in {_COLLAPSE}", lambda rows, *_: overfitting(rows) == "at_end"),
    Mark(
        "recovered",
        "‡",
        f"the training went through {_COLLAPSE} and recovered",
        lambda rows, *_: overfitting(rows) == "recovered",
    ),
    Mark(
        "failed_checks",
        FAILED,
        "fails checks of its evaluation card, so its robustness may be the attack's weakness",
        lambda rows, settings, failed: ", ".join(failed).replace("_", " "),
    ),
    Mark(
        "chance",
        CHANCE_SIGN,
        "classifies no better than chance ({}), with one seed at least: what withstands an "
        "attack there is no robustness, and no network at chance is marked as the best",
        lambda rows, *_: chance(rows) if any_at_chance(rows) else False,
    ),
    Mark(
        "no_gradient",
        "‖",
        "the cross-entropy has no gradient at many images (saturated outputs), with one seed at least: an "
        "attack may have stood still, and such a network is not marked as the best",
        lambda rows, *_: f"{share_without_gradient(rows):.0%}" if share_without_gradient(rows) else False,
    ),
    Mark(
        "random",
        "♯",
        "answers at random, and each image was judged by one draw (`eot_samples` judges the mean of several)",
        lambda rows, *_: (rows["random"] == 1).any(),
    ),
)


def of(rows, settings, failed=()):
    """Mark -> what was found (True or a text), for those of `MARKS` that an activation deserves."""
    found = {mark: mark.found(rows, settings, failed) for mark in MARKS}
    return {mark: what for mark, what in found.items() if what}


def sentences(marked):
    """What a caption says of the marks of its rows; `marked`: their labels, and what :func:`of` returned."""
    for mark in MARKS:
        found = {label: marks[mark] for label, marks in marked.items() if mark in marks}
        details = "; ".join(f"{label}: {what}" for label, what in found.items() if isinstance(what, str))
        accuracies = dict.fromkeys(f"{100 * what:g}%" for what in found.values() if isinstance(what, float))
        if found:
            says = mark.says.format(" or ".join(accuracies))
            yield f"{mark.sign} {says}{f' ({details})' if details else ''}."
