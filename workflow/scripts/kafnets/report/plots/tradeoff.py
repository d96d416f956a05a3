"""Accuracy against robustness, one point an activation."""

import numpy
from matplotlib.ticker import MaxNLocator

from ...runtime.errors import UserError
from .. import marks
from ..summary import clean_accuracy, over_seeds
from . import names, style


def draw(rows, settings, published=None):
    """A point per activation at (accuracy, robustness) in percent, mean and standard deviation over seeds.

    Fixed activations are thin diamonds, KAFs filled x. A published point is hollow and grey, tied to ours by
    a thin line. The dotted curves join equal harmonic means of accuracy and robustness, the trade-off. A
    network at chance level has its mark.

    Args:
        rows: the experiment's rows of the summary.
        settings: as for `tables.build`.
        published: as for `tables.build`.

    Raises:
        UserError: when no activation has both figures.
    """
    drawn, axes = style.figure(style.COLUMN, 3.2)
    axes = axes[0, 0]
    accuracy = clean_accuracy(rows, settings["headline"]).fillna({"std": 0})
    robustness = over_seeds(rows, settings["headline"]).fillna({"std": 0})
    points = {}  # activation -> (x, y, half width, half height) of its point and error bars
    for name in settings["activations"]:
        if name in accuracy.index and name in robustness.index:
            x, y = 100 * accuracy["mean"][name], 100 * robustness["mean"][name]
            points[name] = (x, y, 100 * accuracy["std"][name], 100 * robustness["std"][name])
            _our_point(axes, name, *points[name])
    if not points:
        raise UserError(f"{settings['title']}: no activation has both accuracy and robustness yet")
    theirs = _published_points(axes, points, published) if published else []
    axes.margins(0.14)
    axes.set_xlabel("Accuracy (%)")
    axes.set_ylabel("Robustness (%)")
    _equal_trade_off(axes)
    _legend(drawn, bool(published))
    chance = {name for name in points if marks.any_at_chance(rows[rows["activation"] == name])}
    if chance:
        _say_chance(axes)
    names.write(drawn, axes, points, theirs, signs=dict.fromkeys(chance, f" {marks.CHANCE_SIGN}"))
    return drawn


def _our_point(axes, name, x, y, across, up):
    axes.scatter(x, y, linewidths=0, zorder=4, **style.marker(name))
    if across or up:
        axes.errorbar(x, y, xerr=across, yerr=up, color=style.colour(name), linewidth=0.6, zorder=3)


def _published_points(axes, points, published):
    places = []
    for name, (x, y, _, _) in points.items():
        if name not in published["results"]:
            continue
        theirs = published["results"][name]
        places.append((theirs["accuracy"], theirs["robustness"]))
        axes.plot(*zip((x, y), places[-1], strict=True), color=style.LIGHT, linewidth=0.6, zorder=1)
        point = {**style.marker(name), "s": 22, "facecolors": "white", "edgecolors": style.GREY}
        del point["color"]
        axes.scatter(*places[-1], linewidths=0.7, zorder=2, **point)
    return places


def _equal_trade_off(axes):
    """Curves of equal harmonic mean h, y = h x / (2 x - h), over what the axes show; h at their right end."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.grid(False)
    x = numpy.linspace(max(left, 1), right, 200)
    corners = [2 * a * b / (a + b) for a, b in ((max(left, 1), max(bottom, 1)), (right, top))]
    grey = {"color": "#b5b5b5"}
    for mean in MaxNLocator(7).tick_values(*corners):
        inside = 2 * x > mean
        y = mean * x[inside] / (2 * x[inside] - mean)
        axes.plot(x[inside], y, linewidth=0.6, linestyle=":", zorder=0, **grey)
        if len(y) and bottom < y[-1] < top:
            place = {"xytext": (2, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{mean:g}", (right, y[-1]), fontsize=5.5, annotation_clip=False, **place, **grey)
    place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "right"}
    axes.annotate("dotted: harmonic mean", (1, 1), xycoords="axes fraction", fontsize=5.5, **place, **grey)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _say_chance(axes):
    place = {"xytext": (0, 2), "textcoords": "offset points", "xycoords": "axes fraction", "fontsize": 5.5}
    axes.annotate(f"{marks.CHANCE_SIGN} no better than chance", (0, 1), color=style.GREY, **place)


def _legend(drawn, published):
    keys = [style.point_key("fixed", "d", markersize=4.5), style.point_key("learned", "X", markersize=5)]
    if published:
        hollow = {"markerfacecolor": "white", "markeredgewidth": 0.7, "markersize": 4.5}
        keys.append(style.point_key("published", "d", **hollow))
    drawn.legend(handles=keys, loc="outside lower center", ncols=len(keys), handletextpad=0.2)
