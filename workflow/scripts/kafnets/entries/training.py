"""The names of what trainings minimise, and what each takes."""

from ..entry import Entry

# What a training may add to its loss: functions of the activation layers (`training.penalties`).
PENALTIES = {
    name: Entry(f"kafnets.training.penalties:{name}", label=label)
    for name, label in {
        "slope": "alpha' K alpha of KAFs",
        "tv2": "second-order total variation of linear splines",
        "saf_start": "squared distance of cubic splines from their start",
        "pssilu_b": "|b| of PSSiLU",
        "l2": "sum of squares of the activations' parameters",
        "chi": "chi - 1 of the activations, by which they let gradients grow with depth",
    }.items()
}

# What an update of a training minimises: subclasses of kafnets.training.methods.base.Method.
_METHODS = "kafnets.training.methods"
# of the network while perturbations are crafted
_MODE = {"crafting_mode": {"enum": ["train", "eval"]}}
_WEIGHT = {"type": "number", "minimum": 0, "maximum": 1000}


def _multi_step(target, label, **settings):
    return Entry(
        f"{_METHODS}.{target}",
        label=label,
        required=("eps", "step"),
        optional=("iterations",),
        settings={**_MODE, **settings},
    )


ADVERSARIES = {
    "none": Entry("kafnets.training.methods.standard:Standard", label="standard"),
    "fbf": Entry("kafnets.training.methods.fbf:FBF", label="FBF", required=("eps", "step")),
    "n_fgsm": Entry(
        f"{_METHODS}.n_fgsm:NFGSM",
        label="N-FGSM",
        required=("eps",),
        optional=("step",),
        settings={"noise": {"type": "number", "minimum": 0, "maximum": 10}},
    ),
    "grad_align": Entry(
        f"{_METHODS}.grad_align:GradAlign",
        label="GradAlign",
        required=("eps",),
        optional=("step",),
        settings={"weight": _WEIGHT},
    ),
    "free": Entry(
        f"{_METHODS}.free:Free",
        label="Free",
        required=("eps",),
        settings={"replays": {"type": "integer", "minimum": 1, "maximum": 100}},
    ),
    "pgd_at": _multi_step("pgd_at:PGDTraining", "PGD-AT"),
    "trades": _multi_step("trades:TRADES", "TRADES", beta=_WEIGHT),
    "mart": _multi_step("mart:MART", "MART", beta=_WEIGHT),
    "ibp": Entry(
        f"{_METHODS}.ibp:IBP",
        label="IBP",
        required=("eps",),
        settings={
            "warm_up": {"type": "integer", "minimum": 0, "maximum": 10_000},
            "ramp": {"type": "integer", "minimum": 1, "maximum": 10_000},
            "kappa": {"type": "number", "minimum": 0, "maximum": 1},
        },
    ),
    "gaussian": Entry(f"{_METHODS}.gaussian:Gaussian", label="Gaussian noise", required=("sigma",)),
    "smooth_adv": Entry(
        f"{_METHODS}.smooth_adv:SmoothAdv",
        label="SmoothAdv",
        required=("sigma", "radius"),
        optional=("iterations",),
        settings={
            **_MODE,
            "radius": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
            "noises": {"type": "integer", "minimum": 1, "maximum": 100},
            "warm_up": {"type": "integer", "minimum": 0, "maximum": 10_000},
        },
    ),
    # for certificates by Lipschitz constants
    "lmt": Entry(
        f"{_METHODS}.lmt:LipschitzMarginTraining",
        label="LMT",
        settings={
            "c": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
            "warm_up": {"type": "integer", "minimum": 0, "maximum": 10_000},
        },
    ),
    "offset": Entry(
        f"{_METHODS}.offset:OffsetCrossEntropy",
        label="offset cross-entropy",
        settings={
            "offset": {"type": "number", "minimum": 0, "maximum": 1000},
            "temperature": {"type": "number", "minimum": 0.001, "maximum": 1000},
        },
    ),
}
# What works on top of any of these, by its key under `training`, with the settings that stand there.
AROUND = {"awp": Entry(f"{_METHODS}.awp:AWP", label="AWP")}
