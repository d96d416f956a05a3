"""Receiver operating characteristics of detectors, under a static and an adaptive attacker."""

import numpy
from matplotlib.ticker import PercentFormatter

from ...registry import label
from ..detection_table import LOOSE, STRICT, attackers, said
from . import style

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_LOWEST = 1e-3  # of the false positive rate, which is drawn by its logarithm
_HEIGHT = 2.5


def draw(guarded, settings):
    """A panel a network (of the first seed), a colour a detector; dashed: static, solid: adaptive attacker.

    Args:
        guarded: list of `report.detections.Guarded`.
        settings: of :func:`kafnets.config.detection.table_settings`.
    """
    panels = {}
    for one in guarded:
        panels.setdefault(one.activation, {}).setdefault(one.seed, []).append(one)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    width = style.PAGE if columns > 1 else style.COLUMN
    drawn, grid = style.figure(width, _HEIGHT * rows + 0.5, rows, columns, sharex=True, sharey=True)
    axes = grid.ravel()
    for one in axes[len(panels) :]:
        one.set_axis_off()
    for place, (activation, seeds) in zip(axes, panels.items(), strict=False):
        _panel(place, label(activation), seeds[min(seeds)], settings)
    for place in axes[max(len(panels) - columns, 0) : len(panels)]:  # the lowest of each column
        place.set_xlabel("False positive rate")
        place.tick_params(labelbottom=True)
    for place in grid[:, 0]:
        place.set_ylabel("True positive rate")
    style.legend(drawn, 2 if columns == 1 else 4)
    return drawn


def _panel(axes, title, detectors, settings):
    axes.set_title(title, loc="left")
    for rate in (STRICT, LOOSE):
        axes.axvline(rate, color=style.GREY, linewidth=0.6, linestyle=":", zorder=0)
    chance = numpy.geomspace(_LOWEST, 1, 50)
    axes.plot(chance, chance, color=style.LIGHT, linewidth=0.8, zorder=1)
    for number, one in enumerate(detectors):
        colour = _COLOURS[number % len(_COLOURS)]
        static, adaptive = attackers(one, settings)
        for kind, evading, dashes in (("static", static, (0, (3, 1.2))), ("adaptive", adaptive, "-")):
            curve = one.curve(evading)
            if curve is None:
                continue
            false, true = curve
            # steps: between two thresholds nothing lies
            axes.step(
                numpy.maximum(false, _LOWEST),
                true,
                where="post",
                color=colour,
                linestyle=dashes,
                label=f"{said(one.detector)}, {kind}",
            )
    axes.set_xscale("log")
    axes.set_xlim(_LOWEST, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_xticks([_LOWEST, STRICT, LOOSE, 1], ["0.1%", "1%", "5%", "100%"])
    axes.set_xticks([], minor=True)
