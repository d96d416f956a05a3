"""Tables like the thesis's: one row an activation, accuracy beside robustness, ours beside the published.

The caption is written once, in plain text, and so are the cells; `to_tex`, `to_markdown` and `to_csv` only
set them. All three say the same.
"""

import csv
import io
import itertools
from dataclasses import dataclass, field, replace

from .. import registry
from ..config.slices import WORST_CASE, ball
from ..registry import label
from . import differences, marks, sheets, statistics
from .latex import tex
from .sheets import Sheet, markdown
from .summary import clean_accuracy, clean_attack, over_seeds, trade_off

NOT_RUN = "–"
OURS, PUBLISHED = "This run", "Published"
# More attacks than this have no columns of their own beside those that are always there.
_MANY_ATTACKS = 2

# how the best trade-off is set, in LaTeX and in Markdown
_UNDERLINED, _ITALIC = "Underlined:", "Italic:"

# Settings of an attack that its description spells out, in this order.
_DESCRIBED = {
    "eps": "ε = {}",
    "step": "step {}",
    "iterations": "{} iterations",
    "restarts": "{} random restarts",
    "loss": "loss {}",
    "targets": "towards {} classes in turn",
    "backward": "backward {}",
    "queries": "{} queries",
}


@dataclass(frozen=True)
class Column:
    """A column of numbers: `key` names it in the CSV file, `head` is what a reader sees."""

    key: str
    head: str
    group: str = OURS
    attack: str | None = None  # whose verdicts; None: of none, the clean accuracy

    @property
    def published(self):
        return self.group == PUBLISHED


@dataclass(frozen=True)
class Cell:
    """A number in percent, how it varies over seeds, and how it is marked."""

    percent: float | None = None
    deviation: float | None = None
    n: int = 0
    low: float | None = None  # ends of the 95 % interval, in percent
    high: float | None = None
    bold: bool = False
    underline: bool = False

    @property
    def interval(self):
        """The interval in print: only of a single seed, whose neighbour would otherwise be the deviation."""
        return None if self.low is None or self.deviation is not None else f"{self.low:.1f}–{self.high:.1f}"


@dataclass(frozen=True)
class Line:
    """A row: an activation and its cells, in the order of the columns."""

    activation: str
    label: str
    overfitting: str
    cells: tuple
    marks: dict = field(default_factory=dict)  # of `marks.of`

    @property
    def mark(self):
        """What stands behind the name, as the caption explains."""
        return "".join(mark.sign for mark in self.marks)


@dataclass(frozen=True)
class Table:
    """What a table says, however it is set."""

    experiment: str
    columns: tuple
    lines: tuple
    title: str
    caption: str


