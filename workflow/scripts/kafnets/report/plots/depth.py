"""Layer by layer: how far an attack moves the activations, how steep and curved their functions are, and how
much they let gradients grow."""

from ...registry import label
from . import coinciding, panels, style

PANELS = (
    ("relative_distance", "L2 distance of clean and attacked outputs, relative", "linear"),
    ("distribution_distance", "L2 distance of their distributions", "linear"),
    ("steepest", "Largest |f′| over the inputs' range", "log"),
    ("most_curved", "Largest |f″| over the inputs' range", "log"),
    ("chi", "χ: growth of the gradient's energy", "log"),
)


def draw(cards):
    """Panels over the layers, one line an activation.

    What is not finite, or zero on a logarithmic scale, is a gap, and the panel says so; one that none of the
    cards (of earlier versions) has figures for is left out.

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
    gaps = {}
    for activation, of_layers in values.items():
        missing = [value is None or (on_log and value == 0) for value in of_layers]
        drawn = [float("nan") if gap else value for value, gap in zip(of_layers, missing, strict=True)]
        panel.plot(range(1, len(drawn) + 1), drawn, marker=".", markersize=3, **style.line(activation))
        if any(missing):
            gaps.setdefault(_why(of_layers, missing), []).append(label(activation))
    if on_log:
        panels.log(panel)
    else:
        most = panel.dataLim.y1 if panel.dataLim.y1 > 0 else 1.0
        panel.set_ylim(-0.03 * most, 1.05 * most)
    empty = all(value is None or (on_log and value == 0) for of in values.values() for value in of)
    if gaps:
        words = "\n".join(f"{', '.join(names)}: {why}" for why, names in gaps.items())
        panels.say(panel, words, centred=empty)
    if empty:
        panel.tick_params(axis="y", which="both", left=False, labelleft=False)


def _why(of_layers, missing):
    """What the gaps of a line stand for."""
    count = sum(missing)
    where = "every layer" if count == len(missing) else f"{count} layer{'s' * (count > 1)}"
    kinds = {
        "none, or not finite" if value is None else "0"
        for value, gap in zip(of_layers, missing, strict=True)
        if gap
    }
    return f"{' or '.join(sorted(kinds))} in {where}"


def _layers(cards):
    return [layer for card in cards for layer in card.figures["layers"]]
