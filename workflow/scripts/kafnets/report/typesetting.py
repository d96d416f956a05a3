"""Tables as plain data, and the same table as LaTeX, Markdown and CSV.

What stands in a table, in plain text, is decided elsewhere; here it is only set, and escaped.
"""

import csv
import io
import itertools
import textwrap
from dataclasses import dataclass

NOT_RUN = "–"
# How a caption names an underlined number. Markdown cannot underline, and a terminal shows HTML as it is.
UNDERLINED, _ITALIC = "Underlined:", "Italic:"


@dataclass(frozen=True)
class Column:
    """The head of a column; neighbours with the same `group` share a head above theirs."""

    head: str
    group: str = ""


@dataclass(frozen=True)
class Cell:
    """What is printed in one place of a table.

    Args:
        text: plain text.
        bold, underlined: whether the text is.
        deviation: printed after the text and a ±.
        interval: printed beside or below the text in small print.
        note: printed after everything else: the signs that the caption explains.
    """

    text: str
    bold: bool = False
    underlined: bool = False
    deviation: str = ""
    interval: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """What a table says, however it is set.

    Args:
        name: names the LaTeX label.
        title, caption: plain text.
        columns: a tuple of Column, the first of which holds the names of the rows.
        rows: tuples of Cell, one for each column.
        records: what the CSV file holds, a dict per row, all with the same keys (None: an empty field).
        breaks_heads: whether LaTeX may set a head on several lines, which keeps columns of numbers narrow.
    """

    name: str
    title: str
    caption: str
    columns: tuple
    rows: tuple
    records: tuple
    breaks_heads: bool = False


# -- CSV


def to_csv(table):
    """The table's records as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, table.records[0] if table.records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return file.getvalue()


# -- Markdown


def to_markdown(table):
    """The table as a Markdown table, its columns padded so that it reads well in a terminal too."""
    grid = [[_markdown_head(column, table.columns) for column in table.columns]]
    grid += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    widths = [max(2, *map(len, column)) for column in zip(*grid, strict=True)]  # ":" alone is no rule
    grid.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in grid
    ]
    caption = table.caption.replace(UNDERLINED, _ITALIC)
    return "\n".join([*lines, "", textwrap.fill(caption, 110, break_on_hyphens=False), ""])


def _markdown_head(column, columns):
    """The head, with its group's name unless that is the first group of numbers."""
    if column.group in ("", columns[1].group):
        return column.head
    return f"{column.group} {column.head.lower()}"


def _markdown_cell(cell):
    text = f"**{cell.text}**" if cell.bold else cell.text
    if cell.underlined:
        text = f"*{text}*"
    if cell.interval:
        text += f" ({cell.interval})"
    if cell.deviation:
        text += f" ± {cell.deviation}"
    return f"{text} {cell.note}" if cell.note else text


# -- LaTeX

_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "ε": r"$\varepsilon$",
    "∞": r"$_\infty$",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"$^\S$",
    "¶": r"$^\P$",
    "‖": r"$^\Vert$",
    "♯": r"$^\sharp$",
}


def tex(text):
    """`text` with every character that means something to LaTeX escaped."""
    return "".join(_TEX.get(character, character) for character in text)


def to_tex(table):
    """The table as a LaTeX float; needs the package booktabs."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption[{{{tex(table.title)}}}]{{{tex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\smallskip",
        _tex_size(table),
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        *_tex_groups(table.columns[1:]),
        _tex_row(_tex_head(column.head, table) for column in table.columns),
        r"\midrule",
        *(_tex_row(map(_tex_cell, row)) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


# How many columns and rows fit a page of an article in \scriptsize, where heads are not broken.
_WIDE, _LONG = 7, 40
# Where heads may be broken: from so many columns on each word has a line of its own.
_NARROW = 9


def _tex_size(table):
    """The largest size in which the table stays within the page of a plain article."""
    columns = len(table.columns)
    if not table.breaks_heads:
        if columns > _WIDE or len(table.rows) > _LONG:
            return r"\fontsize{6}{7}\selectfont\setlength{\tabcolsep}{1.5pt}"
        return r"\scriptsize\setlength{\tabcolsep}{3pt}"
    columns += any(cell.deviation for row in table.rows for cell in row)
    if columns < 7:
        return r"\small\setlength{\tabcolsep}{4pt}"
    if columns < _NARROW:
        return r"\footnotesize\setlength{\tabcolsep}{2pt}"
    if columns < _NARROW + 2:
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


def _tex_row(cells):
    return " & ".join(cells) + r" \\"


def _tex_head(head, table):
    """A head on two lines, or on as many as make it narrow where there are many columns."""
    if not table.breaks_heads:
        return tex(head)
    if len(table.columns) < _NARROW:
        words = head.split(" ", 1)
    else:
        words = [part for word in head.split() for part in _HYPHENATED.get(word, (word,))]
    return rf"\shortstack{{{_BREAK.join(map(tex, words))}}}" if words[1:] else tex(head)


_BREAK = r"\\"
# Words of heads that are wider than any number below them.
_HYPHENATED = {"Robustness": ("Robust-", "ness"), "misclassified": ("mis-", "classi-", "fied")}


def _tex_cell(cell):
    text = tex(cell.text)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    if cell.underlined:
        text = rf"\underline{{{text}}}"
    if cell.interval:
        text = rf"\shortstack[r]{{{text}\\[-2pt]{{\tiny {tex(cell.interval)}}}}}"
    if cell.deviation:
        text = rf"{text}{{\scriptsize\,$\pm$\,{tex(cell.deviation)}}}"
    return text + tex(cell.note)
