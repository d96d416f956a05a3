"""Certified accuracy against the radius: of every certificate a panel, of every activation a curve."""

import numpy

from .. import certificates
from . import style

_COLUMNS = 3


def draw(found, settings):
    """Curves that fall from the accuracy of the certificate's answers to 0 at the largest radius.

    Args:
        found: list of `certificates.Certification` of one experiment.
        settings: of :func:`kafnets.config.certification.certified_settings`.
    """
    grouped = certificates.by_certificate(found)
    names = [name for name in settings["certificates"] if name in grouped]
    rows, columns = -(-len(names) // _COLUMNS), min(len(names), _COLUMNS)
    width = style.PAGE if columns > 1 else style.COLUMN
    drawn, axes = style.figure(width, 0.5 + 2.2 * rows, rows, columns, sharey=True)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(axes.flat, names, strict=False):
        norm = settings["certificates"][name]["norm"]
        for activation in settings["activations"]:
            if activation in grouped[name]:
                _curve(panel, activation, grouped[name][activation], 1 if norm == "l2" else 255)
        panel.set_title(f"{name}, {_images(grouped[name])} images", loc="left")
        panel.set_xlabel(f"{certificates.NORMS[norm]} radius" + ("" if norm == "l2" else " (in 1/255)"))
        panel.set_ylim(bottom=0)
    _same_ends(list(axes.flat), [settings["certificates"][name]["norm"] for name in names])
    for row in axes:
        row[0].set_ylabel("Certified accuracy (%)")
    style.legend(drawn, 8 if columns > 1 else 4)
    return drawn


def _images(of_activation):
    counts = {one.record["examples"] for seeds in of_activation.values() for one in seeds}
    return " or ".join(f"{count:,}" for count in sorted(counts))


def _curve(panel, activation, seeds, unit):
    """The share of images whose radius is x or more, mean over the seeds: a step down behind each radius."""
    radii = numpy.unique(numpy.concatenate([[0.0], *(one.radii for one in seeds)]))
    shares = [numpy.mean([one.certified(radius) for one in seeds]) for radius in radii]
    x, y = [*radii, radii[-1]], [*shares, 0.0]
    panel.plot(unit * numpy.array(x), 100 * numpy.array(y), drawstyle="steps-pre", **style.line(activation))


def _same_ends(panels, norms):
    """Panels of the same norm have the same axis, so that they can be compared."""
    for norm in set(norms):
        of_norm = [panel for panel, other in zip(panels, norms, strict=False) if other == norm]
        end = max(panel.get_xlim()[1] for panel in of_norm)
        for panel in of_norm:
            panel.set_xlim(0, end)
