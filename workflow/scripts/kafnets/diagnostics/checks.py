"""The checks of an evaluation card: what was measured, what is asked of it, pass or fail.

They are those of Athalye, Carlini & Wagner 2018 (arXiv:1802.00420, section 3.1), Carlini et al. 2019
(arXiv:1902.06705, section 4) and Tramer et al. 2020 (arXiv:2002.08347). A robustness that fails one may be
the attack's weakness instead of the network's strength. None of them proves anything when it passes.
"""

from dataclasses import dataclass

# Two accuracies of the same images that differ by no more count as equal: another random start alone decides
# one or two images in a hundred differently.
SLACK = 0.02

# What an attack without bounds may leave: pixels that move by half their range or more can show any image.
LEFT_AT_LARGEST = 0.01

# The share of images that may have no gradient. A gradient attack cannot move them, so they are robust for no
# reason; a share within the noise of the accuracy does no harm.
WITHOUT_GRADIENT = 0.01

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
    """One demand: `figure(measured)` must be at most (or at least) `bound`."""

    name: str
    says: str
    figure: object
    bound: float
    at_least: bool = False
    unit: str = "share"  # of images; or "slope"


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
        lambda m: m["attacks"]["pgd"]["accuracy"] - m["attacks"]["pgd_twice"]["accuracy"],
        SLACK,
    ),
    Check(
        "iterations_beat_one_step",
        "accuracy under PGD less that under FGSM, its single step",
        lambda m: m["attacks"]["pgd"]["accuracy"] - m["attacks"]["fgsm"]["accuracy"],
        0.0,
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
        lambda m: max(
            m["attacks"][name]["accuracy"] - m["attacks"]["noise"]["accuracy"]
            for name in ("square", "transfer")
            if name in m["attacks"]
        ),
        SLACK,
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


def judge(measured):
    """Every check of a card, in order.

    Args:
        measured (dict): the figures of :func:`kafnets.diagnostics.card.measure`.

    Returns:
        list of dicts: name, says, figure (None: not a finite number), bound, at_least, unit, passed.
    """
    judged = []
    for check in CHECKS:
        figure = check.figure(measured)
        # the figures are quotients of counts: their differences are exact up to rounding
        slack = 1e-9
        passed = figure is not None and (
            figure >= check.bound - slack if check.at_least else figure <= check.bound + slack
        )
        judged.append(
            {
                "name": check.name,
                "says": check.says,
                "figure": figure,
                "bound": check.bound,
                "at_least": check.at_least,
                "unit": check.unit,
                "passed": passed,
            }
        )
    return judged
