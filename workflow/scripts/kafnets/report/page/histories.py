"""A network's training as a small drawing: accuracies of every epoch."""

import math

from .markup import element

WIDTH, HEIGHT, MARGIN = 320, 100, 10
CURVES = {
    "clean_accuracy": "clean",
    "probe_fgsm_accuracy": "held out, one step (FGSM)",
    "probe_pgd_accuracy": "held out, several steps (PGD)",
}


def drawing(history):
    """The accuracies of a training that were measured, from 0 to 100 %, over its epochs.

    Args:
        history: of `manifest.read_history`.
    """
    measured = {name: _points(history, name) for name in CURVES}
    measured = {name: points for name, points in measured.items() if points}
    lines = (_curve(points, len(history), name) for name, points in measured.items())
    grid = (
        element("line", x1=0, x2=WIDTH, y1=_height(share), y2=_height(share), class_="grid")
        for share in (0, 0.5, 1)
    )
    scale = (
        element("text", f"{share:.0%}", x=WIDTH, y=_height(share) - 1.5, class_="scale") for share in (0.5, 1)
    )
    said = "; ".join(f"{CURVES[name]} {points[-1][1]:.0%}" for name, points in measured.items())
    alt = f"Accuracy over {len(history)} epochs, from 0 to 100 %. At the end: {said}."
    keys = [
        element("li", element("span", aria_hidden="true", class_=name), f"{CURVES[name]} {points[-1][1]:.1%}")
        for name, points in measured.items()
    ]
    drawn = element("svg", *grid, *scale, *lines, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt)
    return element("div", drawn, element("ul", *keys, class_="keys"), class_="history")


def last_epoch(history):
    """Name -> text of what was measured in the last epoch."""
    last = history.iloc[-1]
    named = {
        "Epochs": f"{last.epoch:g}",
        "Loss": f"{last.loss:.4g}",
        "Learning rate": f"{last.learning_rate:.4g}",
    }
    return {name: text for name, text in named.items() if text != "nan"}


def _points(history, name):
    pairs = zip(history["epoch"], history[name], strict=True)
    return [(epoch, share) for epoch, share in pairs if not math.isnan(share)]


def _curve(points, epochs, name):
    places = [(WIDTH * (epoch - 0.5) / max(1, epochs), _height(share)) for epoch, share in points]
    if len(places) == 1:
        return element("circle", cx=f"{places[0][0]:.1f}", cy=f"{places[0][1]:.1f}", r=2.5, class_=name)
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_=name)


def _height(share):
    return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)
