"""Text with the few marks that the project's own pages use, as HTML: a study's Markdown, captions of figures.

Headings, paragraphs, lists, tables, figures, emphasis, code and links; anything else stays as it is written.
"""

import itertools
import re

from .html_tables import data_cell, scrolling
from .markup import element, join

_INLINE = re.compile(
    r"``(?P<literal>.+?)``|`(?P<code>[^`]+)`|\*\*(?P<strong>.+?)\*\*|\*(?P<em>[^*\s](?:[^*]*[^*\s])?)\*"
    r"|!\[(?P<alt>[^]]*)\]\((?P<image>[^)\s]+)\)|\[(?P<text>[^]]+)\]\((?P<link>[^)\s]+)\)"
)
_HEADING = re.compile(r"(#{1,6}) +(.*)")


def inline(text, link=str):
    """One paragraph's text as HTML.

    Args:
        link: function of an image's or link's target that returns the address to link to.
    """
    found, end = [], 0
    for match in _INLINE.finditer(text):
        found += [text[end : match.start()], _marked(match, link)]
        end = match.end()
    return join(found, text[end:])


def _marked(match, link):
    kind = match.lastgroup
    if kind in ("literal", "code"):
        return element("code", match[kind])
    if kind in ("strong", "em"):
        return element(kind, inline(match[kind], link))
    # a figure stands on the page once, so that text refers to it
    text, target = (match["alt"], match["image"]) if kind == "image" else (match["text"], match["link"])
    return element("a", text, href=link(target)) if _is_harmless(target) else join(text)


def _is_harmless(target):
    """Whether a link leads to a file, a place on the page or the web, and runs nothing."""
    return ":" not in target or target.startswith(("https://", "http://"))


def paragraphs(text, link=str):
    """Paragraphs between empty lines, as HTML."""
    parts = re.split(r"\n\s*\n", text.strip())
    return join(element("p", inline(" ".join(part.split()), link)) for part in parts if part)


def page(text, link=str, level=2):
    """A page in Markdown as HTML.

    Args:
        text: the page.
        link: as for :func:`inline`.
        level: that of its first heading on the page that it becomes a part of.
    """
    blocks = [block for part in re.split(r"\n\s*\n", text.strip()) for block in _blocks(part)]
    return join(_block(lines, link, level) for lines in blocks)


def _blocks(part):
    """The lines of a paragraph; lists, tables and figures need no empty line between them."""
    for _, lines in itertools.groupby(part.splitlines(), _Kind()):
        yield list(lines)


class _Kind:
    """Of one line after the other, what it belongs to: a line of text after one of a list does to that."""

    def __init__(self):
        self.last, self.count = "", 0

    def __call__(self, line):
        kind = next((kind for kind, start in _STARTS if line.startswith(start)), "text")
        if kind == "text" and self.last == "list":
            kind = "list"
        self.count += kind == "heading"  # each is a block
        self.last = kind
        return kind, self.count


_STARTS = (("heading", "#"), ("list", "- "), ("table", "|"), ("figure", "!["))


def _block(lines, link, level):
    if heading := _HEADING.match(lines[0]):
        deep = min(6, len(heading[1]) + level - 1)
        return element(f"h{deep}", inline(heading[2], link))
    if lines[0].startswith("- "):
        items = " ".join(line.strip() if not line.startswith("- ") else f"\n{line[2:]}" for line in lines)
        return element("ul", *(element("li", inline(item.strip(), link)) for item in items.split("\n")[1:]))
    if lines[0].startswith("|"):
        return _table(lines, link)
    if lines[0].startswith("!["):
        return element("ul", *(element("li", "Figure: ", inline(line, link)) for line in lines))
    return element("p", inline(" ".join(line.strip() for line in lines), link))


def _table(lines, link):
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    head, body = rows[0], rows[2:]  # between them is the rule
    return scrolling(
        element(
            "table",
            element("thead", element("tr", *(element("th", inline(one, link), scope="col") for one in head))),
            element("tbody", *(_row(row, link) for row in body)),
            class_="sortable",
        ),
        "Table of the study",
    )


def _row(row, link):
    first, *others = row
    cells = (data_cell(cell.replace("*", "").strip(), inline(cell, link)) for cell in others)
    return element("tr", element("th", inline(first, link), scope="row"), *cells)
