"""Which differences between the activations of an experiment are real."""

import itertools
from dataclasses import dataclass

import numpy

from ..registry import label
from . import statistics
from .sheets import Sheet
from .summary import attempt, verdicts

LEVEL = 0.05
QUANTITIES = ("accuracy", "robustness")


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
        runs: of one experiment, see `summary.read_manifest`.
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


def sentence(tested):
    """What the main table's caption says of the differences, or nothing where there are none."""
    robust = [test for test in tested if test.quantity == "robustness"]
    clean = [test for test in tested if test.quantity == "accuracy" and test.real]
    if not robust:
        return ""
    real = [_in_words(test) for test in robust if test.real]
    named = f": {', '.join(real)}" if 0 < len(real) <= 6 else ""
    return (
        f"Of the {len(robust)} differences in robustness {len(real)} are real at the {100 * LEVEL:g}% level "
        f"after Holm's correction{named}; of those in accuracy {len(clean)}."
    )


def _in_words(test):
    better, worse = (test.first, test.second) if test.found.estimate > 0 else (test.second, test.first)
    return f"{label(better)} above {label(worse)}"


def sheet(tested, experiment, settings):
    """The differences as a table: a row a pair, the real ones bold."""
    pairs = dict.fromkeys((test.first, test.second) for test in tested)
    of_pair = {(test.first, test.second, test.quantity): test for test in tested}
    rows = []
    for pair in pairs:
        cells = [" − ".join(map(label, pair))]
        for quantity in QUANTITIES:
            test = of_pair[(*pair, quantity)]
            for text in (
                _points(test.found),
                f"{test.corrected:.3f}" if test.corrected >= 0.001 else "< 0.001",
            ):
                cells.append((text, True) if test.real else text)
        rows.append(tuple(cells))
    heads = ("Activations", "Accuracy", "p", "Robustness", "p")
    return Sheet(
        f"{experiment}_differences",
        f"{settings['title']}: differences",
        _caption(tested, settings),
        heads,
        tuple(rows),
        tuple(_record(test) for test in tested) or (dict.fromkeys(_FIELDS),),
    )


def _points(difference):
    """A difference and its interval in percentage points."""
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.estimate:+.2f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")


_FIELDS = (
    *("first", "second", "quantity", "seeds", "difference", "low", "high", "p_value", "p_value_holm"),
    "real",
)


def _record(test):
    found = test.found
    values = (f"{100 * number:.2f}" for number in (found.estimate, found.low, found.high))
    p_values = (f"{p:.6g}" for p in (found.p_value, test.corrected))
    fields = (test.first, test.second, test.quantity, test.seeds, *values, *p_values, str(test.real).lower())
    return dict(zip(_FIELDS, fields, strict=True))


def _caption(tested, settings):
    if not tested:
        return f"{settings['title']}: there are no two activations to compare."
    seeds = sorted({test.seeds for test in tested})
    how = []
    if 1 in seeds:
        how.append(
            "for one seed exact McNemar tests, which are about these two networks, not their activations"
        )
    if any(count > 1 for count in seeds):
        several = " or ".join(str(count) for count in seeds if count > 1)
        how.append(
            f"for {several} seeds the paired bootstrap over seeds and images, or the paired t-test over the "
            "seeds where its p is larger"
        )
    return (
        f"{settings['title']}: differences between activations on the same test images in percentage points, "
        f"the first minus the second, with 95% intervals (paired bootstrap). p: "
        f"{'; '.join(how) or 'no test yet'}; corrected by Holm's method over all {len(tested)} tests of this "
        f"table. Bold: real at the {100 * LEVEL:g}% level."
    )
