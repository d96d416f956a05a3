"""Every name that config.yaml may use, where its code lives, and what it takes.

Adding an activation, an architecture or a data set is writing it and adding one line here; an adversary, an
attack or a certificate, a line in kafnets/entries/{training,attacks,certificates}.py. Names of a user's own,
which the configuration declares, are added by :func:`adopt`. This module imports nothing heavy: the workflow
reads it in a process that has no torch.
"""

import difflib
import json
import os
from pathlib import Path

from .entries.activations import (
    ANY_NUMBER,
    BASES,
    BOOLEAN,
    FEW,
    POSITIVE,
    SCALE,
    START_OR_NORMAL,
    TAILS,
    fixed,
    kaf,
    kaf_with_base,
    learned,
    lipschitz_kaf,
    spline,
)
from .entries.attacks import ATTACKS
from .entries.certificates import CERTIFICATES  # noqa: F401 (read from here, as all tables are)
from .entries.detection import DETECTION_ATTACKS, DETECTORS  # noqa: F401
from .entries.training import ADVERSARIES, AROUND, PENALTIES  # noqa: F401
from .entry import Entry
from .runtime.errors import UserError

# The environment variable by which a script is told of the user's own names: as JSON, or the path of the
# configuration file that declares them.
OWN = "KAFNETS_OWN"

# The colours are Okabe and Ito's, told apart under every common colour blindness. A fixed activation and the
# KAF that starts from it share the colour; the line (dashed, solid) or marker tells them apart.
ACTIVATIONS = {
    "relu": fixed("ReLU", "ReLU", "#0072B2"),
    "elu": fixed("ELU", "ELU", "#E69F00", alpha=POSITIVE),
    "tanh": fixed("Tanh", "Tanh", "#56B4E9"),
    "gelu": fixed("GELU", "GELU", "#D55E00", approximate={"enum": ["none", "tanh"]}),
    "softplus": fixed("Softplus", "Softplus", "#8B6914", beta=POSITIVE, threshold=POSITIVE),
    "swish": fixed("SiLU", "Swish", "#009E73"),
    "kaf": kaf("KAF", "#000000"),
    "kaf_relu": kaf("KAF_ReLU", "#0072B2", init="relu"),
    "kaf_elu": kaf("KAF_ELU", "#E69F00", init="elu"),
    "kaf_swish": kaf("KAF_Swish", "#009E73", init="swish"),
    "kaf_free": kaf("KAF_Free", "#CC79A7", trainable_dictionary=True, trainable_bandwidth=True),
    "kaf_identity_base": kaf_with_base("identity", "x+KAF", "#7F7F7F"),
    "kaf_relu_base": kaf_with_base("relu", "ReLU+KAF", "#4FA3DB"),
    "kaf_elu_base": kaf_with_base("elu", "ELU+KAF", "#B36B00"),
    "kaf_silu_base": kaf_with_base("silu", "Swish+KAF", "#00C494"),
    "prelu": learned("prelu:PReLU", "PReLU", "#332288", "o", init=ANY_NUMBER),
    "swish_beta": learned("smooth:SwishBeta", "Swish-beta", "#117733", "s", init=ANY_NUMBER),
    "psoftplus": learned("smooth:PSoftplus", "PSoftplus", "#88CCEE", "^", per="network", init=SCALE),
    "pssilu": learned(
        "smooth:PSSiLU",
        *("PSSiLU", "#882255", "v"),
        per="network",
        decay=0.0005,  # the authors'
        a=SCALE,
        b={"type": "number", "minimum": 0, "maximum": 0.95},
        learn_b=BOOLEAN,
    ),
    "smooth_relu": learned("smooth:SmoothReLU", "SmoothReLU", "#6699CC", "<", per="layer", init=SCALE),
    # its authors' decay
    "apl": learned("hinges:APL", "APL", "#AA4499", ">", decay=0.001, hinges=FEW),
    "splash": learned(
        *("hinges:SPLASH", "SPLASH", "#999933", "D"),
        per="layer",
        hinges={"type": "array", "minItems": 1, "items": {"type": "number", "minimum": 0}},
    ),
    "maxout": learned("hinges:Maxout", "Maxout", "#661100", "d", pieces={**FEW, "minimum": 2}),
    "rational": learned(
        *("rational:Rational", "Rational", "#44AA99", "p"),
        per="layer",
        version={"enum": ["A", "B"]},
        init={"enum": ["leaky_relu", "relu", "elu", "tanh", "swish"]},
    ),
    "cubic_spline": spline(
        *("CubicSpline", "Cubic spline", "#CC6677", "h", 4),
        basis={"enum": ["catmull_rom", "b_spline"]},
        tails=TAILS,
    ),
    "linear_spline": spline("LinearSpline", "Linear spline", "#DDCC77", "*", tails=TAILS),
    "lipschitz_spline": spline("LipschitzSpline", "1-Lipschitz spline", "#5B2A86", "H"),
    "maxmin": Entry(
        "kafnets.activations.sorting:MaxMin",
        label="MaxMin",
        per="channel",
        elementwise=False,
        colour="#F0A0C0",
    ),
    "kaf_1lip": lipschitz_kaf("LipschitzKAF", "1-Lipschitz KAF", "#A65628", init=START_OR_NORMAL),
    "kaf_base_1lip": lipschitz_kaf(
        "LipschitzKAFWithBase", "1-Lipschitz base+KAF", "#4D4D99", base={"enum": list(BASES)}
    ),
    # masks its gradient, and is known not to be robust: what an evaluation that works has to show
    "kwta": Entry(
        "kafnets.activations.sorting:KWinners",
        label="k-WTA",
        elementwise=False,
        settings={"gamma": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}},
        colour="#B22222",
    ),
}

