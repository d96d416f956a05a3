"""Which differences between the activations of an experiment are real."""

import itertools
from dataclasses import dataclass

import numpy

from . import statistics
from .manifest import attempt, verdicts

LEVEL = 0.05
QUANTITIES = ("accuracy", "robustness")
# of the CSV file
FIELDS = (
    *("first", "second", "quantity", "seeds", "difference", "low", "high", "p_value", "p_value_holm"),
    "real",
)


@dataclass(frozen=True)
class Tested:
    """One difference of the table: `first` minus `second` in one of `QUANTITIES`."""

    first: str
    second: str
    quantity: str
    seeds: int
    found: statistics.Difference
    corrected: float
    real: bool


def differences(runs, settings, missing=None):
    """Every pair of activations compared on the same test images, in accuracy and in robustness.

    Args:
        runs: of one experiment, see `manifest.read_manifest`.
        settings: of its table, see `tables.build`.
        missing: as for `summary.summarize`.

    Returns:
        list of Tested: their tests are those of `statistics.compare`, corrected by Holm's method over all of
        them. A pair without a common seed is left out.
    """
    found = {}  # activation -> seed -> verdicts
    for run in runs:
        one = attempt([] if missing is not None else None, str(run), verdicts, run, settings["headline"])
        if one is not None:
            found.setdefault(run.activation, {})[run.seed] = one
    names = [name for name in settings["activations"] if name in found]
    tests = []
    for quantity, verdict in zip(QUANTITIES, ("clean", "robust"), strict=True):
        for first, second in itertools.combinations(names, 2):
            seeds = sorted(found[first].keys() & found[second].keys())
            if seeds:
                pair = [
                    numpy.stack([found[name][seed][verdict] for seed in seeds]) for name in (first, second)
                ]
                tests.append((first, second, quantity, len(seeds), statistics.compare(*pair)))
    real, corrected = statistics.holm([test[-1].p_value for test in tests], LEVEL)
    return [Tested(*test, p, yes) for test, p, yes in zip(tests, corrected, real, strict=True)]


def record(test):
    """A line of the CSV file."""
    found = test.found
    values = (f"{100 * number:.2f}" for number in (found.estimate, found.low, found.high))
    p_values = (f"{p:.6g}" for p in (found.p_value, test.corrected))
    fields = (test.first, test.second, test.quantity, test.seeds, *values, *p_values, str(test.real).lower())
    return dict(zip(FIELDS, fields, strict=True))
