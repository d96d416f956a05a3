"""The certificates of one experiment as a table: a row a certificate and activation."""

from dataclasses import dataclass

import numpy

from ..registry import CERTIFICATES, label
from . import certificates, statistics
from .typesetting import NOT_RUN, Cell, Column, Table

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)  # those of the literature's tables, L2


@dataclass(frozen=True)
class _Quantity:
    """A column: of certifications of several seeds, in percent where it is a share."""

    key: str
    head: str
    value: object  # function of a Certification
    norm: str = ""  # whose certificates alone have it
    at_eps: bool = False  # those alone that try an eps of their own have it
    is_share: bool = True
    digits: int = 1
    has_best: bool = True  # whether the largest is a merit


def build(found, experiment, settings):
    """The table of one experiment.

    Args:
        found: list of `certificates.Certification` of the experiment.
        experiment: its name.
        settings: of :func:`kafnets.config.certification.certified_settings`.
    """
    grouped, chosen = certificates.by_certificate(found), settings["certificates"]
    columns = _quantities([chosen[name] for name in grouped])
    rows, records = [], []
    for name in (name for name in chosen if name in grouped):
        of_activation = {one: grouped[name][one] for one in settings["activations"] if one in grouped[name]}
        cells = [_cells(column, chosen[name], list(of_activation.values())) for column in columns]
        for activation, *of_row in zip(of_activation, *cells, strict=True):
            rows.append((Cell(label(activation)), Cell(name), *of_row))
            records.append(_record(activation, name, chosen[name], columns, of_activation[activation]))
    return Table(
        name=f"{experiment}_certificates",
        title=f"{settings['title']}: certificates",
        caption=_caption(grouped, settings),
        columns=(
            Column("Activation"),
            Column("Certificate"),
            *(Column(column.head) for column in columns),
        ),
        rows=tuple(rows),
        records=tuple(records) or ({},),
        breaks_heads=True,
    )


def _quantities(chosen):
    norms = {one["norm"] for one in chosen}
    found = [_Quantity("clean_accuracy", "Clean", lambda one: one.record["clean_accuracy"])]
    if "l2" in norms:
        found += [
            _Quantity(f"l2_{radius:g}", f"{radius:g}", lambda one, r=radius: one.certified(r), "l2")
            for radius in RADII
        ]
        found.append(
            _Quantity("acr", "ACR", lambda one: one.record["average_radius"], "l2", is_share=False, digits=3)
        )
    if any(_has_eps(one) for one in chosen):
        found.append(_Quantity("linf_eps", "At ε", _at_own_radius, "linf", at_eps=True))
    found.append(
        _Quantity(
            "abstained",
            "Abstained",
            lambda one: one.record["abstained"] / one.record["examples"],
            has_best=False,
        )
    )
    found.append(
        _Quantity(
            "seconds_per_image",
            "s an image",
            lambda one: one.record["seconds_per_image"],
            is_share=False,
            digits=2,
            has_best=False,
        )
    )
    return found


def _at_own_radius(one):
    arguments = one.record["settings"]["arguments"]
    return one.certified(certificates.shown_radius({"norm": "linf", "arguments": arguments})[0])


def _applies(column, certificate):
    return column.norm in ("", certificate["norm"]) and (not column.at_eps or _has_eps(certificate))


def _has_eps(certificate):
    """Whether it is of the L-infinity norm and tries an eps; by a Lipschitz constant none is tried."""
    return certificate["norm"] == "linf" and certificate["arguments"].get("eps") is not None


def _cells(column, certificate, networks):
    """The cells of a column in the rows of one certificate; the best is bold."""
    if not _applies(column, certificate):
        return [Cell(NOT_RUN)] * len(networks)
    figures = [_over_seeds(column, seeds) for seeds in networks]
    printed = [_number(column, mean) for mean, _ in figures]
    best = None
    if column.has_best and len(networks) > 1 and any(float(one) for one in printed):
        best = max(printed, key=float)
    return [
        Cell(text, bold=text == best, deviation="" if spread is None else _number(column, spread))
        for text, (_, spread) in zip(printed, figures, strict=True)
    ]


