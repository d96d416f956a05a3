"""Markers that would hide each other: drawn side by side, or as rings around each other."""

import numpy

# All lengths in points (1/72 inch).
HIDDEN = 4.0  # markers nearer than this hide each other
APART = 6.5  # and stand so far apart instead
SAME = 0.75  # dots of lines nearer than this are one
RING, WIDER = 3.2, 2.6  # diameter of the first ring around them, and how much wider the next one is
FREE = 24.0  # rings of the same lines are so far apart: along lines that run together they would be a chain


def groups(places, nearer):
    """The indices of `places` in groups of which each member is nearer than `nearer` to another one."""
    left, found = list(range(len(places))), []
    while left:
        group, waiting = [], [left.pop(0)]
        while waiting:
            one = waiting.pop()
            group.append(one)
            near = [i for i in left if numpy.hypot(*numpy.subtract(places[i], places[one])) < nearer]
            left = [i for i in left if i not in near]
            waiting += near
        found.append(sorted(group))
    return found


def side_by_side(places):
    """By how much each marker is moved, (N, 2), so that those that hide each other stand beside each other.

    Only across: each keeps its own height, which tells it from its neighbours.

    Args:
        places: (N, 2) of their centres, in points.
    """
    moves = numpy.zeros((len(places), 2))
    for group in groups(places, HIDDEN):
        order = sorted(group, key=lambda i: places[i][0])
        middle = numpy.mean([places[i][0] for i in group])
        for number, i in enumerate(order if len(group) > 1 else ()):
            aside = APART * (number - (len(group) - 1) / 2)
            moves[i] = middle + aside - places[i][0], 0
    return moves


def columns(heights):
    """The column of each marker, the first that is free at its height: a list of numbers from 0.

    Args:
        heights: of their centres, in points.
    """
    taken, found = [], []
    for height in heights:
        free = (i for i, column in enumerate(taken) if all(abs(height - other) >= APART for other in column))
        number = next(free, len(taken))
        taken += [[]] if number == len(taken) else []
        taken[number].append(height)
        found.append(number)
    return found


def in_points(panel, x, y):
    """Where a point of a panel is on its figure, in points; its layout is fixed before."""
    return panel.transData.transform((x, y)) * 72 / panel.figure.dpi


def rings(drawn):
    """Where dots of several lines coincide, a ring in the colour of each line that lies beneath another.

    Lines that run together over many dots have rings at some of these.

    Args:
        drawn: the figure, complete but for these.
    """
    drawn.draw_without_rendering()
    for panel in drawn.axes:
        dots = [
            (line, x, y)
            for line in panel.lines
            if line.get_marker() not in (None, "None", "")
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
            if numpy.isfinite([x, y]).all()
        ]
        places = [in_points(panel, x, y) for _, x, y in dots]
        ringed = {}
        for group in groups(places, SAME):
            lines, place = tuple(dots[i][0] for i in group), places[group[0]]
            if any(numpy.hypot(*(place - other)) < FREE for other in ringed.get(lines, ())):
                continue
            ringed.setdefault(lines, []).append(place)
            # the last one is drawn on top and is seen
            for number, i in enumerate(group[-2::-1]):
                line, x, y = dots[i]
                options = {"facecolors": "none", "edgecolors": line.get_color(), "linewidths": 0.9}
                panel.scatter(x, y, s=(RING + WIDER * (number + 1)) ** 2, zorder=3, clip_on=False, **options)
