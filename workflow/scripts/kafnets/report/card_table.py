"""The evaluation cards of one experiment as a table: a row a network, a column a check."""

import math

from ..diagnostics.checks import CHECKS, allowed
from ..registry import label
from . import captions, marks
from .typesetting import NOT_RUN, Cell, Column, Table


def build(cards, title):
    """The evaluation cards of an experiment: a row a network, a column a check; shares in percent.

    Args:
        cards: list of `cards.Card`.
        title: of the experiment.
    """
    shown = any(_growth(card) is not None for card in cards)  # cards of earlier versions do not know it
    rows = [(Cell("at most"), *(Cell(_bound(check)) for check in CHECKS))]
    for examples in sorted({card.figures["examples"] for card in cards}):
        rows.append((Cell(f"of {examples:,} images"), *(Cell(_allowed(check, examples)) for check in CHECKS)))
    several = len({card.seed for card in cards}) > 1
    for card in cards:
        name = label(card.activation) + (f", seed {card.seed}" if several else "")
        growth = () if not shown else (Cell(_of_growth(_growth(card))),)
        mark = marks.FAILED if card.failed else ""
        rows.append((Cell(name, note=mark), *map(_of_check, card.checks), *growth))
    heads = ("Activation", *(captions.CHECK_HEADS[check.name] for check in CHECKS))
    if shown:
        heads = (*heads, captions.GROWTH_HEAD)
        rows[: len(rows) - len(cards)] = [(*row, Cell("")) for row in rows[: len(rows) - len(cards)]]
    return Table(
        name="cards",
        title=f"{title}: evaluation cards",
        caption=captions.cards(cards, title),
        columns=tuple(map(Column, heads)),
        rows=tuple(rows),
        records=tuple(_of_card(card, cards) for card in cards),
    )


def _growth(card):
    """The geometric mean of chi over a network's layers; None where a card has none."""
    found = [layer.get("chi") for layer in card.figures["layers"]]
    found = [value for value in found if value is not None]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else None


def _of_growth(growth):
    return NOT_RUN if growth is None else f"{growth:.2f}"


def _bound(check):
    number = _figure(check.bound, check.unit)
    return f"at least {number}" if check.at_least else number


def _allowed(check, examples):
    """The bound in images."""
    if check.unit != "share":
        return ""
    number = allowed(check, examples)
    return f"at least {examples - number}" if check.at_least else str(number)


def _of_check(check):
    text = _figure(check["figure"], check["unit"])
    return Cell(text) if check["passed"] else Cell(text, bold=True, note=f"{marks.FAILED}{_images(check)}")


def _images(check):
    """How many images broke a check, and how many may."""
    if check["unit"] != "share":
        return ""
    count, most, examples = check["count"], check["allowed"], check["examples"]
    if check["at_least"]:
        return f" ({examples - count} of {examples}, at least {examples - most})"
    return f" ({count} of {examples}, at most {most})"


def _figure(figure, unit):
    if figure is None:
        return "not finite"
    return f"{figure:.2f}" if unit == "slope" else f"{100 * figure:.1f}"


def _of_card(card, cards):
    """A line of the CSV file: accuracies under each attack, every check's figure and whether it passed."""
    checks, figures = {check["name"]: check for check in card.checks}, card.figures
    record = {
        **{name: getattr(card, name) for name in ("experiment", "activation", "seed")},
        "examples": figures["examples"],
        "failed": len(card.failed),
        "clean_accuracy": figures["clean_accuracy"],
    }
    for name in dict.fromkeys(name for card in cards for name in card.figures["attacks"]):
        record[f"accuracy_{name}"] = figures["attacks"].get(name, {}).get("accuracy")
    record["alignment"] = figures["alignment"]
    record["chi"] = _growth(card)
    for check in CHECKS:
        record[check.name] = checks[check.name]["figure"]
        record[f"{check.name}_passed"] = checks[check.name]["passed"]
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in record.items()}
