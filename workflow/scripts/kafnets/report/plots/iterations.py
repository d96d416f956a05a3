"""Robust accuracy against the attack's iterations: whether more of them would have mattered."""

import numpy

from . import style


def draw(curves, robust):
    """Left: from the clean images on. Right: the last half of the iterations, with what the restarts added.

    Args:
        curves: activation -> list of `accuracy_by_iteration` of the first restart, one a seed.
        robust: activation -> accuracy under every restart, mean over the seeds.
    """
    drawn, (panels,) = style.figure(style.PAGE, 2.7, 1, 2)
    whole, end = panels
    for activation, seeds in curves.items():
        mean = 100 * numpy.array(seeds).mean(axis=0)
        steps = numpy.arange(len(mean))
        whole.plot(steps, mean, **style.line(activation))
        half = len(mean) // 2
        end.plot(steps[half:], mean[half:], **style.line(activation))
        place = steps[-1] * 1.04
        end.plot([steps[-1], place], [mean[-1], 100 * robust[activation]], color=style.LIGHT, linewidth=0.5)
        end.scatter(place, 100 * robust[activation], linewidths=0, zorder=3, **style.marker(activation))
    whole.set_title("First restart, all iterations", loc="left")
    end.set_title("Second half, and every restart (markers)", loc="left")
    for panel in panels:
        panel.set_xlabel("Iteration")
        panel.xaxis.get_major_locator().set_params(integer=True)
    whole.set_ylabel("Robust accuracy (%)")
    style.legend(drawn, whole, 8)
    return drawn
