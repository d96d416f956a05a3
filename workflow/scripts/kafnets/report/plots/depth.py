"""Layer by layer: how far an attack moves the activations, how steep and curved their functions are, and how
much they let gradients grow."""

import numpy

from ...registry import label
from . import coinciding, panels, style

# About the precision of float32 and its inverse. What lies beyond is as good as 0 or infinite, and as data of
# a logarithmic axis would press all other lines into one.
LEAST, MOST = 1e-7, 1e7

PANELS = (
    ("relative_distance", "L2 distance of clean and attacked outputs, relative", "linear"),
    ("distribution_distance", "L2 distance of their distributions", "linear"),
    ("steepest", "Largest |f′| over the inputs' range", "log"),
    ("most_curved", "Largest |f″| over the inputs' range", "log"),
    ("chi", "χ: growth of the gradient's energy", "log"),
)


def draw(cards):
    """Panels over the layers, one line an activation.

    What is not finite, or zero on a logarithmic scale, is a gap; what is beyond `LEAST` or `MOST` there is
    a triangle at the edge. The panel says both in words. One that none of the cards (of earlier versions)
    has figures for is left out.

    Args:
        cards: activation -> its card.
    """
    shown = [one for one in PANELS if any(one[0] in layer for layer in _layers(cards.values()))]
    rows = -(-len(shown) // 2)
    drawn, axes = style.figure(style.PAGE, 0.5 + 1.9 * rows, rows, 2, sharex=True)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, (key, title, scale) in zip(axes.flat, shown, strict=False):
        values = {name: [layer.get(key) for layer in card.figures["layers"]] for name, card in cards.items()}
        _panel(panel, values, scale == "log")
        panel.set_title(title, loc="left")
    for panel in axes.flat[len(shown) - 2 : len(shown)]:
        panel.xaxis.set_tick_params(labelbottom=True)
        panel.set_xlabel("Activation layer")
        panel.xaxis.get_major_locator().set_params(integer=True)
    style.legend(drawn, 8)
    coinciding.rings(drawn)
    return drawn


def _panel(panel, values, on_log):
    """The lines of one figure; `values`: activation -> its layers'."""
    said, edges = {}, []
    for activation, of_layers in values.items():
        missing = numpy.array([value is None or (on_log and value == 0) for value in of_layers])
        known = numpy.array(
            [numpy.nan if gap else value for value, gap in zip(of_layers, missing, strict=True)]
        )
        low, high = (known < LEAST, known > MOST) if on_log else (missing & False, missing & False)
        layers = numpy.arange(1, len(known) + 1)
        shown = numpy.where(low | high, numpy.nan, known)
        panel.plot(layers, shown, marker=".", markersize=3, **style.line(activation))
        edges += [(activation, 0, layers[low]), (activation, 1, layers[high])]
        for words in (_why(of_layers, missing), _beyond("below", LEAST, low), _beyond("above", MOST, high)):
            if words:
                said.setdefault(words, []).append(label(activation))
    if on_log:
        panels.log(panel)
    else:
        most = panel.dataLim.y1 if panel.dataLim.y1 > 0 else 1.0
        panel.set_ylim(-0.03 * most, 1.05 * most)
    _triangles(panel, edges)
    empty = not any(line.get_xydata().size and numpy.isfinite(line.get_ydata()).any() for line in panel.lines)
    if said:
        words = "\n".join(f"{', '.join(names)}: {why}" for why, names in said.items())
        panels.say(panel, words, centred=empty)
    if empty:
        panel.tick_params(axis="y", which="both", left=False, labelleft=False)


def _triangles(panel, edges):
    """Triangles at the lower (0) or upper end (1) of what the panel shows: (activation, end, layers)."""
    ends = panel.get_ylim()
    for activation, end, layers in edges:
        if len(layers):
            look = {"linestyle": "none", "marker": "v^"[end], "markersize": 4, "clip_on": False, "zorder": 4}
            panel.plot(layers, [ends[end]] * len(layers), color=style.colour(activation), **look)
    panel.set_ylim(*ends)


def _beyond(side, bound, where):
    """What the triangles of a line stand for."""
    return f"{side} {panels.plain(bound)} in {_layers_of(where)}" if where.any() else ""


def _layers_of(where):
    count = int(where.sum())
    return "every layer" if count == len(where) else f"{count} layer{'s' * (count > 1)}"


def _why(of_layers, missing):
    """What the gaps of a line stand for; nothing where there are none."""
    kinds = {
        "none, or not finite" if value is None else "0"
        for value, gap in zip(of_layers, missing, strict=True)
        if gap
    }
    return f"{' or '.join(sorted(kinds))} in {_layers_of(missing)}" if kinds else ""


def _layers(cards):
    return [layer for card in cards for layer in card.figures["layers"]]
