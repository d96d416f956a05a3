"""Accuracy against robustness, one point an activation."""

from dataclasses import dataclass

import numpy
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...runtime.errors import UserError
from .. import marks
from ..summary import clean_accuracy, in_percent, over_seeds
from . import coinciding, names, panels, style

SMALL = 5.5  # print at the curves' ends
LEAST = 4  # percent that an axis has at least
FEW_OF = 5  # one network of so many may stand at the edge
INSET = 11  # points between the marker there and the edge, which its arrow reaches


@dataclass(frozen=True)
class _Point:
    """A network in percent: (accuracy, robustness), and from where to where its bars go across and up."""

    x: float
    y: float
    across: tuple
    up: tuple

    @property
    def bars(self):
        """The two ends of each."""
        (left, right), (low, high) = self.across, self.up
        return ((left, self.y), (right, self.y)), ((self.x, low), (self.x, high))


def draw(rows, settings, published=None):
    """A point per activation at (accuracy, robustness) in percent, with the intervals of the table.

    Bars: the 95 % interval of one seed, the standard deviation over several. Fixed activations are thin
    diamonds, KAFs filled x. The dotted curves join equal harmonic means of accuracy and robustness, the
    trade-off. A network at chance level has its mark. One so far away that the others would be pressed into a
    corner stands at the edge, with an arrow and its figures.

    The published robustness was measured by the thesis protocol. It stands, hollow and grey, beside what that
    protocol measured of our networks, in a panel of its own, and is joined to that and nothing else.

    Args:
        rows: the experiment's rows of the summary.
        settings: as for `tables.build`.
        published: as for `tables.build`.

    Raises:
        UserError: when no activation has both figures.
    """
    shown = [_Panel.of(attack, rows, settings, published) for attack in _attacks(rows, settings, published)]
    if not shown[0].ours:
        raise UserError(f"{settings['title']}: no activation has both accuracy and robustness yet")
    drawn, axes = style.figure(style.COLUMN if len(shown) == 1 else style.PAGE, 3.4, 1, len(shown))
    for panel, one in zip(axes[0], shown, strict=True):
        _frame(panel, one)
        _say(panel, one, settings)
        _equal_trade_off(panel)
        panel.set_xlabel("Accuracy (%)")
        panel.set_ylabel(one.quantity if len(shown) > 1 else "Robustness (%)")
    chance = [
        name for name in settings["activations"] if marks.any_at_chance(rows[rows["activation"] == name])
    ]
    _legend(drawn, rows, published, chance, any(one.far for one in shown))
    names.fix(drawn)
    for panel, one in zip(axes[0], shown, strict=True):
        _write(drawn, panel, one, dict.fromkeys(chance, f" {marks.CHANCE_SIGN}"))
    return drawn


# -- what is shown


