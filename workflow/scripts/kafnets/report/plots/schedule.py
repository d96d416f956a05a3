"""Learning-rate schedules, one line for the activations that share one."""

import textwrap

from ...registry import label
from . import panels, style

# The rate is a function of the place within the training; this many points an epoch draw it.
POINTS_PER_EPOCH = 100
WIDE = 48  # letters of a legend's line that fit a column


def draw(rates):
    """Learning rate against epochs.

    Args:
        rates: activation -> list of learning rates, `POINTS_PER_EPOCH` an epoch.
    """
    drawn, axes = style.figure(style.COLUMN, 3.1)
    panel = axes[0, 0]
    groups = {}
    for activation, schedule in rates.items():
        groups.setdefault(tuple(schedule), []).append(activation)
    for schedule, activations in groups.items():
        epochs = [step / POINTS_PER_EPOCH for step in range(len(schedule))]
        names = textwrap.fill(", ".join(map(label, activations)), WIDE, break_on_hyphens=False)
        panel.plot(epochs, schedule, **{**style.line(activations[0]), "label": names})
    panels.log(panel)
    panel.set_xlabel("Epoch")
    panel.set_ylabel("Learning rate")
    style.legend(drawn, 2)
    return drawn
