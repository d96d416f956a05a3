"""The comparisons of a study's page: tables, and in sentences what wins and what is noise."""

import textwrap

from ..registry import label
from .differences import LEVEL, QUANTITIES
from .planned import CONTROL, NULL_MODEL, VARIANT, families, in_words
from .typesetting import NOT_RUN, Cell, Column, Table, to_markdown


def title_of(settings, experiment):
    return settings["experiments"][experiment]["title"]


def filled(text, indent=""):
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def of_controls(tested, root, settings):
    """The table of an experiment's activations against its controls, and what it comes to."""
    of = [test for test in tested if test.first[0] == root and test.kind in (CONTROL, NULL_MODEL)]
    controls = [name for name in settings["controls"] if any(test.second[1] == name for test in of)]
    by_pair = {(test.first[1], test.second[1], test.quantity): test for test in of}
    compared = {first for first, *_ in by_pair}
    names = [name for name in settings["experiments"][root]["activations"] if name in compared]
    table_rows = [
        (Cell(label(name)), *(_difference(by_pair.get((name, c, q))) for c in controls for q in QUANTITIES))
        for name in names
    ]
    columns = [Column(f"− {label(control)}: {quantity}") for control in controls for quantity in QUANTITIES]
    table = Table(
        *("comparisons", "Comparisons", _how(of, tested, root, settings)),
        (Column("Activation"), *columns),
        tuple(table_rows),
        (),
    )
    said = [_verdict(of, control, settings) for control in controls]
    return "\n".join([f"### {title_of(settings, root)}", "", *said, to_markdown(table)])


def _how(of, tested, root, settings):
    family = families(settings)[root]
    count = sum(test.first[0] in family for test in tested)
    seeds = max((test.seeds for test in of), default=0)
    test = (
        "McNemar's exact test"
        if seeds == 1
        else "the larger p of the paired bootstrap over seeds and images, and of the t-test over seeds: with "
        "the spread that neither activation nor seed explains, of all networks compared here that learned; "
        "with their own where one of two did not (at chance with a seed, or catastrophic overfitting)"
    )
    return (
        f"Differences in percentage points, on the same images and seeds, with 95% intervals. Bold: real at "
        f"the {100 * LEVEL:g}% level, by {test}, corrected by Holm's method over the {count} comparisons "
        "that were planned here (study.csv has every p)."
    )


def _verdict(tests, control, settings):
    """What wins and loses against a control, in sentences."""
    against = [test for test in tests if test.second[1] == control]
    lines, winners = [], []
    for quantity in QUANTITIES:
        of = [test for test in against if test.quantity == quantity]
        above = [test for test in of if test.real and test.found.estimate > 0]
        below = [test for test in of if test.real and test.found.estimate < 0]
        winners.append({label(test.first[1]) for test in above})
        noise = len(of) - len(above) - len(below)
        lines.append(
            f"in {quantity} {_listed(above)} above it, {_listed(below)} below it, {noise} of {len(of)} not "
            "to be told from it"
        )
    both = ", ".join(sorted(set.intersection(*winners))) or "none"
    return filled(f"**Against {label(control)}**: {'; '.join(lines)}. Above it in both: {both}.") + "\n"


def _listed(tests):
    return ", ".join(map(in_words, tests)) or "none"


def of_null_models(tested, settings):
    of = [test for test in tested if test.kind == NULL_MODEL]
    return _pairs(
        of, settings, lambda test: (f"{label(test.first[1])} − {label(test.second[1])}", test.first[0])
    )


def of_variants(tested, parameters, settings):
    of = [test for test in tested if test.kind == VARIANT]
    if not of:
        return "No experiment of this run differs from another in this alone."

    def name(test):
        numbers = f"{parameters[test.first]} against {parameters[test.second]} parameters"
        return f"{label(test.first[1])} ({numbers})", test.first[0]

    roots = ", ".join(dict.fromkeys(title_of(settings, test.second[0]) for test in of))
    said = f"The same activation with its parameters shared otherwise, minus itself in {roots}."
    return filled(said) + "\n\n" + _pairs(of, settings, name)


def _pairs(tests, settings, name):
    """A table of comparisons, a row a pair."""
    if not tests:
        return "None among these activations."
    by_pair = {}
    for test in tests:
        by_pair.setdefault(name(test), {})[test.quantity] = test
    table_rows = []
    for (text, experiment), found in by_pair.items():
        cells = [cell for q in QUANTITIES for cell in (_difference(found[q]), Cell(_p(found[q])))]
        table_rows.append((Cell(text), Cell(title_of(settings, experiment)), *cells))
    heads = ("Pair", "Experiment", "Accuracy", "p", "Robustness", "p")
    caption = "Percentage points with 95% intervals; p corrected with all comparisons above. Bold: real."
    return to_markdown(Table("pairs", "Pairs", caption, tuple(map(Column, heads)), tuple(table_rows), ()))


def _difference(test):
    if test is None:
        return Cell(NOT_RUN)
    numbers = (100 * number for number in (test.found.estimate, test.found.low, test.found.high))
    text = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*numbers).replace("-", "−")
    return Cell(text, bold=test.real)


def _p(test):
    return f"{test.corrected:.3f}" if test.corrected >= 0.001 else "< 0.001"
