"""Learning rates as plain lists, so that a resumed run needs no scheduler state."""

TRIANGLE, PIECEWISE = "triangle", "piecewise"
FACTOR = 0.1  # of a drop: what the recipes with drops take


def learning_rates(training, steps_per_epoch):
    """The learning rate of every step of a training.

    A triangle from `min` to `max` at half-time and back ("one-cycle", L. N. Smith, 2018), or `max`,
    multiplied by a factor at the beginning of some epochs ("piecewise"); then the tail: constant, halved
    every few epochs.

    Args:
        training (dict): `epochs`, `learning_rate` ([min, max]), `tail` ({"epochs", "learning_rate",
            "halve_every"}, epochs 0 for none) and, if it is no triangle, `schedule` ({"name": "piecewise",
            "drops": epochs that are over when the rate drops, "factor": of a drop, 0.1 without}).
        steps_per_epoch (int): optimiser steps in an epoch.

    Returns:
        list of float, one a step: (epochs + tail epochs) * steps_per_epoch.
    """
    low, high = training["learning_rate"]
    epochs, schedule = training["epochs"], training.get("schedule", {"name": TRIANGLE})
    if schedule["name"] == PIECEWISE:
        factor = schedule.get("factor", FACTOR)
        rates = piecewise(high, schedule["drops"], factor, epochs, steps_per_epoch)
    else:
        rates = triangle(low, high, epochs * steps_per_epoch)
    return rates + tail(training["tail"], steps_per_epoch)


def piecewise(rate, drops, factor, epochs, steps_per_epoch):
    """`rate`, times `factor` from each of the epochs `drops` on (counted from 0: so many epochs are over)."""
    return [
        rate * factor ** sum(epoch >= drop for drop in drops)
        for epoch in range(epochs)
        for _ in range(steps_per_epoch)
    ]


def triangle(low, high, steps):
    """`steps` rates that rise from `low` to `high` at half-time and fall back to `low`."""
    if steps == 1:
        return [high]
    return [low + (high - low) * (1 - abs(2 * step / (steps - 1) - 1)) for step in range(steps)]


def tail(settings, steps_per_epoch):
    """The rates of the tail: `learning_rate`, halved every `halve_every` epochs."""
    return [
        settings["learning_rate"] * 0.5 ** (epoch // settings["halve_every"])
        for epoch in range(settings["epochs"])
        for _ in range(steps_per_epoch)
    ]


def exponential(low, high, steps):
    """`steps` rates from `low` to `high`, each the same factor above the last (learning-rate range test)."""
    return [low * (high / low) ** (step / max(steps - 1, 1)) for step in range(steps)]