def every(rows, runs, experiment, settings, published=None, missing=None, failed=None):
    """All tables of one experiment, as texts by the end of their files' names: ".tex", "_attacks.csv", ...

    Args:
        rows: of the summary, those of other experiments too.
        runs: of the manifest.
        experiment, settings, published, failed: as for :func:`build`.
        missing: as for `summary.summarize`.
    """
    of_experiment = [run for run in runs if run.experiment == experiment]
    tested = differences.differences(of_experiment, settings, missing)
    table = build(rows, experiment, settings, published, differences.sentence(tested), failed)
    texts = {".tex": to_tex(table), ".csv": to_csv(table), ".md": to_markdown(table)}
    for name, sheet in (
        ("attacks", by_attack(rows, experiment, settings)),
        ("differences", differences.sheet(tested, experiment, settings)),
    ):
        texts[f"_{name}.tex"] = sheets.to_tex(sheet)
        texts[f"_{name}.csv"] = sheets.to_csv(sheet)
        texts[f"_{name}.md"] = sheets.to_markdown(sheet)
    return texts


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
        said_of_differences: in the caption, see `differences.sentence`.
        failed: activation -> the checks that its evaluation cards fail (`diagnostics.table.marks`); None
            where no network has a card.
    """
    every, rows = rows, [row for row in rows if row["experiment"] == experiment]
    beside = _beside(every, settings)
    attacks = _columns_of_attacks(rows, settings)
    columns = _columns(attacks, settings, published, beside)
    of_activation = {
        name: [row for row in rows if row["activation"] == name] for name in settings["activations"]
    }
    cells = [
        _column_cells(
            beside if beside and column.group == settings["beside"]["title"] else rows,
            column,
            settings,
            published,
        )
        for column in columns
    ]
    unfit = _unfit(columns, cells, 100 * marks.chance(rows))
    unfit[OURS] |= {
        i for i, found in enumerate(of_activation.values()) if marks.share_without_gradient(found)
    }
    best = _best_trade_off(cells, unfit[OURS])
    lines = tuple(
        Line(
            name,
            label(name),
            marks.overfitting(of_activation[name]),
            tuple(
                _marked(i, column, column_of, name, i == best, unfit, published)
                for column, column_of in zip(cells, columns, strict=True)
            ),
            marks.of(of_activation[name], settings, tuple((failed or {}).get(name, ()))),
        )
        for i, name in enumerate(settings["activations"])
    )
    caption = _caption(rows, settings, attacks, lines, published, beside, said_of_differences)
    return Table(experiment, columns, lines, settings["title"], caption)


def _attacks(rows, settings):
    """The attacks that were run, but for the headline's and clean ones, in the configuration's order."""
    run = {row["attack"] for row in rows}
    return [
        name
        for name, attack in settings["attacks"].items()
        if name in run and name != settings["headline"] and attack["method"] != "clean"
    ]


def _columns_of_attacks(rows, settings):
    """The attacks with a column beside the headline's: the worst case, the thesis protocol, a few others."""
    attacks = _attacks(rows, settings)
    is_thesis = {name: settings["attacks"][name]["method"] == "thesis_pgd" for name in attacks}
    if len(attacks) - sum(is_thesis.values()) > _MANY_ATTACKS:
        attacks = [name for name in attacks if is_thesis[name]]
    worst = settings["headline"] != WORST_CASE and any(row["attack"] == WORST_CASE for row in rows)
    return [*([WORST_CASE] if worst else []), *attacks]


def _beside(rows, settings):
    """The rows of the experiment that stands beside this one, none when it was not run."""
    experiment = settings.get("beside", {}).get("experiment")
    return [row for row in rows if row["experiment"] == experiment]


def _columns(attacks, settings, published, beside):
    headline = settings["headline"]
    columns = [Column("accuracy", "Accuracy"), Column("robustness", "Robustness", attack=headline)]
    columns += [Column(name, _head(name, settings), attack=name) for name in attacks]
    if beside:
        group, name = settings["beside"]["title"], settings["beside"]["experiment"]
        columns += [Column(f"{name}_{c.key}", c.head, group, c.attack) for c in columns]
    if published:
        columns.append(Column("published_accuracy", "Accuracy", PUBLISHED))
        columns.append(Column("published_robustness", "Robustness", PUBLISHED))
    return tuple(columns)


def _head(attack, settings):
    if attack == WORST_CASE:
        return "Worst case"
    is_thesis = settings["attacks"][attack]["method"] == "thesis_pgd"
    return "Robustness (thesis protocol)" if is_thesis else f"Under {attack}"


def _column_cells(rows, column, settings, published):
    cells = []
    for name in settings["activations"]:
        if column.published:
            quantity = column.key.removeprefix("published_")
            cells.append(Cell(published["results"].get(name, {}).get(quantity)))
        elif column.attack is None:
            attacks = (clean_attack(rows), settings["headline"])
            accuracy = clean_accuracy(rows, name, settings["headline"])
            cells.append(_cell(accuracy, _examples(rows, name, attacks)))
        else:
            accuracy = over_seeds(rows, name, column.attack)
            cells.append(_cell(accuracy, _examples(rows, name, (column.attack,))))
    return cells


def _examples(rows, activation, attacks):
    """How many images the first of `attacks` that was run on an activation was run on, 0 for none."""
    for attack in attacks:
        for row in rows:
            if row["activation"] == activation and row["attack"] == attack:
                return row["examples"]
    return 0


def _cell(statistic, examples):
    if statistic is None:
        return Cell()
    deviation = None if statistic.deviation is None else 100 * statistic.deviation
    interval = statistics.wilson(statistic.mean * examples, examples)
    return Cell(100 * statistic.mean, deviation, statistic.n, 100 * interval.low, 100 * interval.high)


def _unfit(columns, cells, chance):
    """Of each group of columns the rows whose accuracy, the group's first column, is not above chance: what
    stands there is the best of nothing."""
    first = {}
    for column, of_column in zip(columns, cells, strict=True):
        first.setdefault(column.group, of_column)
    return {
        group: {i for i, cell in enumerate(found) if cell.low is not None and cell.low <= chance}
        for group, found in first.items()
    }


