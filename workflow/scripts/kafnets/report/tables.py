"""Tables like the thesis's: one row an activation, accuracy beside robustness, ours beside the published.

Here is decided what stands in the tables; `captions` says what it means, `typesetting` sets both.
"""

from dataclasses import dataclass

from ..config.slices import OWN_WEIGHTS, WORST_CASE
from ..registry import label
from ..runtime.errors import optional
from . import captions, differences, json_tables, marks, typesetting
from .summary import clean_accuracy, in_percent, over_seeds, trade_off
from .typesetting import NOT_RUN, Cell, Column, Table

OURS, PUBLISHED = "This run", "Published"
# More attacks than this have no columns of their own beside those that are always there.
_MANY_ATTACKS = 2


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers: `key` names it in the CSV file, `head` and `group` are what a reader sees."""

    key: str
    head: str
    group: str = OURS
    attack: str | None = None  # whose verdicts; None: of none, the clean accuracy

    @property
    def is_published(self):
        return self.group == PUBLISHED


def texts(rows, runs, experiment, settings, published=None, missing=None, failed=None):
    """All tables of one experiment, as texts by the end of their files' names: ".tex", "_attacks.csv", ...

    There is one of differences where there is more than one activation.

    Args:
        rows: of the summary, those of other experiments too.
        runs: of the manifest.
        experiment, settings, published, failed: as for :func:`build`.
        missing: as for `summary.summarize`.
    """
    of_experiment = [run for run in runs if run.experiment == experiment]
    tested = differences.differences(of_experiment, settings, missing)
    said = captions.differences_in_one_sentence(tested)
    found = {
        "": build(rows, experiment, settings, published, said, failed),
        "_attacks": by_attack(rows, experiment, settings),
    }
    if len(settings["activations"]) > 1:
        found["_differences"] = of_differences(tested, experiment, settings)
    kinds = {
        ".tex": typesetting.to_tex,
        ".csv": typesetting.to_csv,
        ".md": typesetting.to_markdown,
        ".json": json_tables.to_json,
    }
    return {f"{name}{end}": kind(table) for name, table in found.items() for end, kind in kinds.items()}


# -- the main table


def build(rows, experiment, settings, published=None, said_of_differences="", failed=None):
    """The table of one experiment.

    Args:
        rows: the rows of the summary (`summary.read_rows`) of the experiment, and of the one beside it.
        experiment: its name.
        settings: {"title", "activations" in the order of the rows, "reference" or None, "headline": the
            attack whose accuracy is the robustness, or "worst_case", "attacks": {name: settings},
            "worst_case": the names of those that are merged, "weights": "published" where nothing was
            trained, "beside": {"experiment", "title"} of an experiment on the same weights whose columns
            follow, or {}}; the last three may be absent.
        published: the experiment's entry of thesis_results.yaml, or None.
        said_of_differences: in the caption, see `captions.differences_in_one_sentence`.
        failed: activation -> the checks that its evaluation cards fail (`cards.failed_checks`); None where
            no network has a card.
    """
    beside = rows[rows["experiment"] == settings.get("beside", {}).get("experiment")]
    rows = rows[rows["experiment"] == experiment]
    attacks = _columns_of_attacks(rows, settings)
    columns = _columns(attacks, settings, published, len(beside) > 0)
    numbers = _numbers(rows, beside, columns, settings, published)
    of_activation = {name: rows[rows["activation"] == name] for name in settings["activations"]}
    marked = {
        name: marks.of(found, settings, tuple((failed or {}).get(name, ())))
        for name, found in of_activation.items()
    }
    unfit = {OURS: _unfit(rows, settings), settings.get("beside", {}).get("title"): _unfit(beside, settings)}
    best = _best_trade_off(numbers, unfit[OURS])
    cells = [_cells(column, numbers.loc[column.key], unfit, best, published) for column in columns]
    names = [_name(name, marked[name]) for name in settings["activations"]]
    by_label = {label(name): found for name, found in marked.items()}
    return Table(
        name=experiment,
        title=settings["title"],
        caption=captions.results(
            rows, settings, attacks, numbers, by_label, published, len(beside) > 0, said_of_differences, cells
        ),
        columns=(Column(_first_head(settings)), *(Column(column.head, column.group) for column in columns)),
        rows=tuple(zip(names, *cells, strict=True)),
        records=tuple(
            _record(name, marks.overfitting(found), marked[name], columns, numbers)
            for name, found in of_activation.items()
        ),
        breaks_heads=True,
    )


def _first_head(settings):
    return "Network" if settings.get("weights") == OWN_WEIGHTS else "Activation"


def _columns_of_attacks(rows, settings):
    """The attacks with a column beside the headline's: the worst case, the thesis protocol, a few others."""
    headline, run = settings["headline"], set(rows["attack"])
    methods = {
        name: attack["method"]
        for name, attack in settings["attacks"].items()
        if name in run and name != headline and attack["method"] != "clean"
    }
    thesis = [name for name, method in methods.items() if method == "thesis_pgd"]
    names = thesis if len(methods) - len(thesis) > _MANY_ATTACKS else list(methods)
    return [WORST_CASE, *names] if headline != WORST_CASE and WORST_CASE in run else names


