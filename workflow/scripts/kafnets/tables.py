"""Tables like the thesis's: one row an activation, accuracy beside robustness, ours beside the published.

The caption is written once, in plain text, and so are the cells; `to_tex`, `to_markdown` and `to_csv` only
set them. All three say the same.
"""

import csv
import io
import itertools
import textwrap
from dataclasses import dataclass

from . import registry
from .summary import OVERFITTING, clean_accuracy, clean_attack, label, over_seeds, trade_off

NOT_RUN = "–"
OURS, PUBLISHED = "This run", "Published"
DAGGERS = {"at_end": "†", "recovered": "‡"}

# Settings of an attack that its description spells out, in this order.
_DESCRIBED = {
    "eps": "ε = {}",
    "step": "step {}",
    "iterations": "{} iterations",
    "restarts": "{} random restarts",
    "loss": "loss {}",
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
    bold: bool = False
    underline: bool = False


@dataclass(frozen=True)
class Line:
    """A row: an activation and its cells, in the order of the columns."""

    activation: str
    label: str
    overfitting: str
    cells: tuple


@dataclass(frozen=True)
class Table:
    """What a table says, however it is set."""

    experiment: str
    columns: tuple
    lines: tuple
    title: str
    caption: str


def build(rows, experiment, settings, published=None):
    """The table of one experiment.

    Args:
        rows: the rows of the summary (`summary.read_rows`) of the experiment, and of the one beside it.
        experiment: its name.
        settings: {"title", "activations" in the order of the rows, "reference" or None, "headline": the
            attack whose accuracy is the robustness, "attacks": {name: settings}, "weights": "published" where
            nothing was trained, "beside": {"experiment", "title"} of an experiment on the same weights whose
            columns follow, or {}}; the last two may be absent.
        published: the experiment's entry of thesis_results.yaml, or None.
    """
    every, rows = rows, [row for row in rows if row["experiment"] == experiment]
    beside = _beside(every, settings)
    attacks = _attacks(rows, settings)
    columns = _columns(attacks, settings, published, beside)
    overfitting = {name: _overfitting(rows, name) for name in settings["activations"]}
    cells = [
        _column_cells(
            beside if beside and column.group == settings["beside"]["title"] else rows,
            column,
            settings,
            published,
        )
        for column in columns
    ]
    best = _best_trade_off(cells)
    lines = tuple(
        Line(
            name,
            label(name),
            overfitting[name],
            tuple(
                _marked(column[i], column, column_of, name, i == best, published)
                for column, column_of in zip(cells, columns, strict=True)
            ),
        )
        for i, name in enumerate(settings["activations"])
    )
    caption = _caption(rows, settings, attacks, lines, published, beside)
    return Table(experiment, columns, lines, settings["title"], caption)


def _attacks(rows, settings):
    """The attacks that were run, but for the headline's and clean ones, in the configuration's order."""
    run = {row["attack"] for row in rows}
    return [
        name
        for name, attack in settings["attacks"].items()
        if name in run and name != settings["headline"] and attack["method"] != "clean"
    ]


def _beside(rows, settings):
    """The rows of the experiment that stands beside this one, none when it was not run."""
    experiment = settings.get("beside", {}).get("experiment")
    return [row for row in rows if row["experiment"] == experiment]


def _columns(attacks, settings, published, beside):
    headline = settings["headline"]
    columns = [Column("accuracy", "Accuracy"), Column("robustness", "Robustness", attack=headline)]
    for name in attacks:
        is_thesis = settings["attacks"][name]["method"] == "thesis_pgd"
        head = "Robustness (thesis protocol)" if is_thesis else f"Under {name}"
        columns.append(Column(name, head, attack=name))
    if beside:
        group, name = settings["beside"]["title"], settings["beside"]["experiment"]
        columns += [Column(f"{name}_{c.key}", c.head, group, c.attack) for c in columns]
    if published:
        columns.append(Column("published_accuracy", "Accuracy", PUBLISHED))
        columns.append(Column("published_robustness", "Robustness", PUBLISHED))
    return tuple(columns)


def _column_cells(rows, column, settings, published):
    cells = []
    for name in settings["activations"]:
        if column.published:
            quantity = column.key.removeprefix("published_")
            cells.append(Cell(published["results"].get(name, {}).get(quantity)))
        elif column.attack is None:
            cells.append(_cell(clean_accuracy(rows, name, settings["headline"])))
        else:
            cells.append(_cell(over_seeds(rows, name, column.attack)))
    return cells


def _cell(statistic):
    if statistic is None:
        return Cell()
    deviation = None if statistic.deviation is None else 100 * statistic.deviation
    return Cell(100 * statistic.mean, deviation, statistic.n)


def _best_trade_off(cells):
    """The row of the best trade-off of the first two columns, or None when fewer than two rows have both."""
    scores = {
        i: trade_off(accuracy.percent, robustness.percent)
        for i, (accuracy, robustness) in enumerate(zip(cells[0], cells[1], strict=True))
        if accuracy.percent is not None and robustness.percent is not None
    }
    return max(scores, key=scores.get) if len(scores) > 1 else None


def _marked(cell, cells, column, activation, is_best_trade_off, published):
    if cell.percent is None:
        return cell
    if column.published:
        quantity = column.key.removeprefix("published_")
        bold = published["marks"][quantity] == activation
        underline = published["marks"]["trade_off"] == activation
    else:
        printed = [_number(other.percent) for other in cells if other.percent is not None]
        # what is printed decides, so that equal numbers are marked alike
        bold = len(printed) > 1 and _number(cell.percent) == max(printed, key=float)
        underline = is_best_trade_off and column.key in ("accuracy", "robustness")
    return Cell(cell.percent, cell.deviation, cell.n, bold, underline)


def _overfitting(rows, activation):
    seen = [row["catastrophic_overfitting"] for row in rows if row["activation"] == activation]
    worst = [OVERFITTING.index(verdict) for verdict in seen if verdict is not None]
    return OVERFITTING[max(worst, default=0)]


def _caption(rows, settings, attacks, lines, published, beside):
    headline = settings["headline"]
    datasets = dict.fromkeys(_dataset_label(row["dataset"]) for row in rows)
    where = f" on {', '.join(datasets)}" if datasets else ""
    sentences = [
        f"{settings['title']}{where}: accuracy and robustness in percent{_spread(lines)}.",
        f"Accuracy: correct on {_images(rows, (clean_attack(rows), headline))} without an attack.",
        f"Robustness: still correct {_against(settings['attacks'][headline])}, on "
        f"{_images(rows, (headline,))}.",
    ]
    for name in attacks:
        attack = settings["attacks"][name]
        images = _images(rows, (name,))
        details = _details(attack)
        if details == _details(settings["attacks"][headline]):
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
            f"protocol, bold and underlined as printed there."
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
    sentences.append(
        "Bold: best of its column. Underlined: best trade-off, the highest harmonic mean of accuracy and "
        "robustness."
    )
    if any(cell.percent is None for line in lines for cell in line.cells):
        sentences.append(f"{NOT_RUN}: not run.")
    overfitting = {line.overfitting for line in lines}
    collapse = "catastrophic overfitting (FGSM accuracy soars while PGD accuracy collapses)"
    if "at_end" in overfitting:
        sentences.append(f"{DAGGERS['at_end']} the training ended in {collapse}.")
    if "recovered" in overfitting:
        sentences.append(f"{DAGGERS['recovered']} the training went through {collapse} and recovered.")
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


def _against(attack):
    """An attack on the true labels, in words."""
    entry = registry.ATTACKS.get(attack["method"])
    name = entry.label if entry and entry.label else attack["method"]
    every = "under every random restart of " if attack.get("restarts", 1) > 1 else "under "
    return f"{every}{name} against the true labels ({_details(attack)})"


def _details(attack):
    parts = [words.format(attack[key]) for key, words in _DESCRIBED.items() if attack.get(key) is not None]
    norm = {"linf": "L∞", "l2": "L2"}[attack.get("norm", "linf")]
    return ", ".join([norm, *parts]).replace("1 random restarts", "1 random start", 1 if parts else 0)


def _dataset_label(dataset):
    entry = registry.DATASETS.get(dataset)
    return entry.label if entry and entry.label else dataset


def _number(percent):
    return f"{percent:.2f}"


# Setting


def to_csv(table):
    """The table as CSV: percent, deviation and number of seeds of each column, no marks."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"{c.key}{part}" for c in table.columns for part in _parts(c)]
    writer.writerow(["activation", "label", "catastrophic_overfitting", *heads])
    for line in table.lines:
        values = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            parts = [cell.percent, cell.deviation, cell.n][: len(_parts(column))]
            values += ["" if v is None else v if isinstance(v, int) else _number(v) for v in parts]
        writer.writerow([line.activation, line.label, line.overfitting, *values])
    return file.getvalue()


def _parts(column):
    return ("",) if column.published else ("", "_std", "_seeds")


def to_markdown(table):
    """The table as a Markdown table, its columns padded so that it reads well in a terminal too."""
    heads = [c.head if c.group == OURS else f"{c.group} {c.head.lower()}" for c in table.columns]
    grid = [["Activation", *heads]]
    for line in table.lines:
        mark = DAGGERS.get(line.overfitting, "")
        grid.append([f"{line.label}{' ' if mark else ''}{mark}", *map(_markdown_cell, line.cells)])
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in [grid[0], rule, *grid[1:]]
    ]
    return "\n".join([*lines, "", textwrap.fill(table.caption, 110, break_on_hyphens=False), ""])


def _markdown_cell(cell):
    if cell.percent is None:
        return NOT_RUN
    text = _number(cell.percent)
    if cell.bold:
        text = f"**{text}**"
    if cell.underline:
        text = f"<u>{text}</u>"
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
_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "ε": r"$\varepsilon$",
    "∞": r"$_\infty$",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}


def tex(text):
    """Plain text as LaTeX."""
    return "".join(_TEX.get(character, character) for character in text)


def _tex_size(table):
    """The largest size in which that many columns stay within the text width of a plain article."""
    deviations = any(cell.deviation is not None for line in table.lines for cell in line.cells)
    columns = len(table.columns) + deviations
    if columns < 6:
        return r"\small\setlength{\tabcolsep}{4pt}"
    if columns < _MANY_COLUMNS:
        return r"\footnotesize\setlength{\tabcolsep}{2pt}"
    size = r"\scriptsize" if columns < _MANY_COLUMNS + 2 else r"\fontsize{6}{7}\selectfont"
    return size + r"\setlength{\tabcolsep}{1.5pt}"


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
    name = tex(line.label + DAGGERS.get(line.overfitting, ""))
    return " & ".join([name, *map(_tex_cell, line.cells)]) + r" \\"


def _tex_cell(cell):
    if cell.percent is None:
        return tex(NOT_RUN)
    text = _number(cell.percent)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    if cell.underline:
        text = rf"\underline{{{text}}}"
    return text if cell.deviation is None else rf"{text}{{\scriptsize\,$\pm$\,{_number(cell.deviation)}}}"
