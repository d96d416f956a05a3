"""Layer by layer: how far an attack moves the activations, and how steep and curved their functions are."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from . import style

PANELS = (
    ("relative_distance", "L2 distance of clean and attacked outputs, relative", "linear"),
    ("distribution_distance", "L2 distance of their distributions", "linear"),
    ("steepest", "Largest |f′| over the inputs' range", "log"),
    ("most_curved", "Largest |f″| over the inputs' range", "log"),
)


def draw(cards):
    """Four panels over the layers, one line an activation.

    What is not finite, or zero on a logarithmic scale, is a gap.

    Args:
        cards: activation -> its card.
    """
    drawn, axes = style.figure(style.PAGE, 4.3, 2, 2, sharex=True)
    for panel, (key, title, scale) in zip(axes.flat, PANELS, strict=True):
        for activation, card in cards.items():
            values = [layer[key] for layer in card.figures["layers"]]
            gaps = (None, 0) if scale == "log" else (None,)
            shown = [float("nan") if value in gaps else value for value in values]
            panel.plot(range(1, len(shown) + 1), shown, marker=".", markersize=3, **style.line(activation))
        panel.set_title(title, loc="left")
        if scale == "log":
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
    for panel in axes[-1]:
        panel.set_xlabel("Activation layer")
        panel.xaxis.get_major_locator().set_params(integer=True)
    style.legend(drawn, axes[0, 0], 8)
    return drawn