def _columns(attacks, settings, published, has_beside):
    headline = settings["headline"]
    columns = [_Numbers("accuracy", "Accuracy"), _Numbers("robustness", "Robustness", attack=headline)]
    columns += [_Numbers(name, _head(name, settings), attack=name) for name in attacks]
    if has_beside:
        group, name = settings["beside"]["title"], settings["beside"]["experiment"]
        columns += [_Numbers(f"{name}_{c.key}", c.head, group, c.attack) for c in columns]
    if published:
        columns.append(_Numbers("published_accuracy", "Accuracy", PUBLISHED))
        columns.append(_Numbers("published_robustness", "Robustness", PUBLISHED))
    return columns


def _head(attack, settings):
    if attack == WORST_CASE:
        return "Worst case"
    is_thesis = settings["attacks"][attack]["method"] == "thesis_pgd"
    return "Robustness (thesis protocol)" if is_thesis else f"Under {attack}"


_FIGURES = ("percent", "deviation", "seeds", "low", "high")


def _numbers(rows, beside, columns, settings, published):
    """What stands in the columns, as a DataFrame indexed by (column's key, activation).

    Its columns: percent, its deviation over the seeds, their number, the ends of the 95 % interval in
    percent; NaN (of seeds 0) where there is none.
    """
    pandas = optional("pandas", "report")
    found = {}
    for column in columns:
        if column.is_published:
            quantity = column.key.removeprefix("published_")
            figures = pandas.DataFrame({"percent": pandas.DataFrame(published["results"]).loc[quantity]})
        else:
            source = rows if column.group == OURS else beside
            figures = in_percent(
                clean_accuracy(source, settings["headline"])
                if column.attack is None
                else over_seeds(source, column.attack)
            )
        found[column.key] = figures.reindex(index=settings["activations"], columns=_FIGURES)
    numbers = pandas.concat(found, names=["column", "activation"])
    return numbers.fillna({"seeds": 0}).astype({"seeds": int})


def _unfit(rows, settings):
    """The activations with a network of which nothing may be called the best."""
    return {name for name in settings["activations"] if marks.is_unfit(rows[rows["activation"] == name])}


def _best_trade_off(numbers, unfit):
    """The activation of the best trade-off, or None when fewer than two have both accuracy and robustness.

    A network in `unfit` is not the best of anything, and another beside it may be.
    """
    accuracy, robustness = (numbers.loc[key, "percent"] for key in ("accuracy", "robustness"))
    scores = accuracy.combine(robustness, trade_off).dropna()
    above = scores[[name not in unfit for name in scores.index]]
    return above.idxmax() if len(scores) > 1 and len(above) else None


def _cells(column, figures, unfit, best, published):
    """The cells of one column."""
    if column.is_published:
        printed_best = published["marks"]
        bold = {printed_best[column.key.removeprefix("published_")]}
        underlined = {printed_best["trade_off"]}
    else:
        # what is printed decides, so that equal numbers are marked alike
        given = {name: _number(percent) for name, percent in figures["percent"].dropna().items()}
        above = {name: number for name, number in given.items() if name not in unfit[column.group]}
        most = max(above.values(), key=float, default=None)
        bold = {name for name, number in above.items() if number == most and len(given) > 1}
        underlined = {best} if column.key in ("accuracy", "robustness") else set()
    return [_cell(row, row.Index in bold, row.Index in underlined) for row in figures.itertuples()]


