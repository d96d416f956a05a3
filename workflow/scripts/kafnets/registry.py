"""Every name that config.yaml may use, and where its code lives.

Adding an activation, an architecture, an adversary, an attack or a data set is writing it and adding one
line here. This module imports nothing heavy: the workflow reads it in a process that has no torch.
"""

import difflib
import importlib
from dataclasses import dataclass, field

from .runtime.errors import UserError


@dataclass(frozen=True)
class Entry:
    """Where the code of one name lives: `target` is "module:object", called with `arguments`.

    `required` and `optional` are the settings that config.yaml must and may give beside the name; `examples`
    is how many training and test images a data set has. `sources` says of an attack whether the models of the
    experiment's other activations are "needed" or "used" by it, `norm` which it takes when none is given.
    Of an activation `learns` says whether it has parameters of its own, `per` for what it is made: "channel"
    (then the number of channels is its first argument) or "" for a layer of any size; `backend` names the
    function that tells what computes it on a device.
    """

    target: str
    arguments: dict = field(default_factory=dict)
    label: str = ""
    required: tuple = ()
    optional: tuple = ()
    examples: tuple = field(default=(), repr=False)
    sources: str = field(default="", repr=False)
    norm: str = field(default="linf", repr=False)
    learns: bool = False
    per: str = ""
    backend: str = ""

    def load(self):
        """The object itself (imports its module)."""
        return _load(self.target)

    def backend_on(self, device):
        """What computes an activation on a device, where there are several; else None."""
        return _load(self.backend)(device) if self.backend else None


def _load(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _kaf(label, **arguments):
    backend = "kafnets.activations.kaf.functional:active_backend"
    target = "kafnets.activations.kaf.layer:KAF"
    return Entry(target, arguments, label, learns=True, per="channel", backend=backend)


ACTIVATIONS = {
    "relu": Entry("torch.nn:ReLU", label="ReLU"),
    "elu": Entry("torch.nn:ELU", label="ELU"),
    "tanh": Entry("torch.nn:Tanh", label="Tanh"),
    "gelu": Entry("torch.nn:GELU", label="GELU"),
    "softplus": Entry("torch.nn:Softplus", label="Softplus"),
    "swish": Entry("torch.nn:SiLU", label="Swish"),
    "kaf": _kaf("KAF"),
    "kaf_relu": _kaf("KAF_ReLU", init="relu"),
    "kaf_elu": _kaf("KAF_ELU", init="elu"),
    "kaf_swish": _kaf("KAF_Swish", init="swish"),
    "kaf_free": _kaf("KAF_Free", trainable_dictionary=True, trainable_bandwidth=True),
}

ARCHITECTURES = {
    "vgg": Entry("kafnets.models.vgg:VGG", label="VGG"),
    **{
        f"resnet{depth}": Entry("kafnets.models.resnet:ResNet", {"depth": depth}, f"ResNet{depth}")
        for depth in (8, 20, 32, 44, 56, 110)
    },
}

# What an update of a training minimises: subclasses of kafnets.training.methods.base.Method.
ADVERSARIES = {
    "none": Entry("kafnets.training.methods.standard:Standard", label="standard"),
    "fbf": Entry("kafnets.training.methods.fbf:FBF", label="FBF", required=("eps", "step")),
}

_PGD = ("eps", "step", "iterations", "restarts")
# every attack's: passes of a random network that are averaged, and the seed of the attack's random numbers
_ANY = ("eot_samples", "start_seed")


def _standard(name, label, *optional):
    return Entry(
        f"kafnets.attacks.auto_attack:{name}",
        label=label,
        required=("eps",),
        optional=("norm", *optional, *_ANY),
    )


def _nearest(name, label, norm, *optional):
    return Entry(
        f"kafnets.attacks.minimum_norm:{name}",
        label=label,
        norm=norm,
        optional=("eps", "iterations", *optional, *_ANY),
    )


# `method` of an entry of evaluation.attacks.
ATTACKS = {
    "clean": Entry("kafnets.attacks.clean:clean", label="clean", optional=("eot_samples",)),
    "fgsm": Entry("kafnets.attacks.pgd:fgsm", label="FGSM", required=("eps",), optional=_ANY),
    "pgd": Entry(
        "kafnets.attacks.pgd:pgd",
        label="PGD",
        required=_PGD,
        optional=("loss", "norm", "momentum", "targets", *_ANY),
    ),
    "thesis_pgd": Entry(
        "kafnets.attacks.thesis:thesis_pgd",
        label="PGD, thesis protocol",
        required=_PGD,
        optional=_ANY,
    ),
    "autoattack": _standard("autoattack", "AutoAttack"),
    "apgd_ce": _standard("apgd_ce", "APGD-CE", "iterations", "restarts"),
    "apgd_t": _standard("apgd_t", "APGD-T", "iterations", "restarts"),
    "fab_t": _standard("fab_t", "FAB-T", "iterations", "restarts"),
    "square": _standard("square", "Square", "queries", "restarts"),
    # by the distance of the nearest misclassified image; without eps it is robust when there is none at all
    "cw": _nearest("cw", "C&W", "l2", "search_steps", "learning_rate", "confidence"),
    "deepfool": _nearest("deepfool", "DeepFool", "l2", "norm", "overshoot"),
    "fmn": _nearest("fmn", "FMN", "linf", "norm", "step", "shrink"),
    "noise": Entry(
        "kafnets.attacks.black_box:noise",
        label="random noise",
        required=("eps",),
        optional=("samples", "norm", *_ANY),
    ),
    "transfer": Entry(
        "kafnets.attacks.black_box:transfer",
        label="transfer from the other activations' models",
        required=("eps", "step", "iterations"),
        optional=("momentum", "norm", "sources", *_ANY),
        sources="needed",
    ),
    # made for trainable activations: their values as they are, another derivative (backward)
    "adaptive_pgd": Entry(
        "kafnets.attacks.adaptive:adaptive_pgd",
        label="adaptive PGD",
        required=_PGD,
        optional=(
            *("backward", "width", "delta", "loss", "norm", "momentum", "targets", "sources"),
            *_ANY,
        ),
        sources="used",
    ),
}

# The rows of the thesis's ResNet20 table: weights in NAME.zip of the author, NAME.safetensors once converted.
PUBLISHED = {
    "relu": "resnet20_relu_ocrob_lrf",
    "elu": "resnet20_elu_ocrob_lrf",
    "kaf": "resnet20_kaf_ocrob_lrfinder",
    "kaf_relu": "resnet20_kafrelu_ocrob_lrfinder_last",
    "kaf_elu": "resnet20_kafelu_ocrob_lrf",
    "swish": "resnet20_swish_ocrob_lrf",
    "kaf_swish": "resnet20_kafswish_ocrob_lrfinder",
    "kaf_free": "resnet20_kafs_freedictkb_ocrob_lrfinder",
}

DATASETS = {
    "cifar10": Entry("kafnets.data.cifar10:prepare_cifar10", label="CIFAR-10", examples=(50_000, 10_000)),
    "digits": Entry(
        "kafnets.data.digits:prepare_digits", label="handwritten digits (scikit-learn)", examples=(1_400, 397)
    ),
}


def is_trainable(activation):
    """Whether the activation named `activation` has parameters of its own."""
    return ACTIVATIONS[activation].learns


def lookup(table, name, what):
    """The entry `name` of a registry `table`; `what` names the kind in the error.

    Raises:
        UserError: for an unknown name, with the closest known one.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), table, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"{what}: {name!r} is not known; {hint}choose one of {', '.join(table)}")
