"""Robust accuracy against the attack's radius, and against far more iterations than usual."""

import numpy

from . import style


def draw(cards):
    """Left: PGD anew at every radius, square-root scale. Right: the long run of iterations at one radius.

    Args:
        cards: activation -> list of its cards (`report.cards.Card`), one a seed.
    """
    drawn, (panels,) = style.figure(style.PAGE, 2.9, 1, 2, sharey=True)
    by_radius, by_iteration = panels
    for activation, seeds in cards.items():
        radii = [float(point["eps"].partition("/")[0]) for point in seeds[0].figures["radii"]]
        accuracies = [[point["accuracy"] for point in card.figures["radii"]] for card in seeds]
        _curve(by_radius, activation, radii, accuracies, marker=".", markersize=4)
        runs = [card.figures["accuracy_by_iteration"] for card in seeds]
        _curve(by_iteration, activation, range(len(runs[0])), runs)
    first = next(iter(cards.values()))[0]
    _mark(by_radius, float(first.settings["card"]["eps"].partition("/")[0]))
    _mark(by_iteration, first.figures["iterations"])
    by_radius.set_xscale("function", functions=(lambda x: numpy.sqrt(numpy.maximum(x, 0)), numpy.square))
    by_radius.set_xticks(_apart(radii), [f"{radius:g}" for radius in _apart(radii)])
    by_radius.set_xlim(0, radii[-1] * 1.03)
    by_radius.set_xlabel("Radius ε (in 1/255)")
    by_radius.set_ylabel(f"Robust accuracy (%), {first.figures['examples']:,} images")
    by_radius.set_title("PGD, one random start", loc="left")
    by_iteration.set_xscale("symlog", linthresh=10, subs=[1.0])
    by_iteration.set_xlim(0, len(first.figures["accuracy_by_iteration"]) - 1)
    ticks = [tick for tick in (0, 2, 5, 10, 20, 50, 100, 150) if tick <= by_iteration.get_xlim()[1]]
    by_iteration.set_xticks(ticks, list(map(str, ticks)))
    by_iteration.set_xlabel("Iteration")
    by_iteration.set_title(f"ε = {first.settings['card']['eps']}, one random start", loc="left")
    style.legend(drawn, by_radius, 8)
    return drawn


def _curve(axes, activation, x, accuracies, **options):
    axes.plot(x, 100 * numpy.array(accuracies).mean(axis=0), **style.line(activation), **options)


def _mark(axes, place):
    axes.axvline(place, color=style.GREY, linewidth=0.6, linestyle=":", zorder=0)


def _apart(radii):
    """Those of the radii whose numbers do not run into each other on a square-root scale."""
    least, chosen = 0.06 * radii[-1] ** 0.5, [radii[0]]
    for radius in radii[1:]:
        if radius**0.5 - chosen[-1] ** 0.5 >= least:
            chosen.append(radius)
    return chosen
