"""Entries of the registry for the kinds of activations, and what their settings may be."""

from ..entry import Entry

BOOLEAN = {"type": "boolean"}
SHARE = {"share": {"enum": ["channel", "layer", "network"]}}
_KAF_SETTINGS = {
    **SHARE,
    "D": {"type": "integer", "minimum": 2, "maximum": 1000},
    "boundary": {"type": "number", "minimum": 1e-6, "maximum": 1000},
    "bandwidth": {
        "oneOf": [
            {"enum": ["thesis", "reference"]},
            {"type": "number", "minimum": 1e-18, "maximum": 1_000_000},
        ]
    },
    "std": {"type": "number", "minimum": 0, "maximum": 1000},
    "ridge": {"type": "number", "minimum": 1e-12, "maximum": 1},
    "kernel": {"enum": ["gaussian", "relu", "softplus"]},
    "arithmetic": {"enum": ["float32", "float16"]},
    "trainable_dictionary": BOOLEAN,
    "trainable_bandwidth": BOOLEAN,
}


def kaf(label, colour, **arguments):
    return Entry(
        "kafnets.activations.kaf.layer:KAF",
        arguments,
        label,
        settings=_KAF_SETTINGS,
        conflicts=(("trainable_bandwidth", True, "kernel", "gaussian", "has no bandwidth to train"),),
        learns=True,
        per="channel",
        backend="kafnets.activations.kaf.functional:active_backend",
        colour=colour,
    )


def kaf_with_base(base, label, colour):
    kept = ("D", "boundary", "bandwidth", "std", "ridge", "trainable_dictionary", "trainable_bandwidth")
    free = ("trainable_dictionary", "trainable_bandwidth")
    fixed = (("tails", "zero"), ("parametrisation", "alpha"))
    return Entry(
        "kafnets.activations.kaf.with_base:KAFWithBase",
        {"base": base},
        label,
        settings={
            **SHARE,
            **{name: _KAF_SETTINGS[name] for name in kept},
            "tails": {"enum": ["zero", "clamp", "linear"]},
            "parametrisation": {"enum": ["alpha", "values"]},
        },
        conflicts=tuple(
            (name, True, other, only, f"does not go with {name}") for name in free for other, only in fixed
        ),
        learns=True,
        per="channel",
        backend="kafnets.activations.kaf.functional:active_backend",
        colour=colour,
        marker="P",
    )


def lipschitz_kaf(target, label, colour, **settings):
    kept = ("D", "boundary", "bandwidth", "std", "trainable_dictionary", "trainable_bandwidth")
    return Entry(
        f"kafnets.activations.kaf.one_lipschitz:{target}",
        label=label,
        settings={**SHARE, **{name: _KAF_SETTINGS[name] for name in kept}, **settings},
        learns=True,
        per="channel",
        backend="kafnets.activations.kaf.functional:active_backend",
        colour=colour,
        marker="X",
    )


def learned(target, label, colour, marker, per="channel", decay=0.0, **settings):
    return Entry(
        f"kafnets.activations.{target}",
        label=label,
        settings={**SHARE, **settings},
        learns=True,
        per=per,
        decay=decay,
        colour=colour,
        marker=marker,
    )


def fixed(target, label, colour, **settings):
    return Entry(f"torch.nn:{target}", label=label, colour=colour, settings=settings)


POSITIVE = {"type": "number", "minimum": 1e-6, "maximum": 1000}
SCALE = {"type": "number", "minimum": 0.001, "maximum": 1000}
ANY_NUMBER = {"type": "number", "minimum": -1000, "maximum": 1000}
FEW = {"type": "integer", "minimum": 1, "maximum": 100}
START = {"enum": ["identity", "abs", "leaky_relu", "relu", "elu", "tanh", "gelu", "softplus", "swish"]}
START_OR_NORMAL = {"enum": ["normal", *START["enum"]]}
BASES = ("identity", "relu", "elu", "silu")
TAILS = {"enum": ["linear", "clamp"]}


def spline(target, label, colour, marker, knots=3, **settings):
    knots = {"type": "integer", "minimum": knots, "maximum": 1000}
    settings = {"knots": knots, "boundary": SCALE, "init": START, **settings}
    return learned(f"splines:{target}", label, colour, marker, **settings)