def _cell(figures, bold, underlined):
    if _absent(figures.percent):
        return Cell(NOT_RUN)
    deviation, interval = "", ""
    if not _absent(figures.deviation):
        deviation = _number(figures.deviation)
    elif not _absent(figures.low):
        interval = f"{figures.low:.1f}–{figures.high:.1f}"
    return Cell(_number(figures.percent), bold, underlined, deviation, interval)


def _name(activation, marked):
    return Cell(label(activation), note="".join(mark.sign for mark in marked))


def _record(activation, overfitting, marked, columns, numbers):
    """A line of the CSV file: percent, deviation over seeds, their number and the 95 % interval."""
    record = {
        "activation": activation,
        "label": label(activation),
        "catastrophic_overfitting": overfitting,
        "marks": " ".join(mark.name for mark in marked),
    }
    for column in columns:
        figures = numbers.loc[(column.key, activation)]
        record[column.key] = _number(figures["percent"])
        if not column.is_published:
            record[f"{column.key}_std"] = _number(figures["deviation"])
            record[f"{column.key}_seeds"] = int(figures["seeds"])
            record[f"{column.key}_low"] = _number(figures["low"])
            record[f"{column.key}_high"] = _number(figures["high"])
    return record


def _number(percent):
    return "" if _absent(percent) else f"{percent:.2f}"


def _absent(number):
    return number != number  # NaN


# -- every attack


def by_attack(rows, experiment, settings):
    """Accuracy under every attack that was run: a row an attack, a column an activation.

    Args:
        rows, experiment, settings: as for :func:`build`.
    """
    rows = rows[rows["experiment"] == experiment]
    run = set(rows["attack"])
    names = [name for name in (*settings["attacks"], WORST_CASE) if name in run]
    percent = 100 * rows.pivot_table("accuracy", "attack", "activation", "mean").reindex(
        index=names, columns=settings["activations"]
    )
    facts = rows.groupby("attack").agg(
        method=("method", "first"),
        eps=("eps", "first"),
        examples=("examples", "first"),
        seconds=("evaluation_seconds", "mean"),
        queries=("queries", "mean"),
    )
    printed, records = [], []
    for attack in names:
        of_attack, accuracies = facts.loc[attack], percent.loc[attack].map(_number)
        cells = (attack, *(number or NOT_RUN for number in accuracies), f"{of_attack.seconds:.0f}")
        printed.append(tuple(map(Cell, cells)))
        records.append(
            {
                "attack": attack,
                "method": of_attack.method,
                "eps": "" if _absent(of_attack.eps) else of_attack.eps,
                "examples": of_attack.examples,
                **accuracies,
                "seconds": f"{of_attack.seconds:.1f}",
                "queries": round(of_attack.queries),
            }
        )
    return Table(
        name=f"{experiment}_attacks",
        title=f"{settings['title']}: attacks",
        caption=captions.attacks(rows, settings, names),
        columns=tuple(map(Column, ("Attack", *map(label, settings["activations"]), "s"))),
        rows=tuple(printed),
        records=tuple(records) or ({},),
    )


# -- differences between activations


def of_differences(tested, experiment, settings):
    """The differences (`differences.differences`) as a table: a row a pair, the real ones bold."""
    by_pair = {}
    for test in tested:
        by_pair.setdefault((test.first, test.second), {})[test.quantity] = test
    rows = [
        (
            Cell(" − ".join(map(label, pair))),
            *(cell for quantity in differences.QUANTITIES for cell in _of_test(tests[quantity])),
        )
        for pair, tests in by_pair.items()
    ]
    return Table(
        name=f"{experiment}_differences",
        title=f"{settings['title']}: differences",
        caption=captions.differences(tested, settings["title"]),
        columns=tuple(map(Column, ("Activations", "Accuracy", "p", "Robustness", "p"))),
        rows=tuple(rows),
        records=tuple(map(differences.record, tested)) or (dict.fromkeys(differences.FIELDS),),
    )


def _of_test(test):
    """A difference with its interval, in percentage points, and its p-value."""
    estimate, low, high = (100 * number for number in (test.found.estimate, test.found.low, test.found.high))
    points = f"{estimate:+.2f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
    p_value = f"{test.corrected:.3f}" if test.corrected >= 0.001 else "< 0.001"
    return Cell(points, bold=test.real), Cell(p_value, bold=test.real)
