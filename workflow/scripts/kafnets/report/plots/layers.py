"""What an attack does to the distribution of each layer's activations."""

from math import ceil

import numpy

from . import panels, style


def draw(card, tensors):
    """A panel a layer: the distribution of its outputs on clean and on attacked images, log scale.

    Beside its name the L2 distance between the two outputs, relative to the clean one's norm, mean over
    images.

    Args:
        card: of one network.
        tensors: its tensors (`report.cards.tensors`).
    """
    layers = card.figures["layers"]
    columns = 5 if len(layers) > 8 else 4
    rows = ceil(len(layers) / columns)
    drawn, axes = style.figure(style.PAGE, 0.65 + 1.2 * rows, rows, columns)
    tint = style.colour(card.activation)
    attacked = "#D55E00" if tint == "#000000" else tint
    for number, panel in enumerate(axes.flat):
        if number >= len(layers):
            panel.set_visible(False)
            continue
        layer, (low, high) = layers[number], tensors["edges"][number]
        clean, moved = tensors["histograms"][number]
        edges = numpy.linspace(low, high, len(clean) + 1)
        panel.stairs(100 * clean, edges, fill=True, color=style.LIGHT, label="clean")
        panel.stairs(100 * moved, edges, color=attacked, linewidth=0.9, label="attacked")
        panels.log(panel)
        name = f"layer {number + 1}" if layer["name"].isdigit() else layer["name"]
        panel.set_title(f"{name}: {layer['relative_distance']:.2f}", loc="left", fontsize=7, pad=2)
    explained = (
        "beside each name: L2 distance of clean and attacked outputs, relative to the clean one's norm"
    )
    drawn.supxlabel(f"Output\n({explained})", fontsize=8)
    drawn.supylabel("Share of values (%)", fontsize=8)
    style.legend(drawn, 2, "upper")
    return drawn
