"""The checks of an evaluation card: what was measured, what is asked of it, pass or fail.

They are those of Athalye, Carlini & Wagner 2018 (arXiv:1802.00420, section 3.1), Carlini et al. 2019
(arXiv:1902.06705, section 4) and Tramer et al. 2020 (arXiv:2002.08347). A robustness that fails one may be
the attack's weakness instead of the network's strength. None of them proves anything when it passes.

A bound on a share of images is meant of very many. Of n images, a check fails when more of them break it than
the bound explains, by an exact test at LEVEL:

- Images that should not be (without a gradient, fooled by a black box alone, ...): the binomial test against
  the bound. Of a bound of 2 % that allows 2 of 30 images, 5 of 100, 15 of 500 and 28 of 1,000; of a bound of
  1 %, 1, 3, 9 and 15.
- Two attacks, of which the stronger should leave no more images than the other, and either may leave some
  that the other does not: the difference must be too large for the bound, as above, and significant in
  McNemar's test, for which it takes 5 images at least.
- "None", a bound of 0: one image disproves it, of however few.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..chance import WITHOUT_GRADIENT, at_most, most_expected

# Of the one-sided tests. At most one in twenty networks that are just at a bound fails that check; of those
# at half of a bound of 2 %, 0.3 % do by 30 images and 0.05 % by 100.
LEVEL = 0.05

# Two accuracies of the same images that differ by no more count as equal: another random start alone decides
# one or two images in a hundred differently.
SLACK = 0.02

# What an attack without bounds may leave: pixels that move by half their range or more can show any image.
LEFT_AT_LARGEST = 0.01

# The share of images whose loss one step of the attack along the gradient must raise, above what a step along
# a random direction of the same size does: of the others the gradient says nothing.
RISING = 0.95

# Largest |f'| of an activation. The fixed ones stay below 1.13 (GELU), a ridge-started KAF begins with up to
# 5 at its dictionary's ends. At 10 a change by a tenth of the input's deviation becomes a whole one.
STEEPEST = 10.0

# Largest |f''|, in inverse units of the input, whose standard deviation is about 1 behind a normalisation. A
# step of the attack moves it by about a tenth; at 10 the slope changes by 1, that of the identity, within it,
# so the gradient says nothing about where the step ends. The fixed ones stay at 1 (ELU) or below.
MOST_CURVED = 10.0


@dataclass(frozen=True)
class Check:
    """One demand: `figure(measured)` must be at most (or at least) `bound`.

    Where `order(measured)` is given, the figures are differences of two attacks' accuracies, as pairs: the
    images that only the one that should be stronger leaves, and those that only the other leaves; one for
    each comparison, and the figure is the largest difference.
    """

    name: str
    says: str
    figure: Callable
    bound: float
    at_least: bool = False
    unit: str = "share"  # of images; or "slope"
    order: Callable | None = None


# The attacks that search without this network's gradient.
BLIND = ("square", "transfer")


def _less(measured, attack, other):
    """Accuracy under one attack less that under another."""
    return measured["attacks"][attack]["accuracy"] - measured["attacks"][other]["accuracy"]


def _only(measured, stronger, difference):
    """Images that only the stronger attack leaves, and those that only the other leaves; given the first, and
    the difference of their accuracies."""
    return stronger, stronger - round(difference * measured["examples"])


def _steepest(layers, key):
    values = [layer[key] for layer in layers]
    # a derivative that is not finite is worse than any that is
    return None if any(value is None for value in values) else max(values)


CHECKS = (
    Check(
        "clean_at_zero",
        "how far the accuracy at radius 0 is from the clean one",
        lambda m: abs(m["radii"][0]["accuracy"] - m["clean_accuracy"]),
        0.0,
    ),
    Check(
        "nothing_at_largest",
        "accuracy at the largest radius",
        lambda m: m["radii"][-1]["accuracy"],
        LEFT_AT_LARGEST,
    ),
    Check(
        "falls_with_radius",
        "largest rise of the accuracy from one radius to the next",
        lambda m: max(
            after["accuracy"] - before["accuracy"]
            for before, after in zip(m["radii"][:-1], m["radii"][1:], strict=True)
        ),
        SLACK,
        order=lambda m: [
            _only(m, radius["regained"], radius["accuracy"] - before["accuracy"])
            for before, radius in zip(m["radii"][:-1], m["radii"][1:], strict=True)
        ],
    ),
    Check(
        "iterations_suffice",
        "accuracy that iterations beyond the attack's own take",
        lambda m: m["accuracy_by_iteration"][m["iterations"]] - m["accuracy_by_iteration"][-1],
        SLACK,
    ),
    Check(
        "restarts_suffice",
        "accuracy that as many random starts again take",
        lambda m: _less(m, "pgd", "pgd_twice"),
        SLACK,
    ),
    Check(
        "iterations_beat_one_step",
        "accuracy under PGD less that under FGSM, its single step",
        lambda m: _less(m, "pgd", "fgsm"),
        0.0,
        order=lambda m: [_only(m, m["left_by"]["pgd"], _less(m, "pgd", "fgsm"))],
    ),
    Check(
        "white_box_beats_black_box",
        "images that Square or transfer fools and PGD does not",
        lambda m: m["only_black_box"],
        SLACK,
    ),
    Check(
        "black_box_beats_noise",
        "accuracy under Square or transfer, the higher, less that under random noise",
        lambda m: max(_less(m, name, "noise") for name in BLIND if name in m["attacks"]),
        SLACK,
        order=lambda m: [
            _only(m, m["left_by"][name], _less(m, name, "noise")) for name in BLIND if name in m["attacks"]
        ],
    ),
    Check(
        "gradients_exist",
        "images whose input gradient is exactly zero",
        lambda m: m["zero_gradients"],
        WITHOUT_GRADIENT,
    ),
    Check(
        "gradients_are_finite",
        "images whose input gradient is not finite",
        lambda m: m["nonfinite_gradients"],
        0.0,
    ),
    Check(
        "gradient_leads_up",
        "images whose loss a step along the gradient raises, and by more than a random one",
        lambda m: m["rising_losses"],
        RISING,
        at_least=True,
    ),
    Check(
        "slopes",
        "largest |f′| of an activation over the range of its inputs",
        lambda m: _steepest(m["layers"], "steepest"),
        STEEPEST,
        unit="slope",
    ),
    Check(
        "curvatures",
        "largest |f″| of an activation over the range of its inputs",
        lambda m: _steepest(m["layers"], "most_curved"),
        MOST_CURVED,
        unit="slope",
    ),
)


def judge(measured, level=LEVEL):
    """Every check of a card, in order.

    Args:
        measured (dict): the figures of :func:`kafnets.diagnostics.card.measure`.
        level (float, optional): of the tests.

    Returns:
        list of dicts: name, says, figure (None: not a finite number), bound, at_least, unit, passed; of a
        share, also the `count` of images that break it and how many are `allowed`, of `examples`.
    """
    return [_judged(check, measured, level) for check in CHECKS]


def _judged(check, measured, level):
    figure, images = check.figure(measured), {}
    if check.unit == "share":
        examples = measured["examples"]
        count, allowed = _images(check, figure, measured, level)
        passed = count <= allowed
        images = {"count": count, "allowed": allowed, "examples": examples}
    else:
        passed = figure is not None and figure <= check.bound
    return {
        "name": check.name,
        "says": check.says,
        "figure": figure,
        "bound": check.bound,
        "at_least": check.at_least,
        "unit": check.unit,
        **images,
        "passed": passed,
    }


def _images(check, figure, measured, level):
    """How many images break a check, and how many are allowed; of several comparisons, in the worst one."""
    examples = measured["examples"]
    if check.order is None:
        share = 1 - figure if check.at_least else figure
        return round(share * examples), allowed(check, examples, level)
    pairs = [
        (stronger - weaker, allowed(check, examples, level, weaker))
        for stronger, weaker in check.order(measured)
    ]
    return max(pairs, key=lambda pair: pair[0] - pair[1])


def allowed(check, examples, level=LEVEL, weaker=0):
    """The largest number of images that may break a check.

    Args:
        check (Check): whose unit is a share.
        examples (int): images in all.
        level (float, optional): of the tests.
        weaker (int, optional): where two attacks are compared, images that only the weaker leaves.
    """
    expected = most_expected(examples, 1 - check.bound if check.at_least else check.bound, level)
    return expected if check.order is None else max(expected, _most_by_chance(weaker, level))


def _most_by_chance(weaker, level):
    """By how many images the stronger attack may leave more, while McNemar's exact test calls it chance."""
    more = 0
    while 1 - at_most(weaker + more, 2 * weaker + more + 1, 0.5) > level:
        more += 1
    return more
