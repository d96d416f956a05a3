"""Panels that can be read: ticks, limits, ink on a ground, words for what is missing."""

from math import ceil, floor, inf, log10

from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter

QUIET = "#595959"  # of words beside the data: seven times as dark as white
STEPS = [1, 2, 2.5, 5, 10]  # between ticks
READABLE = 4.5  # the least contrast of small print (WCAG 2.2, criterion 1.4.3)


# -- ticks


class PlainLog(Locator):
    """Few ticks on a logarithmic axis: 1, 2 and 5 of each decade, else decades; even steps on a short axis.

    Args:
        most (int): ticks.
    """

    def __init__(self, most=6):
        self.most = most

    def __call__(self):
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, low, high):
        """The ticks from `low` to `high`, both positive."""
        low, high = sorted((low, high))
        if low <= 0:
            return []
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        fine = _between((step * 10.0**power for power in powers for step in (1, 2, 5)), low, high)
        if len(fine) < 3:
            return _between(MaxNLocator(self.most - 1, steps=STEPS).tick_values(low, high), low, high)
        if len(fine) <= self.most:
            return fine
        decades = _between((10.0**power for power in powers), low, high)
        return decades[:: ceil(len(decades) / self.most)]


class _Shares(MaxNLocator):
    """Ticks of percentages: none outside 0 to 100."""

    def tick_values(self, low, high):
        return _between(super().tick_values(low, high), 0, 100)


def _between(ticks, low, high):
    return [tick for tick in ticks if low <= tick <= high]


def plain(value, _=None):
    """A number as it is read, without an exponent unless it is very small or large."""
    power = floor(log10(abs(value)) + 1e-9) if value else 0
    if -5 < power < 6:
        return f"{value:.6g}"
    factor = "" if f"{value / 10.0**power:g}" == "1" else rf"{value / 10.0**power:g}\times "
    return rf"${factor}10^{{{power}}}$"


# -- limits


def log(panel, which="y", least=2.0):
    """A logarithmic axis ("x" or "y") with plain numbers, its ends at least a factor `least` apart."""
    getattr(panel, f"set_{which}scale")("log")
    axis = getattr(panel, f"{which}axis")
    axis.set_major_locator(PlainLog())
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_formatter(NullFormatter())
    low, high = _drawn(panel, which)
    if 0 < low <= high < low * least:
        middle, reach = (low * high) ** 0.5, least**0.5
        getattr(panel, f"set_{which}lim")(middle / reach, middle * reach)


def limits(panel, which="y", *, least, low=-inf, high=inf, margin=0.05):
    """Limits around what is drawn, its ends at least `least` apart, and between `low` and `high`.

    Args:
        panel: an axes, with everything in it.
        which: "x" or "y".
        margin: added on both sides, as a share of what is between them.
    """
    start, end = _drawn(panel, which)
    if start > end:  # nothing
        return
    missing = least - (end - start)
    if missing > 0:
        start = min(max(start - missing / 2, low), high - least)
        end = start + least
    room = margin * (end - start)
    getattr(panel, f"set_{which}lim")(start - room, end + room)


def percent(panel, which="y", *, least=10.0, margin=0.05):
    """Limits and ticks of an axis of percentages, see :func:`limits`."""
    limits(panel, which, least=least, low=0, high=100, margin=margin)
    getattr(panel, f"{which}axis").set_major_locator(_Shares("auto", steps=STEPS))


def _drawn(panel, which):
    """From where to where there is something on an axis, in all panels that share it."""
    shared = getattr(panel, f"get_shared_{which}_axes")().get_siblings(panel)
    ends = [getattr(one.dataLim, f"interval{which}") for one in shared]
    return min(end[0] for end in ends), max(end[1] for end in ends)


# -- ink and words


def luminance(colour):
    """The relative luminance of a colour, from 0 of black to 1 of white (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(colour, ground):
    """The contrast of two colours, from 1 to 21 (WCAG 2.2)."""
    dark, light = sorted(map(luminance, (colour, ground)))
    return (light + 0.05) / (dark + 0.05)


def ink(ground):
    """Black or white, whichever is read better on that ground."""
    return max(("black", "white"), key=lambda colour: contrast(colour, ground))


def dark(colour):
    """A colour in which words can be written on white: itself, or as much darker as that takes."""
    red, green, blue = to_rgb(colour)
    while contrast((red, green, blue), "white") < READABLE:
        red, green, blue = 0.95 * red, 0.95 * green, 0.95 * blue
    return red, green, blue


def say(panel, words, centred=False):
    """Says in a panel what it does not show: below the data, or in the middle of an empty one."""
    options = {"transform": panel.transAxes, "fontsize": 6, "color": QUIET, "linespacing": 1.15, "zorder": 6}
    if centred:
        panel.text(0.5, 0.5, words, ha="center", va="center", **options)
        return
    height = panel.get_position().height * panel.figure.get_figheight() * 72  # in points, nearly
    _make_room(panel, min((4 + 8 * (1 + words.count("\n"))) / height, 0.6))
    panel.text(0.01, 0.02, words, ha="left", va="bottom", **options)


def _make_room(panel, share):
    """Lowers the lower end of a panel, so that nothing drawn lies in that share of its height."""
    scale = panel.yaxis.get_transform()
    low, high = scale.transform(panel.get_ylim())
    start, end = scale.inverted().transform([low - share / (1 - share) * (high - low), high])
    if start > 0 or panel.get_yscale() != "log":  # below the least of all floats there is no room
        panel.set_ylim(start, end)