def _over_seeds(column, seeds):
    """The mean over the seeds, and the sample standard deviation; None of one seed."""
    values = [column.value(one) for one in seeds]
    return float(numpy.mean(values)), float(numpy.std(values, ddof=1)) if len(values) > 1 else None


def _number(column, value):
    return f"{100 * value if column.is_share else value:.{column.digits}f}"


def _record(activation, name, certificate, columns, seeds):
    """A line of the CSV file: shares in percent with their 95 % intervals, spread over seeds."""
    examples = seeds[0].record["examples"]
    record = {
        "activation": activation,
        "label": label(activation),
        "certificate": name,
        "method": certificate["method"],
        "norm": certificate["norm"],
        "radius": certificates.shown_radius(certificate)[1] if _has_eps(certificate) else "",
        "seeds": len(seeds),
        "examples": examples,
    }
    for column in columns:
        applies = _applies(column, certificate)
        mean, spread = _over_seeds(column, seeds) if applies else (None, None)
        scale = 100 if column.is_share else 1
        record[column.key] = "" if mean is None else f"{scale * mean:.4f}"
        record[f"{column.key}_std"] = "" if spread is None else f"{scale * spread:.4f}"
        if column.is_share and column.has_best:
            interval = statistics.wilson(mean * examples, examples) if applies else None
            record[f"{column.key}_low"] = "" if interval is None else f"{100 * interval.low:.4f}"
            record[f"{column.key}_high"] = "" if interval is None else f"{100 * interval.high:.4f}"
    return record


# -- the caption

_DESCRIBED = {
    "sigma": "sigma {}",
    "samples": "{:,} samples",
    "alpha": "alpha {}",
    "eps": "ε = {}",
}


def _caption(grouped, settings):
    certifications = [one for by in grouped.values() for seeds in by.values() for one in seeds]
    counts = sorted({one.record["examples"] for one in certifications})
    images = " or ".join(f"{count:,}" for count in counts)
    described = "; ".join(
        f"{name}: {_details(settings['certificates'][name])}"
        for name in settings["certificates"]
        if name in grouped
    )
    seeds = max((len(seeds) for by in grouped.values() for seeds in by.values()), default=1)
    spread = (
        ", one seed" if seeds < 2 else f", mean ± sample standard deviation over n = {seeds} seeds at most"
    )
    norms = {settings["certificates"][name]["norm"] for name in grouped}
    sentences = [
        f"{settings['title']}: what is proved of {images} test images, in percent{spread}.",
        "Clean: the network itself is right, without noise.",
    ]
    if "l2" in norms:
        sentences.append(
            "0 to 1.5: the certificate's answer is right and cannot change within that L2 radius, in units "
            "of the pixel range; at 0 its accuracy. ACR: average certified radius, 0 where it is wrong or "
            "abstains."
        )
    if any(_has_eps(settings["certificates"][name]) for name in grouped):
        sentences.append("At ε: right, and no perturbation within the certificate's ε, L∞, changes that.")
    if any(settings["certificates"][name]["method"] == "smoothing" for name in grouped):
        sentences.append(
            "Smoothing certifies the smoothed classifier, not the network alone, and each image with "
            "probability 1 - alpha."
        )
    sentences.append(f"{described}. Bold: best of its certificate and column.")
    if counts:
        widest = statistics.wilson(counts[0] / 2, counts[0])
        half = 50 * (widest.high - widest.low)
        sentences.append(f"A share of {counts[0]:,} images is good to {half:.0f} points or less (95%).")
    return " ".join(sentences)


def _details(certificate):
    entry = CERTIFICATES.get(certificate["method"])
    name = entry.label if entry and entry.label else certificate["method"]
    given = certificate["arguments"]
    parts = [words.format(given[key]) for key, words in _DESCRIBED.items() if given.get(key) is not None]
    return ", ".join([name, certificates.NORMS[certificate["norm"]], *parts])