def _best_trade_off(cells, unfit):
    """The row of the best trade-off of the first two columns, or None when fewer than two rows have both.

    A network in `unfit` is not the best of anything, and another beside it may be.
    """
    scores = {
        i: trade_off(accuracy.percent, robustness.percent)
        for i, (accuracy, robustness) in enumerate(zip(cells[0], cells[1], strict=True))
        if accuracy.percent is not None and robustness.percent is not None
    }
    above = {i: score for i, score in scores.items() if i not in unfit}
    return max(above, key=above.get) if len(scores) > 1 and above else None


def _marked(row, cells, column, activation, is_best_trade_off, unfit, published):
    cell = cells[row]
    if cell.percent is None:
        return cell
    if column.published:
        quantity = column.key.removeprefix("published_")
        bold = published["marks"][quantity] == activation
        underline = published["marks"]["trade_off"] == activation
    else:
        given = {i: _number(other.percent) for i, other in enumerate(cells) if other.percent is not None}
        printed = [number for i, number in given.items() if i not in unfit[column.group]]
        # what is printed decides, so that equal numbers are marked alike
        bold = row not in unfit[column.group] and len(given) > 1 and given[row] == max(printed, key=float)
        underline = is_best_trade_off and column.key in ("accuracy", "robustness")
    return replace(cell, bold=bold, underline=underline)


def _caption(rows, settings, attacks, lines, published, beside, said_of_differences):
    headline = settings["headline"]
    datasets = dict.fromkeys(_dataset_label(row["dataset"]) for row in rows)
    where = f" on {', '.join(datasets)}" if datasets else ""
    sentences = [
        f"{settings['title']}{where}: accuracy and robustness in percent{_spread(lines)}.",
        f"Accuracy: correct on {_images(rows, (clean_attack(rows), headline))} without an attack.",
        f"Robustness: still correct {_against_named(headline, settings)}, on {_images(rows, (headline,))}.",
    ]
    for name in attacks:
        images = _images(rows, (name,))
        if name == WORST_CASE:
            sentences.append(f"Worst case: still correct {_against_named(name, settings)}, on {images}.")
            continue
        attack = settings["attacks"][name]
        details = _details(attack)
        if headline != WORST_CASE and details == _details(settings["attacks"][headline]):
            details = "same settings"
        if attack["method"] == "thesis_pgd":
            sentences.append(
                f"Robustness (thesis protocol): as the published numbers were measured ({details}, on "
                f"{images}); the attack has no labels and so attacks the model's own prediction, keeps the "
                f"one restart that is best over the whole set, and an image that is wrong without the attack "
                f"may count as robust: it overstates robustness."
            )
        else:
            sentences.append(f"Under {name}: still correct {_against(attack)}, on {images}.")
    if published:
        sentences.append(
            f"Published: {' '.join(published['source'].split())}; one seed, robustness by the thesis "
            f"protocol, its best marked as printed there."
        )
    if settings.get("weights") == "published":
        sentences.append(
            "The networks are the author's own, their published weights, and nothing was trained here: what "
            "differs from the published columns differs by the measurement alone. Robustness counts an image "
            "that no restart turned from its true label; the published one is that of the thesis protocol."
        )
    if beside:
        sentences.append(
            f"{settings['beside']['title']}: the same weights, every step of a KAF's formula rounded to "
            f"float16 as in the thesis's training and evaluation. What differs from the other columns is "
            f"rounding: it shows where large coefficients of alternating sign cancel, as in a KAF that "
            f"started from a ridge fit. The attack follows the exact derivatives there, so rounding is also "
            f"noise in its way."
        )
    if said_of_differences:
        sentences.append(said_of_differences)
    if any(cell.interval for line in lines for cell in line.cells):
        sentences.append(
            "Beside a number of one seed: its Wilson 95% interval, for the choice of test images."
        )
    sentences.append(
        f"Bold: best of its column. {_UNDERLINED} best trade-off, the highest harmonic mean of accuracy and "
        "robustness."
    )
    if any(cell.percent is None for line in lines for cell in line.cells):
        sentences.append(f"{NOT_RUN}: not run.")
    sentences += marks.sentences({line.label: line.marks for line in lines})
    return " ".join(sentences)


