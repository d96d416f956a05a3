"""Figures as part of the page: each SVG file within it, with the words that the report has for it beside."""

import re
import urllib.parse
from pathlib import Path

from ...runtime.errors import UserError
from . import prose
from .html_tables import scrolling
from .markup import element

# What a caption of workflow/report asks for: {{ snakemake.config["card"]["eps"] }}.
_PLACE = re.compile(r"{{\s*snakemake\.(.+?)\s*}}")


def figure(path, ident, name, caption):
    """A figure with its heading.

    Args:
        path: of the SVG file.
        ident: names its place on the page.
        name: the heading, and what it says to those who do not see it.
        caption: of :func:`caption`.
    """
    return element(
        "section",
        element("h4", name[:1].upper() + name[1:]),
        element(
            "figure",
            scrolling(element("img", src=_address(path), alt=f"{name}: {_first_sentence(caption)}"), name),
            element("figcaption", prose.paragraphs(caption)),
            class_="plot",
        ),
        id=ident,
    )


def picture(path, alt):
    """A figure without heading and caption."""
    return scrolling(element("img", src=_address(path), alt=alt, class_="picture"), alt)


def caption(text, known):
    """What the report says of a figure, with its places filled.

    Args:
        text: of a file in workflow/report.
        known: what Snakemake would fill in: {"wildcards": {...}, "params": {...}, "config": {...}}.

    Raises:
        UserError: for a place of another kind.
    """
    return _PLACE.sub(lambda match: _of_place(match[1], known), text)


def _of_place(place, known):
    found = known
    for name in re.findall(r"\w+", place):
        if not isinstance(found, dict) or name not in found:
            raise UserError(
                f"caption: {{{{ snakemake.{place} }}}} is nothing that the results page knows; write a name "
                f"of wildcards, params or config, such as snakemake.wildcards.experiment"
            )
        found = found[name]
    return str(found)


def _first_sentence(text):
    plain = " ".join(text.replace("`", "").replace("*", "").split())
    return re.match(r".*?(?:\.(?= )|$)", plain)[0]


def _address(path):
    """The file's content as an address."""
    try:
        drawn = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; run snakemake again") from None
    return "data:image/svg+xml," + urllib.parse.quote(drawn.strip(), safe=" !$()*+,-./:;=?@[]_{}~'")