@dataclass(frozen=True)
class _Panel:
    """What a panel shows: activation -> _Point of ours, and -> published (accuracy, robustness)."""

    quantity: str
    ours: dict
    theirs: dict

    @property
    def far(self):
        """The few of ours that lie so far from the others that half of an axis would be theirs alone."""
        whole = _spans(self.ours.values())
        middle = numpy.median([(point.x, point.y) for point in self.ours.values()] or [(0, 0)], axis=0)

        def distance(name):
            return numpy.hypot(*((self.ours[name].x, self.ours[name].y) - middle) / whole)

        order = sorted(self.ours, key=distance, reverse=True)
        for count in range(1, len(order) // FEW_OF + 1):
            if (_spans(self.ours[name] for name in order[count:]) < whole / 2).any():
                return order[:count]
        return []

    @classmethod
    def of(cls, attack, rows, settings, published):
        """That of one attack; of None, which none of ours is, it shows the published figures alone."""
        thesis = attack is None or _is_thesis(attack, settings)
        found = published["results"] if published and thesis else {}
        return cls(
            quantity="Robustness, thesis protocol (%)" if thesis else "Robustness, true labels (%)",
            ours={} if attack is None else _points(rows, settings, attack),
            theirs={
                name: (found[name]["accuracy"], found[name]["robustness"])
                for name in settings["activations"]
                if name in found
            },
        )


def _spans(points):
    """What points take of both axes, with their bars: no less than an axis is long at least."""
    ends = numpy.array([end for point in points for bar in point.bars for end in bar] or [(0, 0)])
    return numpy.maximum(numpy.ptp(ends, axis=0), LEAST)


def _is_thesis(attack, settings):
    """Whether an attack measures what the thesis's published robustness is."""
    return settings["attacks"].get(attack, {}).get("method") == "thesis_pgd"


def _attacks(rows, settings, published):
    """The attack of each panel: the headline's, and where there are published figures their protocol's."""
    headline = settings["headline"]
    if not published or _is_thesis(headline, settings):
        return [headline]
    run = set(rows["attack"])
    alike = [name for name in settings["attacks"] if _is_thesis(name, settings) and name in run]
    return [headline, alike[0] if alike else None]


def _points(rows, settings, attack):
    """Activation -> its _Point, of those that have both figures."""
    accuracy = in_percent(clean_accuracy(rows, settings["headline"]))
    robustness = in_percent(over_seeds(rows, attack))
    both = [name for name in settings["activations"] if name in accuracy.index and name in robustness.index]
    found = {name: (accuracy.loc[name], robustness.loc[name]) for name in both}
    return {name: _Point(x.percent, y.percent, _bar(x), _bar(y)) for name, (x, y) in found.items()}


def _bar(figures):
    """From where to where: the deviation over seeds, or the interval of a single one."""
    if numpy.isnan(figures.deviation):
        return figures.low, figures.high
    return figures.percent - figures.deviation, figures.percent + figures.deviation


# -- drawing


def _frame(panel, shown):
    """Limits around all points and bars."""
    near = [point for name, point in shown.ours.items() if name not in shown.far]
    ends = [end for point in near for bar in point.bars for end in bar]
    panel.update_datalim([*ends, *shown.theirs.values()])
    for which in ("x", "y"):
        panels.percent(panel, which, least=LEAST, margin=0.1)


def _write(drawn, panel, shown, signs):
    """Markers, none of them over another, their bars and names."""
    shown, signs = _at_the_edge(panel, shown, signs)
    of_ours = [(point.x, point.y) for point in shown.ours.values()]
    centres = [coinciding.in_points(panel, *place) for place in (*of_ours, *shown.theirs.values())]
    moves = coinciding.side_by_side(centres)
    places = centres + moves
    ours = dict(zip(shown.ours, places[: len(of_ours)], strict=True))
    theirs = dict(zip(shown.theirs, places[len(of_ours) :], strict=True))
    bars = []
    for (name, point), move in zip(shown.ours.items(), moves[: len(of_ours)], strict=True):
        bars += _ours(panel, name, point, move)
    for (name, place), move in zip(shown.theirs.items(), moves[len(of_ours) :], strict=True):
        _theirs(panel, name, place, move)
        if name in ours:
            point = shown.ours[name]
            panel.plot((point.x, place[0]), (point.y, place[1]), color=style.GREY, linewidth=0.7, zorder=1)
    occupied = [place for name, place in theirs.items() if name in ours]
    names.write(drawn, panel, {**theirs, **ours}, bars, occupied, signs=signs)


def _at_the_edge(panel, shown, signs):
    """Puts those that lie far away inside the panel, with an arrow, and their figures behind their names."""
    ours, signs = dict(shown.ours), dict(signs)
    scale = 72 / panel.figure.dpi
    frame = panel.get_window_extent()
    corners = frame.get_points() * scale + [[INSET, INSET], [-INSET, -INSET]]
    for name in shown.far:
        point = shown.ours[name]
        true = coinciding.in_points(panel, point.x, point.y)
        place = numpy.clip(true, *corners)
        x, y = panel.transData.inverted().transform(place / scale)
        ours[name] = _Point(x, y, (x, x), (y, y))
        signs[name] = f"{signs.get(name, '')} ({point.x:.1f}, {point.y:.1f})"
        arrow = {"arrowstyle": "-|>", "color": style.colour(name), "linewidth": 0.8}
        arrow |= {"shrinkA": 3, "shrinkB": 0, "mutation_scale": 6}
        tip = (INSET - 1) * (true - place) / max(numpy.abs(true - place).max(), 1e-9)
        end = panel.transData.inverted().transform((place + tip) / scale)
        panel.annotate("", end, (x, y), arrowprops=arrow, zorder=3, annotation_clip=False)
    return _Panel(shown.quantity, ours, shown.theirs), signs


def _theirs(panel, name, place, move):
    hollow = {**style.marker(name), "s": 24, "facecolors": "white", "edgecolors": style.GREY}
    del hollow["color"]
    panel.scatter(*place, linewidths=0.8, zorder=2, transform=style.moved(panel, move), **hollow)


def _ours(panel, name, point, move):
    """A marker with its bars; returns the ends of these, in points."""
    moved, tint = style.moved(panel, move), style.colour(name)
    panel.scatter(point.x, point.y, linewidths=0, zorder=4, transform=moved, **style.marker(name))
    for bar in point.bars:
        across, up = zip(*bar, strict=True)
        panel.plot(across, up, transform=moved, color=tint, linewidth=0.6, alpha=0.7, zorder=3)
    return [[coinciding.in_points(panel, *end) + move for end in bar] for bar in point.bars]


def _equal_trade_off(panel):
    """Curves of equal harmonic mean h, y = h x / (2 x - h), over what the panel shows; h at their ends."""
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    panel.grid(False)
    x = numpy.linspace(max(left, 1), right, 200)
    corners = [2 * a * b / (a + b) for a, b in ((max(left, 1), max(bottom, 1)), (right, top))]
    above = -numpy.inf
    for mean in MaxNLocator(7).tick_values(*corners):
        inside = 2 * x > mean
        y = mean * x[inside] / (2 * x[inside] - mean)
        if mean <= 0 or not len(y):
            continue
        panel.plot(x[inside], y, linewidth=0.6, linestyle=":", zorder=0, color=style.GREY)
        if bottom < y[-1] < top and y[-1] - above > 0.04 * (top - bottom):
            above = y[-1]
            place = {"xytext": (2, 0), "textcoords": "offset points", "va": "center", "color": panels.QUIET}
            panel.annotate(f"{mean:g}", (right, above), fontsize=SMALL, annotation_clip=False, **place)
    panel.set_xlim(left, right)
    panel.set_ylim(bottom, top)


def _say(panel, shown, settings):
    """What of the experiment is not in the panel."""
    absent = [style.label(name) for name in settings["activations"] if name not in shown.ours]
    if not shown.ours:
        panels.say(panel, "published only: not measured here")
    elif absent:
        panels.say(panel, f"no figures: {', '.join(absent)}")


def _legend(drawn, rows, published, chance, any_far):
    keys = [style.point_key("fixed", "d", markersize=4.5), style.point_key("learned", "X", markersize=5)]
    if published:
        hollow = {"markerfacecolor": "white", "markeredgewidth": 0.7, "markersize": 4.5}
        keys.append(style.point_key("published", "d", **hollow))
    seeds = rows.groupby("activation")["seed"].nunique()
    bars = {"95 % interval (one seed)": (seeds == 1).any(), "± deviation over seeds": (seeds > 1).any()}
    keys.append(
        Line2D(
            [],
            [],
            color=style.GREY,
            linewidth=0.8,
            label="; ".join(words for words, any_ in bars.items() if any_),
        )
    )
    keys.append(Line2D([], [], color=style.GREY, linewidth=0.8, linestyle=":", label="equal harmonic means"))
    if chance:
        sign = f"{marks.CHANCE_SIGN} no better than chance"
        keys.append(Line2D([], [], linestyle="none", label=sign))
    if any_far:
        keys.append(Line2D([], [], linestyle="none", label="(…) beyond the axes"))
    style.legend(drawn, 6 if drawn.get_figwidth() > style.COLUMN else 3, handles=keys, columnspacing=1.2)