def _spread(lines):
    """What the ± stands for, in words, or nothing when every cell is of one seed."""
    counts = {line.label: max(cell.n for cell in line.cells) for line in lines}
    most = max(counts.values(), default=0)
    if most < 2:
        return ", one seed"
    fewer = [f"{name} {n}" for name, n in counts.items() if 0 < n < most]
    return f", mean ± sample standard deviation over n = {most} seeds" + (
        f" ({', '.join(fewer)})" if fewer else ""
    )


def _images(rows, attacks):
    """How many test images the first of `attacks` that was run was run on."""
    for attack in attacks:
        counts = sorted({row["examples"] for row in rows if row["attack"] == attack})
        if counts:
            return " or ".join(f"{count:,}" for count in counts) + " test images"
    return "no image yet"


def _against_named(attack, settings):
    """An attack by its name, or the worst case of several, in words."""
    if attack != WORST_CASE:
        return _against(settings["attacks"][attack])
    merged = [settings["attacks"][name] for name in settings["worst_case"]]
    names = ", ".join(settings["worst_case"])
    return f"under every one of {names} against the true labels ({_details(_of_the_ball(merged[0]))})"


def _of_the_ball(attack):
    norm, _ = ball(attack)
    return {"method": attack["method"], "norm": norm, "eps": attack["eps"]}


def _against(attack):
    """An attack on the true labels, in words."""
    entry = registry.ATTACKS.get(attack["method"])
    name = entry.label if entry and entry.label else attack["method"]
    every = "under every random restart of " if attack.get("restarts", 1) > 1 else "under "
    return f"{every}{name} against the true labels ({_details(attack)})"


def _details(attack):
    parts = [words.format(attack[key]) for key, words in _DESCRIBED.items() if attack.get(key) is not None]
    default = registry.ATTACKS[attack["method"]].norm if attack["method"] in registry.ATTACKS else "linf"
    norm = {"linf": "L∞", "l2": "L2"}[attack.get("norm", default)]
    return ", ".join([norm, *parts]).replace("1 random restarts", "1 random start", 1 if parts else 0)


def _dataset_label(dataset):
    entry = registry.DATASETS.get(dataset)
    return entry.label if entry and entry.label else dataset


def _number(percent):
    return f"{percent:.2f}"


# Setting


