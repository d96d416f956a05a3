"""One network on the page: a row in its experiment's table, and a part that opens with all there is of it."""

from dataclasses import dataclass, field

from ...config.slices import WORST_CASE
from ...registry import label
from .. import marks, statistics
from ..cards import Card
from ..manifest import Run
from ..typesetting import NOT_RUN, Cell, Column, Table
from . import figures, histories
from .html_tables import table
from .markup import element

IDENTITY = ("experiment", "activation", "seed")


@dataclass(frozen=True)
class Network:
    """What the page says of a network.

    Args:
        run: of the manifest.
        record: of its weights.
        history: a DataFrame, or None of weights that were given.
        rows: its rows of the summary.
        card: its evaluation card, if it has one.
        shapes: path of the drawing of its activations, SVG, if there is one.
        files: what it leads to, name -> path.
    """

    run: Run
    record: dict
    history: object
    rows: object
    card: Card | None = None
    shapes: str | None = None
    files: dict = field(default_factory=dict)

    @property
    def ident(self):
        return f"{self.run.experiment}-{self.run.activation}-seed{self.run.seed}"

    @property
    def name(self):
        return f"{label(self.run.activation)}, seed {self.run.seed}"

    @property
    def marks(self):
        """As in the experiment's table, of this network alone."""
        return marks.of(self.rows, {}, _in_words(self.card.failed) if self.card else ())


def _in_words(names):
    return tuple(name.replace("_", " ") for name in names)


def overview(networks, title, headline):
    """The table of an experiment's networks: a row each, with 95 % intervals.

    Args:
        networks: list of Network.
        title: of the experiment.
        headline: the attack whose accuracy is the robustness.
    """
    worst = headline != WORST_CASE and any((one.rows["attack"] == WORST_CASE).any() for one in networks)
    columns = ["Activation", "Seed", "Parameters", "Training, s", "Accuracy", "Robustness"]
    found = {one.name: one.marks for one in networks}
    sentences = [
        f"{title}: each network by itself, in percent, with 95 % intervals for the choice of test images.",
        *marks.sentences(found),
    ]
    return Table(
        name="networks",
        title="Networks",
        caption=" ".join(sentences),
        columns=tuple(map(Column, [*columns, *(["Worst case"] if worst else [])])),
        rows=tuple(_row(one, found[one.name], headline, worst) for one in networks),
        records=tuple(one.run.identity for one in networks),
    )


def _row(network, marked, headline, worst):
    seconds = network.record.get("wall_seconds") if network.run.is_trained else None
    return (
        Cell(label(network.run.activation), note="".join(mark.sign for mark in marked)),
        Cell(str(network.run.seed)),
        Cell(f"{network.record['parameters']['trainable']:,}"),
        Cell(NOT_RUN if seconds is None else f"{seconds:,.0f}"),
        _clean(network.rows),
        _share(network.rows, headline),
        *([_share(network.rows, WORST_CASE)] if worst else []),
    )


def _clean(rows):
    found = rows[rows["method"] == "clean"]
    first = next((found if len(found) else rows).itertuples(), None)
    return Cell(NOT_RUN) if first is None else _percent(first.clean_accuracy, first.examples)


def _share(rows, attack):
    found = next(rows[rows["attack"] == attack].itertuples(), None)
    return Cell(NOT_RUN) if found is None else _percent(found.accuracy, found.examples)


def _percent(share, examples):
    interval = statistics.wilson(share * examples, examples)
    return Cell(f"{100 * share:.2f}", interval=f"{100 * interval.low:.1f}–{100 * interval.high:.1f}")


# -- the part that opens


def section(network, link):
    """All there is of a network, closed at first.

    Args:
        network: the Network.
        link: function of a path that returns the address from the page to it.
    """
    signs = "".join(mark.sign for mark in network.marks)
    said = list(marks.sentences({network.name: network.marks}))
    return element(
        "details",
        element("summary", element("h4", network.name, f" {signs}" if signs else None)),
        element("p", " ".join(said)) if said else None,
        table(_verdicts(network.rows), heading="h5"),
        _of_training(network),
        _of_card(network.card) if network.card else None,
        _of_shapes(network),
        _titled("Settings", _definitions(settings(network.run))),
        _titled("Made", _definitions(_made(network.record))),
        _titled("Files", _links(network.files, link)),
        id=network.ident,
        class_="network",
    )


def _titled(title, content):
    return element("section", element("h5", title), content)


def _verdicts(rows):
    """How many images withstand each attack."""
    heads = ("Attack", "ε", "Images", "Right without it", "Right under it", "Fooled", "Robust, %", "s")
    return Table(
        name="verdicts",
        title="Verdicts",
        caption="Small: the 95 % interval. Fooled: right without the attack and wrong under it.",
        columns=tuple(map(Column, heads)),
        rows=tuple(map(_verdict_row, rows.itertuples())),
        records=(),
    )


def _verdict_row(row):
    right = round(row.clean_accuracy * row.examples)
    return (
        Cell(row.attack),
        Cell(NOT_RUN if row.eps != row.eps else row.eps),
        Cell(f"{row.examples:,}"),
        Cell(f"{right:,}"),
        Cell(f"{row.correct:,}"),
        Cell(f"{max(0, right - row.correct):,}"),
        _percent(row.accuracy, row.examples),
        Cell(f"{row.evaluation_seconds:,.0f}"),
    )


def _of_training(network):
    if network.history is None:
        return None
    drawn = histories.drawing(network.history)
    return _titled("Training", (drawn, _definitions(histories.last_epoch(network.history))))


def _of_card(card):
    """Whether it passes the checks of its card, and by what figure."""
    passed = len(card.checks) - len(card.failed)
    shown = Table(
        name="card",
        title="Evaluation card",
        caption=f"{passed} of {len(card.checks)} checks passed, on {card.figures['examples']:,} images.",
        columns=(Column("Check"), Column("Figure"), Column("Passed")),
        rows=tuple(_check_row(check) for check in card.checks),
        records=(),
    )
    return table(shown, heading="h5")


def _check_row(check):
    figure, failed = check["figure"], not check["passed"]
    scale = (100, "%") if check["unit"] == "share" else (1, "")
    text = "not finite" if figure is None else f"{scale[0] * figure:.4g} {scale[1]}".strip()
    name = check["name"].replace("_", " ")
    return Cell(name), Cell(text, bold=failed), Cell("no" if failed else "yes", bold=failed)


def _of_shapes(network):
    if network.shapes is None:
        return None
    return _titled(
        "Learned activations", figures.picture(network.shapes, f"Learned activations, {network.name}")
    )


def settings(run):
    """The settings of a network's weights, one dotted name each."""
    return dict(_flat(run.training_settings))


def _flat(given, above=""):
    for name, value in given.items():
        if not above and name in IDENTITY:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        elif not isinstance(value, dict):
            yield f"{above}{name}", _text(value)


def _text(value):
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _made(record):
    """Where and when its weights were made, as far as their record says so."""
    environment = record.get("environment", {})
    commit = environment.get("git_commit")
    found = {
        "Finished": record.get("finished"),
        "Device": environment.get("device"),
        "torch": environment.get("torch"),
        "Commit": commit and commit + (" (with changes)" if environment.get("git_dirty") else ""),
        "Parameters of activations": f"{record['parameters']['activation']:,}",
        "Weights, SHA-256": record["model_sha256"],
    }
    return {name: text for name, text in found.items() if text}


def _definitions(named):
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", str(value))) for name, value in named.items()),
    )


def _links(files, link):
    items = (element("li", element("a", name, href=link(path))) for name, path in files.items())
    return element("ul", *items, class_="files")
