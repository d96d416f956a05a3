"""The names of certificates, and what each takes: classes derived from certification.entry.Certificate."""

from ..entry import Entry

# of halvings in the search for the largest certified radius
_STEPS = {"steps": {"type": "integer", "minimum": 0, "maximum": 50}}
_SAMPLES = {"type": "integer", "minimum": 1, "maximum": 100_000_000}

# `method` of an entry of certification.certificates; `norm` is that of its radii.
CERTIFICATES = {
    "smoothing": Entry(
        "kafnets.certification.smoothing:Smoothing",
        label="randomised smoothing",
        norm="l2",
        required=("sigma",),
        optional=("selection_samples", "samples", "alpha", "seed"),
        settings={
            "selection_samples": _SAMPLES,
            "samples": _SAMPLES,
            "alpha": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        },
    ),
    "ibp": Entry(
        "kafnets.certification.linf:IntervalBounds",
        label="IBP",
        norm="linf",
        required=("eps",),
        settings=_STEPS,
    ),
    "crown": Entry(
        "kafnets.certification.linf:Crown",
        label="CROWN",
        norm="linf",
        required=("eps",),
        settings={**_STEPS, "intermediate": {"enum": ["crown", "interval"]}},
    ),
    "lipschitz": Entry(
        "kafnets.certification.margins:LipschitzMargin",
        label="Lipschitz constant",
        norm="l2",
        optional=("norm",),
    ),
}
