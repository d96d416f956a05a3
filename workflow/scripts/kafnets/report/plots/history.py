"""Training curves: what each epoch did, one line an activation."""

import numpy

from ...registry import label
from ...runtime.errors import optional
from . import coinciding, panels, style

# column of the history, title, scale of the vertical axis
PANELS = (
    ("loss", "Training loss", "linear"),
    ("fgsm_accuracy", "Accuracy on training batches (%)", "percent"),
    ("clean_accuracy", "Training accuracy, clean (%)", "percent"),
    ("probe_fgsm_accuracy", "Held-out accuracy, FGSM (%)", "percent"),
    ("probe_pgd_accuracy", "Held-out accuracy, PGD (%)", "percent"),
    ("gradient_norm", "Gradient norm", "log"),
)
FEW = 3  # fewer points than this are no curve


def draw(histories):
    """Six panels over the epochs: the mean over seeds, and the range of the seeds as a band.

    Dots where not every epoch was measured; fewer than `FEW` of them are not joined. What is missing, the
    panels say in words.

    Args:
        histories: activation -> list of histories (`manifest.read_history`), one a seed.
    """
    drawn, axes = style.figure(style.PAGE, 4.1, 2, 3, sharex=True)
    for panel, (column, title, scale) in zip(axes.flat, PANELS, strict=True):
        said = []
        for activation, seeds in histories.items():
            words = _curve(panel, activation, seeds, column, 100 if scale == "percent" else 1)
            said += [f"{label(activation)}: {words}"] if words else []
        panel.set_title(title, loc="left")
        _scale(panel, scale)
        _say(panel, said, len(histories))
        start = _tail_start(next(iter(histories.values()))[0])
        if start is not None:
            tail = {"color": style.GREY, "linewidth": 0.6, "linestyle": ":", "zorder": 0}
            panel.axvline(start, label="the schedule's tail begins", **tail)
    for panel in axes[-1]:
        panel.set_xlabel("Epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    style.legend(drawn, 8)
    coinciding.rings(drawn)
    return drawn


def _scale(panel, scale):
    if scale == "log":
        panels.log(panel)
    elif scale == "percent":
        panels.percent(panel)
    else:
        panels.limits(panel, least=0.1)


def _curve(panel, activation, seeds, column, factor):
    """Draws one activation's line; returns what it does not show, in words, or nothing."""
    pandas = optional("pandas", "report")
    by_epoch = [history.set_index("epoch")[column] for history in seeds]
    # the mean is always of the same seeds
    together = pandas.concat(by_epoch, axis=1, join="inner").sort_index()
    finite = together[numpy.isfinite(together).all(axis=1)]
    epochs, values = finite.index.to_numpy(), factor * finite.to_numpy().T
    if len(finite):
        look = style.line(activation)
        if len(finite) < FEW:
            look |= {"linestyle": "none", "marker": style.marker(activation)["marker"], "markersize": 4}
        elif len(finite) < len(together):
            look |= {"marker": ".", "markersize": 4}
        panel.plot(epochs, values.mean(axis=0), **look)
        if len(seeds) > 1:
            band = {"color": style.colour(activation), "alpha": 0.15, "linewidth": 0}
            panel.fill_between(epochs, values.min(axis=0), values.max(axis=0), **band)
    return _missing(column, seeds, together, finite)


def _missing(column, seeds, together, finite):
    longest = max(len(history) for history in seeds)
    if not len(finite):
        return "not measured" if column.startswith("probe_") else "never finite"
    if not column.startswith("probe_") and len(finite) < len(together):
        return f"not finite in {len(together) - len(finite)} epochs"
    if len(together) < longest and column == "loss":
        return f"mean up to epoch {together.index[-1]:g}, where a seed stopped"
    return ""


def _say(panel, said, count):
    """What several lines lack in the same way is said once."""
    if len(said) == count and len({words.partition(": ")[2] for words in said}) == 1:
        said = [said[0].partition(": ")[2]]
    if said:
        panels.say(panel, "\n".join(said), centred=not panel.lines)


def _tail_start(history):
    """Where the tail of the schedule begins, between two epochs, or None."""
    epochs = history.loc[history["phase"] == "tail", "epoch"]
    return None if epochs.empty else epochs.min() - 0.5
