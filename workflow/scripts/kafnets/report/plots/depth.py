"""Layer by layer: how far an attack moves the activations, how steep and curved their functions are, and how
much they let gradients grow."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import style

PANELS = (
    ("relative_distance", "L2 distance of clean and attacked outputs, relative", "linear"),
    ("distribution_distance", "L2 distance of their distributions", "linear"),
    ("steepest", "Largest |f′| over the inputs' range", "log"),
    ("most_curved", "Largest |f″| over the inputs' range", "log"),
    ("chi", "χ: growth of the gradient's energy", "log"),
)


def draw(cards):
    """Panels over the layers, one line an activation.

    What is not finite, or zero on a logarithmic scale, is a gap; so is what cards of earlier versions lack,
    and a panel that none of the cards has figures for is left out.

    Args:
        cards: activation -> its card.
    """
    panels = [one for one in PANELS if any(one[0] in layer for layer in _layers(cards.values()))]
    rows = -(-len(panels) // 2)
    drawn, axes = style.figure(style.PAGE, 0.5 + 1.9 * rows, rows, 2, sharex=True)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    for panel, (key, title, scale) in zip(axes.flat, panels, strict=False):
        for activation, card in cards.items():
            values = [layer.get(key) for layer in card.figures["layers"]]
            gaps = (None, 0) if scale == "log" else (None,)
            shown = [float("nan") if value in gaps else value for value in values]
            panel.plot(range(1, len(shown) + 1), shown, marker=".", markersize=3, **style.line(activation))
        panel.set_title(title, loc="left")
        if scale == "log":
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
    for panel in axes.flat[len(panels) - 2 : len(panels)]:
        panel.xaxis.set_tick_params(labelbottom=True)
        panel.set_xlabel("Activation layer")
        panel.xaxis.get_major_locator().set_params(integer=True)
    style.legend(drawn, axes[0, 0], 8)
    return drawn


def _layers(cards):
    return [layer for card in cards for layer in card.figures["layers"]]
