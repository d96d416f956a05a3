"""Names beside points, placed so that none covers another name, a point or an error bar."""

from math import cos, pi, sin

import numpy
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from . import style

# All lengths in points (1/72 inch).
RADIUS = 3.5  # of a marker
PADDING = 1.0  # around a name
DISTANCES = (1.0, 4.0, 8.0, 13.0, 19.0, 26.0, 34.0)  # of a name from its marker's edge
DIRECTIONS = 16
FREE = 5.0  # up to here a name needs no leader line
SWEEPS = 8

# What a square point of overlap costs against a point of distance.
COST_NAME, COST_POINT, COST_BAR = 50.0, 20.0, 4.0


def write(drawn, axes, points, bars=(), occupied=(), size=7, signs=None):
    """Writes a name beside each point, with a leader line where it had to go further away.

    The layout is fixed from here on. Each name in turn takes the cheapest of a ring of places, given where
    the others are, until none moves.

    Args:
        drawn, axes: the figure, complete but for the names.
        points: name -> (x, y) of the middle of its marker, in points from the figure's corner.
        bars: pairs of ends of error bars, and `occupied`, of further markers that names must not cover; as
            `points`.
        size: of the font.
        signs: name -> what stands behind it.

    Returns:
        the list of the names' boxes, in points from the figure's corner.
    """
    labels = {name: style.label(name) + (signs or {}).get(name, "") for name in points}
    fix(drawn)
    scale = 72 / drawn.dpi
    renderer = drawn.canvas.get_renderer()
    centres = [numpy.asarray(place) for place in points.values()]
    markers = [_around(numpy.asarray(centre), RADIUS) for centre in (*centres, *occupied)]
    boxes_of_bars = [Bbox(ends).padded(0.5) for ends in bars]
    texts = [axes.text(0, 0, labels[name], fontsize=size) for name in points]
    extents = [text.get_window_extent(renderer) for text in texts]
    sizes = [(extent.width * scale + 2 * PADDING, extent.height * scale + 2 * PADDING) for extent in extents]
    for text in texts:
        text.remove()
    frame = Bbox(axes.get_window_extent(renderer).get_points() * scale)

    options = [_options(centre, size) for centre, size in zip(centres, sizes, strict=True)]
    fixed = [
        [cost + _fixed_cost(box, frame, markers, boxes_of_bars) for cost, box in ring] for ring in options
    ]
    chosen = [min(range(len(costs)), key=costs.__getitem__) for costs in fixed]
    for _ in range(SWEEPS):
        before = list(chosen)
        for i, ring in enumerate(options):
            others = [options[j][chosen[j]][1] for j in range(len(options)) if j != i]
            chosen[i] = min(
                range(len(ring)),
                key=lambda k, i=i, ring=ring, others=others: (
                    fixed[i][k] + COST_NAME * _overlap(ring[k][1], others)
                ),
            )
        if chosen == before:
            break
    boxes = [ring[k][1] for ring, k in zip(options, chosen, strict=True)]
    for name, centre, box in zip(points, centres, boxes, strict=True):
        _write(axes, labels[name], style.written(name), centre, box, size)
    return boxes


def fix(drawn):
    """Fixes a figure's layout, which places in points depend on."""
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")


def _around(centre, radius):
    return Bbox([centre - radius, centre + radius])


def _options(centre, size):
    """The places a name of that size may take around its point: (distance, box)."""
    (x, y), (width, height) = centre, size
    ring = []
    for distance in DISTANCES:
        for direction in range(DIRECTIONS):
            angle = 2 * pi * direction / DIRECTIONS
            # the box touches the circle of that distance with the side or corner that faces the point
            right, up = cos(angle) * (RADIUS + distance), sin(angle) * (RADIUS + distance)
            left = x + right - width * (1 - cos(angle)) / 2
            low = y + up - height * (1 - sin(angle)) / 2
            ring.append((distance, Bbox.from_bounds(left, low, width, height)))
    return ring


def _fixed_cost(box, frame, markers, bars):
    outside = box.width * box.height - _overlap(box, [frame])
    crowding = COST_POINT * _overlap(box, markers) + COST_BAR * _overlap(box, bars)
    return COST_NAME * outside + crowding


def _overlap(box, others):
    """The area that a box shares with others."""
    return sum(
        max(0.0, min(box.x1, other.x1) - max(box.x0, other.x0))
        * max(0.0, min(box.y1, other.y1) - max(box.y0, other.y0))
        for other in others
    )


def _write(axes, label, colour, centre, box, size):
    point = axes.transData.inverted().transform(centre * axes.figure.dpi / 72)
    offset = ((box.x0 + box.x1) / 2 - centre[0], (box.y0 + box.y1) / 2 - centre[1])
    edge = (min(max(centre[0], box.x0), box.x1), min(max(centre[1], box.y0), box.y1))
    gap = ((edge[0] - centre[0]) ** 2 + (edge[1] - centre[1]) ** 2) ** 0.5 - RADIUS
    if gap > FREE:
        end = (edge[0] - centre[0], edge[1] - centre[1])
        leader = {"arrowstyle": "-", "color": style.GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate("", point, end, textcoords="offset points", arrowprops=leader, zorder=3)
    axes.annotate(
        label,
        point,
        offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=colour,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
        zorder=5,
    )