_RATE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
_DROPOUT = {"type": "array", "minItems": 4, "maxItems": 4, "items": _RATE}
_SIZES = {
    "width": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "depth": {"type": "integer", "minimum": 1, "maximum": 100},
}
_BLOCK = {"block": {"enum": ["thesis", "original", "preact"]}}
ARCHITECTURES = {
    # three times halved
    "vgg": Entry("kafnets.models.vgg:VGG", label="VGG", settings={"dropout": _DROPOUT}, smallest=8),
    **{
        f"resnet{depth}": Entry(
            "kafnets.models.resnet:ResNet", {"depth": depth}, f"ResNet{depth}", settings=_BLOCK
        )
        for depth in (8, 20, 32, 44, 56, 110)
    },
    "preactresnet18": Entry(
        "kafnets.models.preact_resnet:PreActResNet18",
        label="PreActResNet18",
        settings={"skip_input": {"enum": ["activated", "input"]}},
    ),
    "lipschitz_cnn": Entry(
        "kafnets.models.lipschitz:LipschitzCNN",
        label="1-Lipschitz CNN",
        settings=_SIZES,
        smallest=4,
        multiple=4,
    ),
    "lipschitz_mlp": Entry("kafnets.models.lipschitz:LipschitzMLP", label="1-Lipschitz MLP", settings=_SIZES),
    "unconstrained_cnn": Entry("kafnets.models.lipschitz:UnconstrainedCNN", label="CNN", settings=_SIZES),
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

_SMALL_IMAGES = {"classes": 10, "channels": 3, "size": 32}
DATASETS = {
    "cifar10": Entry(
        "kafnets.data.cifar10:prepare_cifar10",
        label="CIFAR-10",
        examples=(50_000, 10_000),
        files=("cifar-10-python.tar.gz",),
        **_SMALL_IMAGES,
    ),
    "cifar100": Entry(
        "kafnets.data.cifar100:prepare_cifar100",
        label="CIFAR-100",
        examples=(50_000, 10_000),
        files=("cifar-100-python.tar.gz",),
        **{**_SMALL_IMAGES, "classes": 100},
    ),
    "svhn": Entry(
        "kafnets.data.svhn:prepare_svhn",
        label="SVHN",
        examples=(73_257, 26_032),
        files=("train_32x32.mat", "test_32x32.mat"),
        **_SMALL_IMAGES,
    ),
    "tiny_imagenet": Entry(
        "kafnets.data.tiny_imagenet:prepare_tiny_imagenet",
        label="Tiny ImageNet",
        examples=(100_000, 10_000),
        files=("tiny-imagenet-200.zip",),
        **{**_SMALL_IMAGES, "classes": 200, "size": 64},
    ),
    "digits": Entry(
        "kafnets.data.digits:prepare_digits",
        label="handwritten digits (scikit-learn)",
        examples=(1_400, 397),
        **_SMALL_IMAGES,
    ),
    # as they are, for deep networks on a CPU
    "digits8": Entry(
        "kafnets.data.digits:prepare_digits",
        {"name": "digits8", "size": 8},
        label="handwritten digits (scikit-learn), 8 x 8",
        examples=(1_400, 397),
        **{**_SMALL_IMAGES, "size": 8},
    ),
}

# The tables that a configuration may add names of the user's own to, by its keys.
OWN_TABLES = {
    "activations": ACTIVATIONS,
    "architectures": ARCHITECTURES,
    "attack_methods": ATTACKS,
    "datasets": DATASETS,
    "networks": ARCHITECTURES,  # with weights: nothing of them is trained
}


def is_trainable(activation):
    """Whether the activation named `activation` has parameters of its own."""
    return ACTIVATIONS[activation].learns


def label(activation):
    """The name of an activation in print, or of a network of the user's own that stands in its place."""
    entry = ACTIVATIONS.get(activation) or _own("networks", ARCHITECTURES).get(activation)
    return entry.label if entry and entry.label else activation


def lookup(table, name, what):
    """The entry `name` of a registry `table`; `what` names the kind in the error.

    Raises:
        UserError: for an unknown name, with the closest known one.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), table, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"{what}: {name!r} is not known; {hint}choose one of {', '.join(table)}, or let the environment "
        f"variable {OWN} name the configuration file that declares it"
    )


def adopt(config, folders=()):
    """Adds the user's own names that a configuration declares, in place of those of an earlier one.

    Args:
        config (dict): a configuration, or its part with the keys of `OWN_TABLES`; each maps names to the
            arguments of :class:`Entry`. The workflow checks them before (kafnets/config/own.py).
        folders (iterable of Path): where to look for their modules; the first that has one is taken.

    Raises:
        UserError: for what is no entry, or has the name of one that comes with the repository.
    """
    for table in OWN_TABLES.values():
        for name in [name for name, entry in table.items() if entry.own]:
            del table[name]
    for kind, table in OWN_TABLES.items():
        for name, facts in (config.get(kind) or {}).items():
            if name in table:
                raise UserError(f"{kind}.{name}: is taken; write another name")
            table[name] = _own_entry(f"{kind}.{name}", facts, folders)


def _own_entry(where, facts, folders):
    try:
        kind, _, name = where.partition(".")
        if kind == "datasets":
            facts = {"label": name, **(_of_source(name, facts, folders) if facts.get("source") else facts)}
        place = {"folder": folder_of(facts["target"], folders), **facts}
        if "weights" in facts:
            place["weights"] = file_of(facts["weights"], folders)
        lists = {key: tuple(value) for key, value in place.items() if isinstance(value, list)}
        return Entry(**{**place, **lists, "own": True})
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: is no entry ({error}); write a mapping with a target") from None


def _of_source(name, facts, folders):
    """The facts of a data set that has a source; without a target, what its images tell, are among them."""
    source = path_of(facts["source"], folders)
    if "target" in facts:
        return {**facts, "source": source}
    from . import sources  # a job is told the facts, and looks for none

    given = {key: facts[key] for key in ("size", "channels") if key in facts}
    try:
        return {**facts, **sources.described(name, source, **given), "source": source}
    except UserError as error:
        raise UserError(f"datasets.{name}.source: {error}") from None


def folder_of(target, folders):
    """The first of some folders that has the module of "module:object", or "" when none has."""
    top = target.partition(":")[0].partition(".")[0]
    for folder in map(Path, folders):
        if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
            return str(folder.resolve())
    return ""


def file_of(name, folders):
    """The path of a file in the first of some folders that has it; the name itself when none has."""
    return path_of(name, folders, Path.is_file)


def path_of(name, folders, is_there=Path.exists):
    """As :func:`file_of`, of a file or a folder."""
    found = (Path(folder) / name for folder in folders)
    return next((str(path.resolve()) for path in found if is_there(path)), name)


def own_names():
    """The user's own names, in a form that :func:`adopt` takes in another process."""
    return {
        kind: {name: entry.facts() for name, entry in own.items()}
        for kind, table in OWN_TABLES.items()
        if (own := _own(kind, table))
    }


def _own(kind, table):
    """The user's own entries of a kind: networks share the table of architectures, and have weights."""
    return {
        name: entry
        for name, entry in table.items()
        if entry.own and bool(entry.weights) == (kind == "networks")
    }


def _adopt_from_environment():
    text = os.environ.get(OWN, "")
    if text.lstrip().startswith("{"):
        adopt(json.loads(text))
    elif text:
        import yaml

        try:
            config = yaml.safe_load(Path(text).read_bytes())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{OWN}: {text} cannot be read ({error})") from None
        adopt(config or {}, (Path(text).parent, Path.cwd()))


_adopt_from_environment()