def to_csv(table):
    """The table as CSV: percent, deviation over seeds, their number and the 95 % interval of each column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"{c.key}{part}" for c in table.columns for part in _parts(c)]
    writer.writerow(["activation", "label", "catastrophic_overfitting", "marks", *heads])
    for line in table.lines:
        values = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            parts = [cell.percent, cell.deviation, cell.n, cell.low, cell.high][: len(_parts(column))]
            values += ["" if v is None else v if isinstance(v, int) else _number(v) for v in parts]
        names = " ".join(mark.name for mark in line.marks)
        writer.writerow([line.activation, line.label, line.overfitting, names, *values])
    return file.getvalue()


def _parts(column):
    return ("",) if column.published else ("", "_std", "_seeds", "_low", "_high")


def to_markdown(table):
    """The table as a Markdown table, its columns padded so that it reads well in a terminal too."""
    heads = [c.head if c.group == OURS else f"{c.group} {c.head.lower()}" for c in table.columns]
    rows = []
    for line in table.lines:
        rows.append([f"{line.label}{' ' if line.mark else ''}{line.mark}", *map(_markdown_cell, line.cells)])
    return markdown(["Activation", *heads], rows, table.caption.replace(_UNDERLINED, _ITALIC))


def _markdown_cell(cell):
    if cell.percent is None:
        return NOT_RUN
    text = _number(cell.percent)
    if cell.bold:
        text = f"**{text}**"
    if cell.underline:
        text = f"*{text}*"  # Markdown cannot underline, and a terminal shows HTML as it is
    if cell.interval:
        return f"{text} ({cell.interval})"
    return text if cell.deviation is None else f"{text} ± {_number(cell.deviation)}"


def to_tex(table):
    """The table as a LaTeX float; needs the package booktabs."""
    heads = " & ".join(_tex_head(column.head, len(table.columns)) for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption[{{{tex(table.title)}}}]{{{tex(table.caption)}}}",
        rf"\label{{tab:{table.experiment}}}",
        r"\smallskip",
        _tex_size(table),
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *_tex_groups(table.columns),
        rf"Activation & {heads} \\",
        r"\midrule",
        *(_tex_line(line) for line in table.lines),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


_MANY_COLUMNS = 8
_BREAK = r"\\"


def _tex_size(table):
    """The largest size in which that many columns stay within the text width of a plain article."""
    deviations = any(cell.deviation is not None for line in table.lines for cell in line.cells)
    columns = len(table.columns) + deviations
    if columns < 6:
        return r"\small\setlength{\tabcolsep}{4pt}"
    if columns < _MANY_COLUMNS:
        return r"\footnotesize\setlength{\tabcolsep}{2pt}"
    if columns < _MANY_COLUMNS + 2:
        return r"\scriptsize\setlength{\tabcolsep}{1.5pt}"
    return r"\fontsize{6}{7}\selectfont\setlength{\tabcolsep}{0.9pt}"


def _tex_groups(columns):
    """A line above the heads that says which columns belong together, when there are several groups."""
    groups = [(name, len(list(members))) for name, members in itertools.groupby(columns, lambda c: c.group)]
    if len(groups) == 1:
        return []
    heads, rules, first = "", [], 2
    for i, (name, count) in enumerate(groups):
        heads += rf"& \multicolumn{{{count}}}{{c}}{{{tex(name)}}} "
        trim = "l" if i == len(groups) - 1 else "lr"
        rules.append(rf"\cmidrule({trim}){{{first}-{first + count - 1}}}")
        first += count
    return [rf"{heads}\\", " ".join(rules)]


def _tex_head(head, columns):
    """A head on two lines, or on as many as make it narrow where there are many columns."""
    if columns < _MANY_COLUMNS:
        words = head.split(" ", 1)
    else:
        words = head.replace("Robustness", "Robust- ness").split()
    return rf"\shortstack{{{_BREAK.join(map(tex, words))}}}" if words[1:] else tex(head)


def _tex_line(line):
    name = tex(line.label + line.mark)
    return " & ".join([name, *map(_tex_cell, line.cells)]) + r" \\"


def _tex_cell(cell):
    if cell.percent is None:
        return tex(NOT_RUN)
    text = _number(cell.percent)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    if cell.underline:
        text = rf"\underline{{{text}}}"
    if cell.interval:
        return rf"\shortstack[r]{{{text}\\[-2pt]{{\tiny {tex(cell.interval)}}}}}"
    return text if cell.deviation is None else rf"{text}{{\scriptsize\,$\pm$\,{_number(cell.deviation)}}}"


def by_attack(rows, experiment, settings):
    """Accuracy under every attack that was run: a row an attack, a column an activation.

    Args:
        rows, experiment, settings: as for :func:`build`.
    """
    rows = [row for row in rows if row["experiment"] == experiment]
    run = {row["attack"] for row in rows}
    attacks = [name for name in (*settings["attacks"], WORST_CASE) if name in run]
    printed, records = [], []
    for attack in attacks:
        of_attack = [row for row in rows if row["attack"] == attack]
        found = {name: over_seeds(of_attack, name, attack) for name in settings["activations"]}
        seconds = _mean(of_attack, "evaluation_seconds")
        cells = [_number(100 * one.mean) if one else NOT_RUN for one in found.values()]
        printed.append((attack, *cells, f"{seconds:.0f}"))
        records.append(
            {
                "attack": attack,
                "method": of_attack[0]["method"],
                "eps": of_attack[0]["eps"],
                "examples": of_attack[0]["examples"],
                **{name: None if one is None else _number(100 * one.mean) for name, one in found.items()},
                "seconds": f"{seconds:.1f}",
                "queries": round(_mean(of_attack, "queries")),
            }
        )
    described = "; ".join(
        f"{name}: {_details(attack)}"
        for name, attack in settings["attacks"].items()
        if name in run and ball(attack)
    )
    caption = (
        f"{settings['title']}: percent of {_images(rows, attacks)} still correct under each attack, mean "
        f"over the seeds, and how many seconds the attack took per network. {described}."
    )
    if WORST_CASE in attacks:
        caption += f" {WORST_CASE}: correct under every one of {', '.join(settings['worst_case'])}."
    heads = ("Attack", *map(label, settings["activations"]), "s")
    title = f"{settings['title']}: attacks"
    return Sheet(f"{experiment}_attacks", title, caption, heads, tuple(printed), tuple(records) or ({},))


def _mean(rows, quantity):
    """The mean of a quantity over all of `rows`."""
    return sum(row[quantity] for row in rows) / len(rows)
