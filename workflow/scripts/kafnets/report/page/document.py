"""The page as a whole: its head, what it leads to, and the parts one after the other."""

import base64
import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from ...registry import ARCHITECTURES, DATASETS
from ..tables import OURS, PUBLISHED
from ..typesetting import NOT_RUN, Cell, Column, Table
from . import figures, networks, prose
from .html_tables import table
from .markup import Markup, element, join

# The columns of an experiment's table that stand in the table of all: (group, head).
SHARED = (
    (OURS, "Accuracy"),
    (OURS, "Robustness"),
    (OURS, "Worst case"),
    (PUBLISHED, "Accuracy"),
    (PUBLISHED, "Robustness"),
)


@dataclass(frozen=True)
class Figure:
    """A figure of an experiment: `kind` names its place, `name` says what it shows."""

    kind: str
    name: str
    path: str
    caption: str


@dataclass(frozen=True)
class Experiment:
    """What the page says of an experiment.

    Args:
        name: in the configuration.
        title, headline: of it.
        tables: list of Table, the main one first.
        networks: list of `networks.Network`.
        figures: list of Figure.
    """

    name: str
    title: str
    headline: str
    tables: list
    networks: list
    figures: list = field(default_factory=list)

    @property
    def parameters(self):
        """Of each activation, how many numbers its networks train."""
        return {one.run.activation: one.record["parameters"]["trainable"] for one in self.networks}


def render(experiments, study=None, link=str):
    """The page.

    Args:
        experiments: list of Experiment, in their order.
        study: the text of the study, Markdown, if there is one.
        link: function of a path that returns the address from the page to it.
    """
    parts = {one.name: (one.title, _experiment(one, link)) for one in experiments}
    if study:
        parts = {"the-study": ("The study", _study(study, experiments)), **parts}
    if len(experiments) > 1:
        shown, links = _all(experiments)
        parts = {"all-activations": ("All activations", table(shown, links=links, heading="h2")), **parts}
    main = (element("section", content, id=ident, class_="part") for ident, (_, content) in parts.items())
    body = element(
        "body",
        element("a", "To the results", href="#the-results", class_="skip"),
        element("header", element("h1", "Results"), element("p", _said(experiments))),
        element("nav", element("ul", *_places(parts)), aria_label="Parts of this page"),
        element("main", *main, id="the-results"),
        element("script", Markup(_beside("page.js"))),
    )
    return "<!DOCTYPE html>\n" + element("html", _head(experiments), body, lang="en") + "\n"


def _head(experiments):
    # nothing is loaded from anywhere, and no other script runs than the page's own
    digest = base64.b64encode(hashlib.sha256(_beside("page.js").encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"Results: {', '.join(one.title for one in experiments)}"),
        element("style", Markup(_beside("page.css"))),
    )


def _beside(name):
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _said(experiments):
    count = sum(len(one.networks) for one in experiments)
    return (
        f"{_count(count, 'network')} in {_count(len(experiments), 'experiment')}. The head of a column sorts "
        "a table. The files that this page links to lie beside it, in the folder of the results."
    )


def _count(number, thing):
    return f"{number:,} {thing}" + ("s" if number != 1 else "")


def _places(parts):
    return (element("li", element("a", title, href=f"#{ident}")) for ident, (title, _) in parts.items())


# -- all experiments


def _all(experiments):
    """The table of all activations of all experiments, and where its rows lead to."""
    shown = [pair for pair in SHARED if any(pair in _heads(one.tables[0]) for one in experiments)]
    columns = [Column("Activation"), Column("Experiment"), Column("Parameters")]
    rows = [row for one in experiments for row in _rows_of(one, shown)]
    made = Table(
        name="all",
        title="All activations",
        caption="Percent, mean over seeds; what is counted and the signs: in each experiment's own table.",
        columns=(*columns, *(Column(head, group) for group, head in shown)),
        rows=tuple(rows),
        records=(),
    )
    return made, [f"#{one.name}" for one in experiments for _ in one.tables[0].rows]


def _rows_of(experiment, shown):
    main = experiment.tables[0]
    for row, record in zip(main.rows, main.records, strict=True):
        cells = dict(zip(_heads(main), row, strict=True))
        count = experiment.parameters.get(record["activation"])
        found = (cells.get(pair, Cell(NOT_RUN)) for pair in shown)
        # what is best there is the best of its experiment alone
        plain = (dataclasses.replace(cell, bold=False, underlined=False) for cell in found)
        yield row[0], Cell(experiment.title), _whole(count), *plain


def _heads(shown):
    return [(column.group, column.head) for column in shown.columns]


def _whole(count):
    return Cell(NOT_RUN if count is None else f"{count:,}")


# -- one experiment


def _experiment(experiment, link):
    of = experiment.networks
    rows = networks.overview(of, experiment.title, experiment.headline)
    return join(
        element("h2", experiment.title),
        element("p", _facts(experiment)),
        *(table(one, _place(experiment, "table", one.name)) for one in _tables(experiment)),
        _figures(experiment),
        table(rows, _place(experiment, "table", "networks"), links=[f"#{one.ident}" for one in of]),
        *(networks.section(one, link) for one in of),
    )


def _tables(experiment):
    """The tables as they stand below the title of the experiment, which theirs need not repeat."""
    main, *others = experiment.tables
    yield dataclasses.replace(with_parameters(main, experiment.parameters), title="Accuracy and robustness")
    for one in others:
        title = one.title.removeprefix(f"{experiment.title}: ")
        yield dataclasses.replace(one, title=title[:1].upper() + title[1:])


def _place(experiment, *names):
    """The name of a place on the page. Experiments and kinds have no "-" in their names: no two are equal."""
    return "-".join([experiment.name, *names])


def _facts(experiment):
    runs = [one.run for one in experiment.networks]
    architectures = dict.fromkeys(_label(ARCHITECTURES, run.architecture) for run in runs)
    datasets = dict.fromkeys(_label(DATASETS, run.dataset) for run in runs)
    seeds = len({run.seed for run in runs})
    counts = f"{_count(len(runs), 'network')}, {_count(seeds, 'seed')}"
    return f"{', '.join(architectures)} on {', '.join(datasets)}; {counts}."


def _label(named, name):
    return (named[name].label if name in named else None) or name


def with_parameters(shown, parameters):
    """The main table of an experiment with how many numbers are trained, behind the names of its rows."""
    found = [_whole(parameters.get(record["activation"])) for record in shown.records]
    first, *others = shown.columns
    return dataclasses.replace(
        shown,
        columns=(first, Column("Parameters"), *others),
        rows=tuple((name, count, *cells) for (name, *cells), count in zip(shown.rows, found, strict=True)),
    )


def _figures(experiment):
    if not experiment.figures:
        return None
    drawn = (
        figures.figure(one.path, _place(experiment, "figure", one.kind), one.name, one.caption)
        for one in experiment.figures
    )
    return element("section", element("h3", "Figures"), *drawn)


# -- the study


def _study(text, experiments):
    """The text of the study; where it shows a figure, it refers to that of its experiment."""
    places = {
        f"plots/{one.name}/{figure.kind}.png": f"#{_place(one, 'figure', figure.kind)}"
        for one in experiments
        for figure in one.figures
    }
    return prose.page(text, link=lambda target: places.get(target, target))
