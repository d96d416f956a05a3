"""Learning-rate schedules, one line for the activations that share one."""

from ...registry import label
from . import style

# The rate is a function of the place within the training; this many points an epoch draw it.
POINTS_PER_EPOCH = 100


def draw(rates):
    """Learning rate against epochs.

    Args:
        rates: activation -> list of learning rates, `POINTS_PER_EPOCH` an epoch.
    """
    drawn, axes = style.figure(style.COLUMN, 3.1)
    axes = axes[0, 0]
    groups = {}
    for activation, schedule in rates.items():
        groups.setdefault(tuple(schedule), []).append(activation)
    for schedule, activations in groups.items():
        epochs = [step / POINTS_PER_EPOCH for step in range(len(schedule))]
        axes.plot(
            epochs, schedule, **{**style.line(activations[0]), "label": ", ".join(map(label, activations))}
        )
    axes.set_yscale("log")
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Learning rate")
    style.legend(drawn, axes, 2)
    return drawn
