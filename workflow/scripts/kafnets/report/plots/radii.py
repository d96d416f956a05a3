"""Robust accuracy against the attack's radius, and against far more iterations than usual."""

import numpy

from . import coinciding, noise, panels, style


def draw(cards):
    """Left: PGD anew at every radius, square-root scale. Right: the long run of iterations at one radius.

    Args:
        cards: activation -> list of its cards (`report.cards.Card`), one a seed.
    """
    drawn, (pair,) = style.figure(style.PAGE, 2.9, 1, 2, sharey=True)
    by_radius, by_iteration = pair
    for activation, seeds in cards.items():
        radii = [_number(point["eps"]) for point in seeds[0].figures["radii"]]
        accuracies = [[point["accuracy"] for point in card.figures["radii"]] for card in seeds]
        _curve(by_radius, activation, radii, accuracies, marker=".", markersize=4)
        runs = [card.figures["accuracy_by_iteration"] for card in seeds]
        _curve(by_iteration, activation, range(len(runs[0])), runs)
    first = next(iter(cards.values()))[0]
    eps = _number(first.settings["card"]["eps"])
    _mark(by_radius, eps)
    _mark(by_iteration, first.figures["iterations"])
    panels.percent(by_radius)
    by_radius.set_xscale("function", functions=(lambda x: numpy.sqrt(numpy.maximum(x, 0)), numpy.square))
    by_radius.set_xticks(_apart(radii, eps), [f"{radius:g}" for radius in _apart(radii, eps)])
    by_radius.set_xlim(0, radii[-1] * 1.03)
    by_radius.set_xlabel("Radius ε (in 1/255; square-root scale)")
    by_radius.set_ylabel(f"Robust accuracy (%)\n{noise.reach(first.figures['examples'])}")
    by_radius.set_title("PGD, one random start", loc="left")
    last = len(first.figures["accuracy_by_iteration"]) - 1
    by_iteration.set_xscale("symlog", linthresh=10, subs=[1.0])
    by_iteration.set_xlim(0, last)
    ticks = [tick for tick in (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick < 0.8 * last] + [last]
    by_iteration.set_xticks(ticks, list(map(str, ticks)))
    scale = "linear scale to 10, then logarithmic" if last > 10 else "linear scale"
    by_iteration.set_xlabel(f"Iteration ({scale})")
    by_iteration.set_title(f"ε = {first.settings['card']['eps']}, one random start", loc="left")
    style.legend(drawn, 8)
    coinciding.rings(drawn)
    return drawn


def _number(eps):
    return float(eps.partition("/")[0])


def _curve(panel, activation, x, accuracies, **options):
    panel.plot(x, 100 * numpy.array(accuracies).mean(axis=0), **style.line(activation), **options)


def _mark(panel, place):
    line = {"color": style.GREY, "linewidth": 0.8, "linestyle": ":", "zorder": 0}
    panel.axvline(place, label="ε and iterations of the card's PGD", **line)


def _apart(radii, always):
    """Radii whose numbers do not run into each other on a square-root scale, `always` among them."""
    least = 0.06 * radii[-1] ** 0.5
    chosen = [radius for radius in (always, radii[-1]) if radius in radii]
    for radius in radii:
        if all(abs(radius**0.5 - other**0.5) >= least for other in chosen):
            chosen.append(radius)
    return sorted(set(chosen))
