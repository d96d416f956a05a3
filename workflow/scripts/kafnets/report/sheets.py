"""Tables of texts: what is printed, and the same as numbers for a CSV file."""

import csv
import io
import textwrap
from dataclasses import dataclass

from .latex import tex

# Up to these a table fits a page of an article in LaTeX's \scriptsize.
_MANY_COLUMNS, _MANY_ROWS = 7, 40


@dataclass(frozen=True)
class Sheet:
    """A table however it is set.

    Args:
        name: names the LaTeX label.
        title, caption: plain text.
        heads: of the printed columns, the first of which names the row.
        rows: tuples of printed cells, each a text or (text, True) for bold.
        records: what the CSV file holds, a dict per row (None: an empty field).
    """

    name: str
    title: str
    caption: str
    heads: tuple
    rows: tuple
    records: tuple


def to_csv(sheet):
    """The sheet's records, numbers as they are."""
    file = io.StringIO()
    writer = csv.DictWriter(file, sheet.records[0] if sheet.records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sheet.records)
    return file.getvalue()


def to_markdown(sheet):
    """The sheet as a Markdown table, its columns padded so that it reads well in a terminal too."""
    return markdown(sheet.heads, [[_markdown(cell) for cell in row] for row in sheet.rows], sheet.caption)


def markdown(heads, rows, caption):
    """Printed heads and cells as a Markdown table, the caption below it."""
    grid = [list(heads), *rows]
    widths = [max(2, *(len(row[i]) for row in grid)) for i in range(len(heads))]  # ":" alone is no rule
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in [grid[0], rule, *grid[1:]]
    ]
    return "\n".join([*lines, "", textwrap.fill(caption, 110, break_on_hyphens=False), ""])


def to_tex(sheet):
    """The sheet as a LaTeX float; needs the package booktabs. A large one is set small."""
    large = len(sheet.heads) > _MANY_COLUMNS or len(sheet.rows) > _MANY_ROWS
    size = r"\fontsize{6}{7}\selectfont\setlength{\tabcolsep}{1.5pt}"
    if not large:
        size = r"\scriptsize\setlength{\tabcolsep}{3pt}"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption[{{{tex(sheet.title)}}}]{{{tex(sheet.caption)}}}",
        rf"\label{{tab:{sheet.name}}}",
        r"\smallskip",
        size,
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, sheet.heads)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_tex, row)) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _markdown(cell):
    return cell if isinstance(cell, str) else f"**{cell[0]}**"


def _tex(cell):
    return tex(cell) if isinstance(cell, str) else rf"\textbf{{{tex(cell[0])}}}"
