"""Tables (`typesetting.Table`) as HTML; page.js makes their heads sort them."""

import itertools
import re

from ..typesetting import NOT_RUN
from .markup import element

# a number, and what may stand behind it; "1-Lipschitz CNN" and "3 layers" are names
_NUMBER = re.compile(r"[<>≤≥]? ?([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.-]| ?[^\W\d])")


def table(shown, ident=None, links=(), heading="h3"):
    """A table with its title as a heading and its caption below.

    Args:
        shown: the Table.
        ident: names its place on the page.
        links: of each row the address that its first cell leads to, or None.
        heading: the element of the title.
    """
    caption = element("figcaption", shown.caption) if shown.caption else None
    return element(
        "section",
        element(heading, shown.title),
        element("figure", scrolling(grid(shown, links), shown.title), caption, class_="table"),
        id=ident,
    )


def grid(shown, links=()):
    """The table alone."""
    # rows without a record say something of the columns, such as their bounds: they stay on top
    fixed = max(0, len(shown.rows) - len(shown.records)) if shown.records else 0
    linked = [*([None] * fixed), *links]
    rows = [_row(row, link) for row, link in itertools.zip_longest(shown.rows, linked[: len(shown.rows)])]
    return element(
        "table",
        element("thead", _groups(shown.columns), element("tr", _heads(shown.columns, shown.rows))),
        element("tbody", *rows[:fixed], class_="fixed") if fixed else None,
        element("tbody", *rows[fixed:]),
        class_="sortable",
    )


def scrolling(content, name):
    """Content that may be wider than the screen, in a place of its own that scrolls, by keys too."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=name)


def sort_key(text):
    """By what a cell is sorted: the number that it shows, "" if it is empty, None: its text."""
    if text in ("", NOT_RUN):
        return ""
    number = _NUMBER.match(text.replace("−", "-"))
    return number[1].replace(",", "") if number else None


def data_cell(text, *content):
    """A cell of a table, sorted by its text: a number, or a word."""
    key = sort_key(text)
    return element("td", *content, data_sort=key, class_="text" if key is None else None)


def _groups(columns):
    """A line above the heads that says which columns belong together, when there are several groups."""
    groups = [(name, len(list(members))) for name, members in itertools.groupby(columns, lambda c: c.group)]
    if len({name for name, _ in groups if name}) < 2:
        return None
    cells = (
        element("th", name, colspan=count, scope="colgroup") if name else element("td", colspan=count)
        for name, count in groups
    )
    return element("tr", *cells, class_="groups")


def _heads(columns, rows):
    for place, column in enumerate(columns):
        keys = {sort_key(row[place].text) for row in rows} - {""}
        yield element("th", column.head, scope="col", class_="text" if keys == {None} else None)


def _row(row, link):
    first, *others = row
    name = element("a", _text(first), href=link) if link else _text(first)
    return element("tr", element("th", name, _note(first), scope="row"), *map(_cell, others))


def _cell(cell):
    text = _text(cell)
    if cell.deviation:
        text = (text, element("small", f" ± {cell.deviation}"))
    if cell.interval:
        text = (text, " ", element("small", cell.interval, class_="interval"))
    return data_cell(cell.text, text, _note(cell))


def _text(cell):
    text = cell.text
    if cell.bold:
        text = element("strong", text)
    return element("u", text) if cell.underlined else text


def _note(cell):
    return element("span", f" {cell.note}", class_="note") if cell.note else None
