"""The comparisons that a study has planned: with its controls, null models and variants, and no others.

A table of all pairs (`differences`) corrects for so many tests that a few seeds cannot tell anything; which
comparisons are of interest is decided before, in the configuration.
"""

from dataclasses import dataclass

import numpy

from ..registry import label
from ..runtime.errors import UserError
from . import marks, statistics
from .differences import LEVEL, QUANTITIES
from .manifest import verdicts

CONTROL, NULL_MODEL, VARIANT = "control", "null model", "variant"
# of study.csv
FIELDS = (
    *("experiment", "activation", "kind", "of_experiment", "of_activation", "quantity", "seeds"),
    *("difference", "low", "high", "p_value", "p_value_holm", "real"),
)


@dataclass(frozen=True)
class Planned:
    """One comparison: the network `first` minus the network `second`, both (experiment, activation).

    Args:
        kind: why it is made, CONTROL, NULL_MODEL or VARIANT.
        quantity: one of `differences.QUANTITIES`.
        seeds: how many both have.
        found: a statistics.Difference.
        corrected: its p-value by Holm's method over the comparisons of its family.
        real: whether that is below `differences.LEVEL`.
    """

    first: tuple
    second: tuple
    kind: str
    quantity: str
    seeds: int
    found: statistics.Difference
    corrected: float
    real: bool


def families(settings):
    """The experiments that are looked at together: each with its variants.

    Args:
        settings (dict): `study` of the configuration, `run` of it being experiments that are run.
    """
    of = settings["variants"]
    roots = [name for name in settings["run"] if of.get(name) not in settings["run"]]
    return {root: [root, *(n for n in settings["run"] if n != root and of.get(n) == root)] for root in roots}


def pairs(family, activations, settings):
    """The comparisons of a family, [(first, second, kind)], each pair once.

    Args:
        family (list of str): experiments, the first of which the others are variants of.
        activations (dict): of each of these experiments.
        settings (dict): `study` of the configuration.
    """
    root, *variants = family
    here, found = activations[root], {}
    for name in here:
        null = settings["null_models"].get(name)
        if null in here and null != name:
            found[(root, name), (root, null)] = NULL_MODEL
    controls = [control for control in settings["controls"] if control in here]
    for number, control in enumerate(controls):
        for name in here:
            # two controls meet once
            if name != control and name not in controls[:number]:
                found.setdefault(((root, name), (root, control)), CONTROL)
    for variant in variants:
        for name in activations[variant]:
            if name in here:
                found[(variant, name), (root, name)] = VARIANT
    return [(*pair, kind) for pair, kind in found.items()]


def planned(runs, rows, headline, settings):
    """All planned comparisons, in the order of the families.

    Args:
        runs: of the manifest.
        rows: of the summary.
        headline (str): the attack whose accuracy is the robustness.
        settings (dict): `study` of the configuration.

    Returns:
        list of Planned: corrected by Holm's method over each family.

    Raises:
        UserError: when records are absent or damaged, or networks of a family have no seed in common.
    """
    found = []
    for family in families(settings).values():
        of = [run for run in runs if run.experiment in family]
        found += _of_family(family, of, rows, headline, settings)
    return found


def _failed(rows, experiment, activation):
    """Whether a network is at chance, or was at the end of its training overfitted catastrophically."""
    of = rows[(rows["experiment"] == experiment) & (rows["activation"] == activation)]
    return marks.any_at_chance(of) or marks.overfitting(of) == "at_end"


def _of_family(family, runs, rows, headline, settings):
    activations, loaded = {}, {}
    for run in runs:
        key = run.experiment, run.activation
        activations.setdefault(run.experiment, {})[run.activation] = None
        loaded.setdefault(key, {})[run.seed] = verdicts(run, headline)
    seeds = sorted(set.intersection(*map(set, loaded.values())))
    if not seeds:
        raise UserError(f"study.run: the networks of {', '.join(family)} have no seed in common; train one")
    failed = {key for key in loaded if _failed(rows, *key)}
    tests = []
    for quantity, verdict in zip(QUANTITIES, ("clean", "robust"), strict=True):
        right = {key: numpy.stack([of[seed][verdict] for seed in seeds]) for key, of in loaded.items()}
        # one seed that fails and two that learn spread as no others do
        alike = [of_key.mean(1) for key, of_key in right.items() if key not in failed]
        spread = statistics.residual_spread(alike) if alike else (float("nan"), 0)
        for first, second, kind in pairs(family, activations, settings):
            of_both = right[first], right[second]
            if failed & {first, second}:
                difference = statistics.compare(*of_both)
            else:
                difference = statistics.compare_in_blocks(*of_both, *spread)
            tests.append((first, second, kind, quantity, len(seeds), difference))
    real, corrected = statistics.holm([test[-1].p_value for test in tests], LEVEL)
    return [Planned(*test, p, yes) for test, p, yes in zip(tests, corrected, real, strict=True)]


def record(test):
    """A line of study.csv."""
    found = test.found
    values = (f"{100 * number:.2f}" for number in (found.estimate, found.low, found.high))
    p_values = (f"{p:.6g}" for p in (found.p_value, test.corrected))
    names = (*test.first, test.kind, *test.second, test.quantity, test.seeds)
    return dict(zip(FIELDS, (*names, *values, *p_values, str(test.real).lower()), strict=True))


def in_words(test):
    """ "KAF +1.2": the first of a comparison and by how many percentage points it differs."""
    return f"{label(test.first[1])} {100 * test.found.estimate:+.1f}".replace("-", "−")
