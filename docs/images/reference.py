"""Draws docs/images/reference.png from the committed results of results/reference/cpu-2026-11-24.

PYTHONPATH=workflow/scripts python docs/images/reference.py
"""

import argparse
import csv
from pathlib import Path

from kafnets.report.plots import style
from matplotlib import pyplot

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "results" / "reference" / "cpu-2026-11-24"
MEASURED = (
    # in the legend, column of published.csv or row of published_attacks.csv, marker, size, colour, fill
    ("13 attacks, worst case", "robustness", "o", 30, "#0072B2", "#0072B2"),
    ("PGD-20", "pgd", "s", 30, "#0072B2", "white"),
    ("thesis protocol", "thesis_pgd", "D", 14, "#D55E00", "#D55E00"),
    ("published", "published_robustness", "D", 62, "#D55E00", "none"),
    ("no attack", "accuracy", "^", 30, "#000000", "#000000"),
)


def read(results):
    """Activation -> its row of the table, and its accuracy under each attack."""
    with open(results / "published.csv", encoding="utf-8") as file:
        rows = {row["activation"]: row for row in csv.DictReader(file)}
    with open(results / "published_attacks.csv", encoding="utf-8") as file:
        for attack in csv.DictReader(file):
            for name in rows:
                rows[name].setdefault(attack["attack"], attack[name])
    return rows


def draw(rows):
    """A line for each activation, with a point for each of MEASURED and the worst case's 95 % interval."""
    drawn, axes = style.figure(style.PAGE, 3.1)
    axes = axes[0, 0]
    heights = range(len(rows), 0, -1)
    low, high = ([float(row[f"robustness_{end}"]) for row in rows.values()] for end in ("low", "high"))
    axes.hlines(heights, low, high, color="#0072B2", linewidth=4, alpha=0.25, zorder=2)
    for name, key, marker, size, colour, fill in MEASURED:
        values = [float(row[key]) for row in rows.values()]
        kind = {"marker": marker, "facecolors": fill, "edgecolors": colour, "linewidths": 1}
        axes.scatter(values, heights, s=size, label=name, zorder=3, **kind)
    axes.set_yticks(heights, [row["label"] for row in rows.values()])
    axes.set_xlim(20, 90)
    axes.set_xlabel("Test images counted as correct (%)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    style.legend(drawn, len(MEASURED))
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path, default=HERE / "reference.png")
    drawn = draw(read(RESULTS))
    drawn.savefig(parser.parse_args().png, dpi=200, metadata={"Software": None})
    pyplot.close(drawn)


if __name__ == "__main__":
    main()
