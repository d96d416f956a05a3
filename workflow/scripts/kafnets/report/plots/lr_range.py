"""The learning-rate range test: the loss while the learning rate grows, and the range it suggests."""

from math import ceil

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...registry import label
from . import panels, style

_SHADE = "#ededed"


def draw(tests):
    """One panel a test: the batch losses faint, the smoothed loss bold, the suggested range shaded.

    Where there is none, the panel says why.

    Args:
        tests: list of (activation, {"learning_rate", "loss", "smoothed_loss": lists}, {"min", "max"}); both
            bounds are None when the loss never fell.
    """
    columns = min(len(tests), 3)
    rows = ceil(len(tests) / columns)
    width = style.COLUMN if columns == 1 else style.PAGE
    drawn, axes = style.figure(width, 2.4 * rows if columns == 1 else 1.9 * rows, rows, columns)
    for panel, (activation, losses, suggested) in zip(axes.flat, tests, strict=False):
        tint = style.colour(activation)
        faint = {"color": style.GREY, "alpha": 0.4, "linewidth": 0.4}
        panel.plot(losses["learning_rate"], losses["loss"], **faint)
        panel.plot(losses["learning_rate"], losses["smoothed_loss"], color=tint, linewidth=1.4)
        title = label(activation)
        if suggested["min"] is not None:
            panel.axvspan(suggested["min"], suggested["max"], color=_SHADE, linewidth=0, zorder=0)
            title += f": {suggested['min']:.2g} to {suggested['max']:.2g}"
        else:
            panels.say(panel, "no range: the loss never fell")
        panel.set_title(title, loc="left")
        panels.log(panel, "x")
        panel.margins(x=0)
        _focus(panel, losses)
    for panel in axes.flat[len(tests) :]:
        panel.set_visible(False)
    drawn.supxlabel("Learning rate", fontsize=8)
    drawn.supylabel("Training loss", fontsize=8)
    keys = (
        Line2D([], [], color=style.GREY, alpha=0.4, linewidth=0.6, label="each batch"),
        Line2D([], [], color=style.GREY, linewidth=1.4, label="smoothed (in the activation's colour)"),
        Patch(color=_SHADE, label="suggested range"),
    )
    style.legend(drawn, 3, handles=keys)
    return drawn


def _focus(axes, losses):
    """Limits that show the smoothed loss, so that a diverged end does not flatten the rest."""
    low, high = (
        min(losses["smoothed_loss"]),
        max(losses["smoothed_loss"][: len(losses["smoothed_loss"]) // 2 + 1]),
    )
    margin = 0.25 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
