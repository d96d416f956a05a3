"""The learning-rate range test: the loss while the learning rate grows, and the range it suggests."""

from math import ceil

from ...registry import label
from . import style


def draw(tests):
    """One panel a test: the batch losses faint, the smoothed loss bold, the suggested range shaded.

    Where there is none, the panel's title says why.

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
        panel.plot(losses["learning_rate"], losses["loss"], color=style.GREY, alpha=0.4, linewidth=0.4)
        panel.plot(losses["learning_rate"], losses["smoothed_loss"], color=tint, linewidth=1.4)
        title = label(activation)
        if suggested["min"] is not None:
            panel.axvspan(suggested["min"], suggested["max"], color="#ededed", linewidth=0, zorder=0)
            title += f": {suggested['min']:.2g} to {suggested['max']:.2g}"
        else:
            title += ": none, the loss never fell"
        panel.set_title(title, loc="left")
        panel.set_xscale("log")
        panel.margins(x=0)
        _focus(panel, losses)
    for panel in axes.flat[len(tests) :]:
        panel.set_visible(False)
    drawn.supxlabel("Learning rate", fontsize=8)
    drawn.supylabel("Training loss", fontsize=8)
    return drawn


def _focus(axes, losses):
    """Limits that show the smoothed loss, so that a diverged end does not flatten the rest."""
    low, high = (
        min(losses["smoothed_loss"]),
        max(losses["smoothed_loss"][: len(losses["smoothed_loss"]) // 2 + 1]),
    )
    margin = 0.25 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
