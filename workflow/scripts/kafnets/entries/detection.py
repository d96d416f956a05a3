"""The names of detectors, and of the attacks on a network beside which one stands."""

from dataclasses import replace

from ..entry import Entry
from .attacks import ATTACKS

_WITHIN = {"type": "string", "pattern": "^[A-Za-z0-9_]+([.][A-Za-z0-9_]+)*$", "maxLength": 200}
# How a detector is trained: kafnets.detection.training.Recipe.
_TRAINED = ("eps", "step")
_TRAINING = {
    "iterations": "iterations",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "rate",
    "decay": {"type": "number", "minimum": 0, "maximum": 1},
    "dynamic": {"type": "boolean"},
    "layer": _WITHIN,
}

# `method` of an entry of detection.detectors: subclasses of kafnets.detection.base.Detector.
DETECTORS = {
    "confidence": Entry("kafnets.detection.confidence:Confidence", label="the network's largest probability"),
    "metzen": Entry(
        "kafnets.detection.metzen:Metzen",
        label="detector network",
        required=_TRAINED,
        settings={**_TRAINING, "width": {"type": "integer", "minimum": 1, "maximum": 10_000}},
    ),
    "kaf_statistics": Entry(
        "kafnets.detection.activation_statistics:ActivationStatistics",
        label="activation statistics",
        required=_TRAINED,
        settings={
            **_TRAINING,
            "statistics": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": {"type": "string", "enum": ["beyond", "steep", "responses"]},
            },
            "softness": {"type": "number", "minimum": 0.001, "maximum": 100},
            "hidden": {"type": "integer", "minimum": 0, "maximum": 10_000},
        },
    ),
}

_PGD = ("eps", "step", "iterations")
_MARGIN = {"margin": {"type": "number", "minimum": 0, "maximum": 1000}}
_SHARES = {
    "type": "array",
    "minItems": 1,
    "uniqueItems": True,
    "items": {"type": "number", "minimum": 0, "maximum": 1},
}


def _blind(name):
    """An attack of evaluation.attacks, on the network alone, which must not be random."""
    optional = tuple(one for one in ATTACKS[name].optional if one != "eot_samples")
    return replace(ATTACKS[name], optional=optional)


def _along_both(name, label, **settings):
    return Entry(
        f"kafnets.detection.attacks:{name}",
        label=label,
        required=_PGD,
        optional=("restarts", "loss", "norm", "start_seed"),
        settings=settings,
        adaptive=True,
    )


# `method` of an entry of detection.attacks: the first ones know nothing of the detector.
DETECTION_ATTACKS = {
    "pgd": Entry(
        "kafnets.detection.attacks:static_pgd",
        label="PGD",
        required=_PGD,
        optional=("restarts", "loss", "norm", "momentum", "start_seed"),
    ),
    **{name: _blind(name) for name in ("fgsm", "deepfool", "fmn", "cw", "square", "apgd_ce", "noise")},
    "combined_pgd": _along_both("combined_pgd", "combined gradients", weights=_SHARES),
    "selective_pgd": _along_both("selective_pgd", "selective PGD", **_MARGIN),
    "orthogonal_pgd": _along_both("orthogonal_pgd", "orthogonal PGD", **_MARGIN),
    "cw_detector": Entry(
        "kafnets.detection.carlini_wagner:cw_detector",
        label="C&W, N + 1 classes",
        norm="l2",
        optional=("eps", "iterations", "search_steps", "learning_rate", "confidence", "start_seed"),
        adaptive=True,
    ),
}
