"""Training curves: what each epoch did, one line an activation."""

import numpy

from . import style

# column of the history, title, scale of the vertical axis
PANELS = (
    ("loss", "Training loss", "linear"),
    ("fgsm_accuracy", "Training accuracy, attacked (%)", "percent"),
    ("clean_accuracy", "Training accuracy, clean (%)", "percent"),
    ("probe_fgsm_accuracy", "Held-out accuracy, FGSM (%)", "percent"),
    ("probe_pgd_accuracy", "Held-out accuracy, PGD (%)", "percent"),
    ("gradient_norm", "Gradient norm", "log"),
)


def draw(histories):
    """Six panels over the epochs: the mean over seeds, and the range of the seeds as a band.

    Args:
        histories: activation -> list of histories (`manifest.read_history`), one a seed.
    """
    drawn, axes = style.figure(style.PAGE, 4.1, 2, 3, sharex=True)
    for panel, (column, title, scale) in zip(axes.flat, PANELS, strict=True):
        for activation, seeds in histories.items():
            _curve(panel, activation, seeds, column, 100 if scale == "percent" else 1)
        panel.set_title(title, loc="left")
        if scale == "log":
            panel.set_yscale("log")
        start = _tail_start(next(iter(histories.values()))[0])
        if start is not None:
            panel.axvline(start, color=style.GREY, linewidth=0.6, linestyle=":", zorder=0)
    for panel in axes[-1]:
        panel.set_xlabel("Epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    style.legend(drawn, axes[0, 0], 8)
    return drawn


def _curve(axes, activation, seeds, column, factor):
    epochs = numpy.array(seeds[0]["epoch"])
    values = factor * numpy.array([history[column] for history in seeds])
    measured = ~numpy.isnan(values).any(axis=0)  # the probe may be run every few epochs only
    epochs, values = epochs[measured], values[:, measured]
    # a point is not seen without a neighbour to join it to
    single = {"marker": ".", "markersize": 4} if len(epochs) < 3 else {}
    axes.plot(epochs, values.mean(axis=0), **style.line(activation), **single)
    if len(seeds) > 1:
        band = {"color": style.colour(activation), "alpha": 0.15, "linewidth": 0}
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), **band)


def _tail_start(history):
    """Where the tail of the schedule begins, between two epochs, or None."""
    epochs = history.loc[history["phase"] == "tail", "epoch"]
    return None if epochs.empty else epochs.min() - 0.5
