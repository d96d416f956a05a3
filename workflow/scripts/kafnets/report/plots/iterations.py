"""Robust accuracy against the attack's iterations: whether more of them would have mattered."""

import numpy

from . import coinciding, noise, panels, style


def draw(curves, robust, examples):
    """Left: from the clean images on. Right: the last half of the iterations, with what the restarts added.

    Args:
        curves: activation -> list of `accuracy_by_iteration` of the first restart, one a seed.
        robust: activation -> accuracy under every restart, mean over the seeds.
        examples: test images.
    """
    drawn, (pair,) = style.figure(style.PAGE, 2.7, 1, 2)
    whole, end = pair
    ends = {}
    for activation, seeds in curves.items():
        mean = 100 * numpy.array(seeds).mean(axis=0)
        steps = numpy.arange(len(mean))
        half = len(mean) // 2
        for panel, first in ((whole, 0), (end, half)):
            dots = {"marker": ".", "markersize": 4} if len(mean) - first < 3 else {}
            panel.plot(steps[first:], mean[first:], **style.line(activation), **dots)
        ends[activation] = steps[-1] + max(0.04 * steps[-1], 0.1), 100 * robust[activation]
        end.plot(*zip((steps[-1], mean[-1]), ends[activation], strict=True), color=style.LIGHT, linewidth=0.5)
    whole.set_title("First restart, all iterations", loc="left")
    end.set_title("Second half, and every restart (markers)", loc="left")
    for panel in pair:
        panel.set_xlabel("Iteration")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panels.percent(panel)
    whole.set_ylabel(f"Robust accuracy (%)\n{noise.reach(examples)}")
    style.legend(drawn, 8)
    coinciding.rings(drawn)
    _restarts(drawn, end, ends)
    return drawn


def _restarts(drawn, panel, ends):
    """The markers of what every restart left, none of them over another."""
    columns = coinciding.columns([coinciding.in_points(panel, *place)[1] for place in ends.values()])
    _widen(panel, min(x for x, _ in ends.values()), (1 + max(columns, default=0)) * coinciding.APART)
    moves = [(coinciding.APART * column, 0) for column in columns]
    for (activation, place), move in zip(ends.items(), moves, strict=True):
        moved = style.moved(panel, move)
        panel.scatter(
            *place, linewidths=0, zorder=3, transform=moved, clip_on=False, **style.marker(activation)
        )


def _widen(panel, start, room):
    """Makes an axis so long that there are `room` points to the right of `start`; its ticks stay."""
    left, right = panel.get_xlim()
    share = room * panel.figure.dpi / 72 / panel.get_window_extent().width
    panel.set_xticks([tick for tick in panel.get_xticks() if left <= tick <= start])
    panel.set_xlim(left, max(right, (start - share * left) / (1 - share)))
