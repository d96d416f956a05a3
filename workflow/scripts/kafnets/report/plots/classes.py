"""Accuracy and robustness of each class: which images an attack finds easy."""

import numpy

from ...registry import label
from . import style


def draw(shares, classes):
    """Two maps with their numbers, in percent: without an attack and under it; a row an activation.

    Args:
        shares: activation -> (2, classes) shares rightly classified, clean and attacked; NaN for a class
            without an image.
        classes: their names.
    """
    height = 0.75 + 0.5 + 0.42 * len(shares)
    drawn, axes = style.figure(style.PAGE, height, 2, 1, sharex=True)
    for row, title in enumerate(("Accuracy (%)", "Robustness (%)")):
        panel = axes[row, 0]
        values = 100 * numpy.array([of_one[row] for of_one in shares.values()])
        panel.imshow(values, aspect="auto", cmap="Blues", vmin=0, vmax=125)  # dark numbers stay readable
        for (y, x), value in numpy.ndenumerate(values):
            if not numpy.isnan(value):
                panel.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6.5)
        panel.set_title(title, loc="left")
        panel.set_yticks(range(len(shares)), list(map(label, shares)))
        panel.grid(False)
        panel.tick_params(length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    axes[1, 0].set_xticks(range(len(classes)), classes)
    return drawn
