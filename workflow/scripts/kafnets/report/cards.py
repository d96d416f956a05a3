"""The evaluation cards of one experiment as a table: a row a network, a column a check."""

import csv
import io
import textwrap

from ..diagnostics.checks import CHECKS, LEVEL, allowed, judge
from ..registry import label

FAILED = "§"

# What a reader sees above a column; the CSV file has the check's own name.
HEADS = {
    "clean_at_zero": "ε = 0",
    "nothing_at_largest": "ε large",
    "falls_with_radius": "rise over ε",
    "iterations_suffice": "more iterations",
    "restarts_suffice": "more restarts",
    "iterations_beat_one_step": "PGD − FGSM",
    "white_box_beats_black_box": "black box alone",
    "black_box_beats_noise": "black box − noise",
    "gradients_exist": "no gradient",
    "gradients_are_finite": "gradient not finite",
    "gradient_leads_up": "loss rises",
    "slopes": "|f′|",
    "curvatures": "|f″|",
}


def marks(cards):
    """Activation -> the names of the checks that any of its networks fails, in the checks' order.

    Of several networks each is tested at LEVEL over their number (Bonferroni, which is Holm's first step), so
    that more seeds are no more often marked; the seeds' images are the same, which a test of all of them
    together would have to know.
    """
    networks = {}
    for card in cards:
        networks.setdefault(card.activation, []).append(card)
    failed = {
        name: {
            check["name"]
            for card in of_activation
            for check in judge(card.figures, LEVEL / len(of_activation))
            if not check["passed"]
        }
        for name, of_activation in networks.items()
    }
    return {name: [check.name for check in CHECKS if check.name in found] for name, found in failed.items()}


def to_csv(cards):
    """A line a network: accuracies under each attack, every check's figure and whether it passed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [check.name for check in CHECKS]
    heads = [head for name in names for head in (name, f"{name}_passed")]
    attacks = list(dict.fromkeys(name for card in cards for name in card.figures["attacks"]))
    identity = ["experiment", "activation", "seed", "examples", "failed", "clean_accuracy"]
    writer.writerow([*identity, *(f"accuracy_{name}" for name in attacks), "alignment", *heads])
    for card in cards:
        checks = {check["name"]: check for check in card.checks}
        figures = card.figures
        values = [
            *(card.experiment, card.activation, card.seed, figures["examples"], len(card.failed)),
            figures["clean_accuracy"],
            *(figures["attacks"].get(name, {}).get("accuracy") for name in attacks),
            figures["alignment"],
            *(checks[name][key] for name in names for key in ("figure", "passed")),
        ]
        writer.writerow([round(value, 6) if isinstance(value, float) else value for value in values])
    return file.getvalue()


def to_markdown(cards, title):
    """The table with its marks and what they mean; shares in percent."""
    grid = [["Activation", *(HEADS[check.name] for check in CHECKS)]]
    grid.append(["at most", *map(_bound, CHECKS)])
    for examples in sorted({card.figures["examples"] for card in cards}):
        grid.append([f"of {examples:,} images", *(_allowed(check, examples) for check in CHECKS)])
    several = len({card.seed for card in cards}) > 1
    for card in cards:
        name = label(card.activation) + (f", seed {card.seed}" if several else "")
        grid.append([f"{name} {FAILED}" if card.failed else name, *map(_cell, card.checks)])
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in [grid[0], rule, *grid[1:]]
    ]
    return "\n".join([*lines, "", textwrap.fill(_caption(cards, title), 110, break_on_hyphens=False), ""])


def _bound(check):
    number = _number(check.bound, check.unit)
    return f"at least {number}" if check.at_least else number


def _allowed(check, examples):
    """The bound in images."""
    if check.unit != "share":
        return ""
    number = allowed(check, examples)
    return f"at least {examples - number}" if check.at_least else str(number)


def _cell(check):
    text = _number(check["figure"], check["unit"])
    return text if check["passed"] else f"**{text}** {FAILED}{_images(check)}"


def _images(check):
    """How many images broke a check, and how many may."""
    if check["unit"] != "share":
        return ""
    count, most, examples = check["count"], check["allowed"], check["examples"]
    if check["at_least"]:
        return f" ({examples - count} of {examples}, at least {examples - most})"
    return f" ({count} of {examples}, at most {most})"


def _number(figure, unit):
    if figure is None:
        return "not finite"
    return f"{figure:.2f}" if unit == "slope" else f"{100 * figure:.1f}"


def _caption(cards, title):
    card = cards[0]
    settings, counts = card.settings["card"], sorted({card.figures["examples"] for card in cards})
    images = " or ".join(f"{count:,}" for count in counts)
    says = "; ".join(f"{HEADS[check.name]}: {check.says}" for check in CHECKS)
    return (
        f"{title}: evaluation cards, on {images} test images, shares of them in percent. PGD: ε = "
        f"{settings['eps']}, step {settings['step']}, {settings['iterations']} iterations, "
        f"{settings['restarts']} random starts. {says}. Below a bound: how many of so many images it "
        f"allows, by an exact test at {100 * LEVEL:.0f} % (more where two attacks differ both ways). "
        f"Bold with {FAILED}: a check that fails, so the network's robustness may be the attack's weakness."
    )
