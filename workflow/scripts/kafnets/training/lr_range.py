"""The learning-rate range test."""

import itertools
import math

from ..runtime import progress
from ..runtime.errors import UserError
from ..runtime.graphs import computing_on
from .schedule import exponential
from .training import Training

SMOOTHING = 0.95
# The test may stop once the loss has grown to this many times its lowest value: nothing more is learnt.
DIVERGED = 4.0
# Shares of the loss's whole fall: it has started to fall after the first, it is flat within the second.
STARTED, FLAT = 0.05, 0.05


def lr_range(settings, dataset, device):
    """Trains for a few epochs while the learning rate grows exponentially.

    Args:
        settings (dict): one cell of the grid, with `lr_range` = {"min", "max", "epochs"}.
        dataset (kafnets.data.Dataset): the data the settings name.
        device (torch.device): where to compute.

    Returns:
        list of dict: `step`, `learning_rate`, `loss` (of the batch, adversarial) and `smoothed_loss`
        (exponential mean, bias-corrected); shorter where the loss diverged or was not finite.

    Source: L. N. Smith, "A disciplined approach to neural network hyper-parameters", 2018.
    """
    with computing_on(device):
        return _lr_range(Training(settings, dataset, device), settings["lr_range"])


def _lr_range(training, options):
    steps = options["epochs"] * training.steps_per_epoch
    rows, mean, lowest = [], 0.0, math.inf
    batches = itertools.chain.from_iterable(map(training.batches.epoch, range(options["epochs"])))
    rates = exponential(options["min"], options["max"], steps)
    with progress.bar(steps, "learning-rate range test") as bar:
        for number, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
            try:
                seen, loss, _, _ = training.step(batch, rate).tolist()
                training.check()
            except UserError as error:
                progress.line(f"the range test ends at a learning rate of {rate:.3g}: {error}")
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss / seen
            smoothed = mean / (1 - SMOOTHING ** (number + 1))
            lowest = min(lowest, smoothed)
            rows.append(
                {"step": number, "learning_rate": rate, "loss": loss / seen, "smoothed_loss": smoothed}
            )
            bar.update()
            if (number + 1) % training.steps_per_epoch == 0:
                progress.line(f"step {number + 1}/{steps}  learning rate {rate:.3g}  loss {smoothed:.4f}")
            if smoothed > DIVERGED * lowest:
                progress.line(f"the range test ends at a learning rate of {rate:.3g}: the loss diverged")
                break
    return rows


def suggest(rows):
    """The range to train with: where the smoothed loss starts to fall, and where it flattens.

    Args:
        rows (list of dict): of :func:`lr_range`.

    Returns:
        dict: `min` and `max`, learning rates; both None when the loss never fell.
    """
    losses = [row["smoothed_loss"] for row in rows]
    if not losses:
        return {"min": None, "max": None}
    lowest = min(range(len(losses)), key=losses.__getitem__)
    # the level before the fall: the first steps' mean is that of very few batches and may lie below it
    start = max(losses[: lowest + 1])
    fall = start - losses[lowest]
    if fall <= 0:
        return {"min": None, "max": None}
    peak = losses.index(start)
    began = next(i for i in range(peak, lowest + 1) if losses[i] <= start - STARTED * fall)
    flat = next(i for i in range(peak, lowest + 1) if losses[i] <= losses[lowest] + FLAT * fall)
    return {"min": rows[began]["learning_rate"], "max": rows[flat]["learning_rate"]}
