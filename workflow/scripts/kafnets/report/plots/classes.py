"""Accuracy and robustness of each class: which images an attack finds easy."""

import itertools

import matplotlib
import numpy

from ...registry import label
from ..typesetting import NOT_RUN
from . import panels, style

CELL = 0.42  # inches, the height of a row
MANY = (
    20  # more classes than this have cells too narrow for numbers; colours tell them, and every so many names
)


def draw(shares, classes, counts):
    """Two maps with their numbers, in percent: without an attack and under it; a row an activation.

    Args:
        shares: activation -> (2, classes) shares rightly classified, clean and attacked; NaN for a class
            without an image.
        classes: their names.
        counts: test images of each.
    """
    few = len(classes) <= MANY
    height = 0.95 + 0.5 + CELL * len(shares) + (0 if few else 0.6)
    drawn, axes = style.figure(style.PAGE, height, 2, 1, sharex=True)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="white")
    for row, title in enumerate(("Accuracy (%)", "Robustness (%)")):
        panel = axes[row, 0]
        values = 100 * numpy.array([of_one[row] for of_one in shares.values()])
        shown = panel.imshow(values, aspect="auto", cmap=colours, vmin=0, vmax=100)
        for (y, x), value in numpy.ndenumerate(values if few else numpy.empty((0, 0))):
            number = NOT_RUN if numpy.isnan(value) else f"{value:.0f}"
            ink = panels.ink(shown.to_rgba(value)[:3])
            panel.text(x, y, number, ha="center", va="center", fontsize=6.5, color=ink)
        panel.set_title(title, loc="left")
        panel.set_yticks(range(len(shares)), list(map(label, shares)))
        panel.grid(False)
        panel.tick_params(length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    axes[1, 0].set_xlabel(f"Class ({_images(counts)} each)")
    if not few:
        drawn.colorbar(shown, ax=axes, pad=0.02)
    _name(drawn, axes[1, 0], classes)
    return drawn


def _images(counts):
    fewest, most = min(counts), max(counts)
    if fewest != most:
        return f"{fewest:,} to {most:,} test images"
    return f"{most:,} test images" if most != 1 else "1 test image"


def _name(drawn, panel, classes):
    """The names of the classes, upright where they would run into each other, and every so many of them."""
    every = 1
    panel.set_xticks(range(len(classes)), classes)
    if _run_together(drawn, panel):
        panel.tick_params(axis="x", rotation=90)
    while _run_together(drawn, panel):
        every += 1
        panel.set_xticks(range(0, len(classes), every), classes[::every])


def _run_together(drawn, panel):
    drawn.draw_without_rendering()
    renderer = drawn.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in panel.get_xticklabels()]
    return any(one.x1 + 1 > other.x0 for one, other in itertools.pairwise(boxes))
