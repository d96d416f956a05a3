"""Networks side by side: accuracy without an attack, under one, and certified."""

from .. import certificates
from ..summary import over_seeds
from . import style

_COLUMNS = 2
_KINDS = {"clean": "o", "attacked": "|", "certified": "D"}


def draw(found, rows, settings):
    """A panel for every certificate, in it a line for every activation: what is certified, robust, right.

    Where the attack has the certificate's norm and radius, it leaves at least what is certified of the same
    images. Attack and certificate may be of other numbers of images, which a panel's title says, with which
    attack and which radius it shows.

    Args:
        found: list of `certificates.Certification` of one experiment.
        rows: the experiment's rows of the summary.
        settings: of :func:`kafnets.config.certification.certified_settings`.
    """
    grouped = certificates.by_certificate(found)
    names = [name for name in settings["certificates"] if name in grouped]
    lines, columns = -(-len(names) // _COLUMNS), min(len(names), _COLUMNS)
    activations = [one for one in settings["activations"] if any(one in grouped[name] for name in names)]
    height = 0.6 + lines * (0.55 + 0.19 * len(activations))
    width = style.PAGE if columns > 1 else style.COLUMN
    drawn, axes = style.figure(width, max(height, 1.8), lines, columns, sharex=True, sharey=True)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(axes.flat, names, strict=False):
        attack, radius, words = certificates.compared(settings["certificates"][name], settings)
        of_attack = over_seeds(rows[rows["activation"].isin(list(grouped[name]))], attack)
        attacked = dict(of_attack["mean"])
        counts = _counts(grouped[name], of_attack["examples"])
        for place, activation in enumerate(activations):
            if activation in grouped[name]:
                shares = _shares(grouped[name][activation], radius)
                if activation in attacked:
                    shares["attacked"] = float(attacked[activation])
                _line(panel, place, activation, shares)
        title = f"{name}{counts}\nattacked: {words}"
        if columns == 1:  # too narrow for both radii in one line
            title = title.replace(", certified at", "\ncertified at")
        panel.set_title(title, loc="left", fontsize=7)
        panel.set_yticks(range(len(activations)), [style.label(one) for one in activations])
        panel.grid(axis="y", visible=False)
        panel.set_xlim(0, 100)
        panel.set_xlabel("Images (%)")
    axes[0, 0].set_ylim(len(activations) - 0.5, -0.5)
    keys = [style.point_key(kind, marker, **_look(kind, style.GREY)) for kind, marker in _KINDS.items()]
    drawn.legend(handles=keys, loc="outside lower center", ncols=len(keys), handletextpad=0.2)
    return drawn


def _counts(of_activation, attacked):
    """How many images were certified, and how many attacked where these are others."""
    certified = {one.record["examples"] for seeds in of_activation.values() for one in seeds}
    attacked = {int(count) for count in attacked}
    said = {
        kind: " or ".join(f"{count:,}" for count in sorted(counts))
        for kind, counts in (("certified", certified), ("attacked", attacked))
    }
    if certified == attacked or not attacked:
        return f", {said['certified']} images"
    return f", {said['certified']} images certified, {said['attacked']} attacked"


def _shares(seeds, radius):
    """Means over the seeds."""
    clean = [one.record["clean_accuracy"] for one in seeds]
    certified = [one.certified(radius) for one in seeds]
    return {"clean": sum(clean) / len(seeds), "certified": sum(certified) / len(seeds)}


def _look(kind, colour):
    face = "white" if kind == "clean" else colour
    return {"markerfacecolor": face, "markersize": {"attacked": 9, "certified": 4.5}.get(kind, 5)}


def _line(panel, place, activation, shares):
    colour = style.colour(activation)
    ends = [100 * shares["certified"], 100 * shares["clean"]]
    panel.plot(ends, [place, place], color=style.LIGHT, linewidth=1.0, zorder=1)
    for kind, share in shares.items():
        panel.plot(
            [100 * share],
            [place],
            linestyle="none",
            marker=_KINDS[kind],
            color=colour,
            clip_on=False,
            zorder=3,
            **_look(kind, colour),
        )
