"""How every figure looks: sizes, one colour an activation, and files that are the same bytes every time."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from ...registry import ACTIVATIONS, label
from ...runtime.files import atomic_path
from . import panels

COLUMN = 3.5  # inches: one column of a two-column page
PAGE = 7.2

GREY = "#8c8c8c"
LIGHT = "#d9d9d9"

# Of activations whose entries name no colour.
_SPARE = ("#882255", "#44AA99", "#999933", "#AA4499", "#332288")

matplotlib.rcdefaults()  # a matplotlibrc of the user's would change the figures
matplotlib.rcParams |= {
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "svg.hashsalt": "kafnets",  # names of its parts are the same every time
    "pdf.fonttype": 42,  # embeds the fonts as TrueType, which publishers ask for
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
}


def figure(width, height, rows=1, columns=1, **options):
    """A new figure and its axes in the house style (constrained layout)."""
    size = (width, height)
    return pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


def save(drawn, pdf, png):
    """Writes a figure as PDF and PNG, and beside that as SVG, and closes it.

    The same figure gives the same bytes.
    """
    files = (
        (pdf, "pdf", {"CreationDate": None}),
        (png, "png", {"Software": None}),
        (Path(png).with_suffix(".svg"), "svg", {"Date": None}),
    )
    for path, kind, metadata in files:
        if kind == "svg":  # its parts lie as in the PNG: to lay them out again would take half of the time
            drawn.set_layout_engine("none")
        content = io.BytesIO()  # matplotlib on a full disk ends in an error that does not say so
        drawn.savefig(content, format=kind, metadata=metadata)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())
    pyplot.close(drawn)


def colour(activation):
    """The colour of an activation, the same in every figure."""
    if activation not in ACTIVATIONS:
        return GREY
    others = [name for name, entry in ACTIVATIONS.items() if not entry.colour]
    return ACTIVATIONS[activation].colour or _SPARE[others.index(activation) % len(_SPARE)]


def learns(activation):
    """Whether an activation is drawn as one that learns: solid and filled."""
    return activation in ACTIVATIONS and ACTIVATIONS[activation].learns


def written(activation):
    """The colour in which an activation's name is written on white."""
    return panels.dark(colour(activation))


_DASH, _GAP = 3.0, 1.2


def line(activation):
    """The keyword arguments with which `plot` draws an activation's curve.

    Of curves that coincide more than the last is seen: dashes are above solid lines, and begin elsewhere in
    each activation's curve, so that in the gaps of one there are the dashes of another.
    """
    learned = learns(activation)
    place = list(ACTIVATIONS).index(activation) if activation in ACTIVATIONS else 0
    dashes = ((_DASH + _GAP) / 2 * (place % 2) + 0.7 * (place // 2 % 3), (_DASH, _GAP))
    return {
        "color": colour(activation),
        "linestyle": "-" if learned else dashes,
        "linewidth": 1.3 if learned else 1.1,
        "zorder": 2.1 if learned else 2.2,
        "label": label(activation),
    }


def marker(activation):
    """The keyword arguments with which `scatter` draws an activation's point.

    Without a marker of its own it is a thin diamond if it is fixed, and a filled x if it learns.
    """
    learned = learns(activation)
    own = ACTIVATIONS[activation].marker if activation in ACTIVATIONS else ""
    return {
        "color": colour(activation),
        "marker": own or ("X" if learned else "d"),
        "s": 34 if learned else 26,
    }


def legend(drawn, columns, place="lower", handles=None, **options):
    """One legend for all panels, below ("lower") or above them ("upper"), no wider than the figure.

    Args:
        drawn: the figure.
        columns: at most.
        handles: what it explains; without, every label in the figure once.
        options: of matplotlib's.
    """
    if handles is None:
        named = {}
        for panel in drawn.axes:
            for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
                named.setdefault(name, handle)
    else:
        named = {handle.get_label(): handle for handle in handles}
    for count in range(min(columns, len(named)), 0, -1):
        where = {"loc": f"outside {place} center", "ncols": count}
        made = drawn.legend(list(named.values()), list(named), **where, **options)
        if made.get_window_extent(drawn.canvas.get_renderer()).width <= drawn.bbox.width or count == 1:
            return
        made.remove()


def moved(panel, move):
    """The transform of a panel's data that puts a marker aside, by so many points to the right and up."""
    across, up = move
    return panel.transData + ScaledTranslation(across / 72, up / 72, panel.figure.dpi_scale_trans)


def point_key(name, marker, **options):
    """A legend's entry for a kind of point."""
    return Line2D([], [], linestyle="none", marker=marker, color=GREY, label=name, **options)
