"""Which values each setting may have, written down independently of the schema, and values that are wrong."""

import datetime
import json
import re

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from kafnets import registry
from kafnets.runtime.units import fraction

from tests.unit.config_builders import BASE, EXPERIMENT, NAME, REFERENCES, dotted


def whole(low, high):
    return lambda value: type(value) is int and low <= value <= high


def number(low, high, above=False, below=False):
    def right(value):
        if type(value) not in (int, float):
            return False
        return (low < value if above else low <= value) and (value < high if below else value <= high)

    return right


def one_of(*names):
    return lambda value: isinstance(value, str) and value in names


def text(pattern, most):
    return lambda value: (
        isinstance(value, str) and len(value) <= most and re.fullmatch(pattern, value) is not None
    )


def or_null(right):
    return lambda value: value is None or right(value)


def boolean(value):
    return type(value) is bool


def radius(value):
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,3}([.][0-9]{1,6})?/255", value):
        return False
    return float(value.removesuffix("/255")) <= 255


def path_text(value):
    unprintable = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
    if not isinstance(value, str) or unprintable.search(value) or set(value) & set("{}<>"):
        return False
    return 1 <= len(value) <= 4000 and not value.startswith("-")


OTHER_DATA = ("cifar100", "svhn", "tiny_imagenet")  # that are downloaded
TRAINING = (*EXPERIMENT, "training")
KAF = (*EXPERIMENT, "activation_arguments", "kaf")
DETECTOR = ("detection", "detectors", "metzen")
ARCHIVE = ("data", "published", "archives", "relu")
CERTIFICATE = ("certification", "certificates", "smoothing_25")
RIGHT = {
    ("output",): text(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", 200),
    ("device",): one_of("auto", "cpu", "cuda"),
    ("container",): or_null(text(r"[A-Za-z0-9_./][A-Za-z0-9_./:@+-]*", 500)),
    ("seeds", 0): lambda value: whole(0, 2**31 - 1)(value) and value != 1,
    ("run", 0): one_of(NAME),
    **{("data", name, "source"): or_null(path_text) for name in ("cifar10", *OTHER_DATA)},
    ("data", "published", "source"): or_null(path_text),
    ("data", "published", "url"): text(r"https://raw\.githubusercontent\.com/[A-Za-z0-9._/%~-]+", 4000),
    (*ARCHIVE, "bytes"): whole(1, 1_000_000_000),
    (*ARCHIVE, "sha256"): text("[0-9a-f]{64}", 64),
    (*EXPERIMENT, "title"): text(r"[A-Za-z0-9 ,.()+/-]+", 80),
    (*EXPERIMENT, "dataset"): one_of("cifar10", *OTHER_DATA, "digits", "digits8"),
    (*EXPERIMENT, "train_examples"): or_null(whole(1, 1400)),
    (*EXPERIMENT, "test_examples"): or_null(whole(1, 397)),
    (*EXPERIMENT, "reference"): or_null(one_of(*REFERENCES)),
    (*EXPERIMENT, "architecture"): one_of(
        *(name for name in registry.ARCHITECTURES if name.startswith("resnet"))
    ),
    (*EXPERIMENT, "architecture_arguments", "block"): one_of("thesis", "original", "preact"),
    (*EXPERIMENT, "activations", 0): one_of(*(name for name in registry.ACTIVATIONS if name != "kaf")),
    (*KAF, "D"): whole(2, 1000),
    (*KAF, "boundary"): number(1e-6, 1000),
    (*KAF, "bandwidth"): lambda value: one_of("thesis", "reference")(value) or number(1e-18, 1e6)(value),
    (*KAF, "std"): number(0, 1000),
    (*KAF, "ridge"): number(1e-12, 1),
    (*KAF, "kernel"): one_of("gaussian", "relu", "softplus"),
    (*KAF, "arithmetic"): one_of("float32", "float16"),
    (*KAF, "trainable_dictionary"): boolean,
    (*KAF, "trainable_bandwidth"): boolean,
    (*KAF, "share"): one_of("channel", "layer", "network"),
    (*TRAINING, "adversary", "name"): one_of("fbf"),
    (*TRAINING, "adversary", "eps"): radius,
    (*TRAINING, "adversary", "step"): radius,
    (*TRAINING, "epochs"): whole(61, 10_000),  # after the last drop
    (*TRAINING, "batch_size"): whole(1, 48),  # of 64, 16 are held out
    (*TRAINING, "augmentation"): one_of("none", "crop_flip"),
    (*TRAINING, "precision"): one_of("float32", "bfloat16", "float16"),
    (*TRAINING, "momentum"): number(0, 1, below=True),
    (*TRAINING, "activation_rate"): number(0, 1000),
    (*TRAINING, "penalties", "slope"): number(0, 1_000_000),
    (*TRAINING, "l2", "conv"): number(0, 1),
    (*TRAINING, "l2", "dense"): number(0, 1),
    (*TRAINING, "learning_rate", "default", 0): number(0, 0.1, above=True),
    (*TRAINING, "learning_rate", "kaf", 1): number(0.01, 100),
    (*TRAINING, "tail", "epochs"): whole(0, 10_000),
    (*TRAINING, "tail", "learning_rate"): number(0, 100, above=True),
    (*TRAINING, "tail", "halve_every"): whole(1, 10_000),
    (*TRAINING, "monitor", "eps"): radius,
    (*TRAINING, "monitor", "examples"): whole(1, 1_000_000),
    (*TRAINING, "monitor", "iterations"): whole(1, 100_000),
    (*TRAINING, "monitor", "every"): whole(1, 10_000),
    (*TRAINING, "schedule", "name"): one_of("piecewise"),  # the drops belong to it
    (*TRAINING, "schedule", "drops", 0): whole(1, 79),
    (*TRAINING, "schedule", "factor"): number(0, 1, above=True, below=True),
    (*TRAINING, "awp", "gamma"): number(0, 1, above=True),
    (*TRAINING, "awp", "warm_up"): whole(0, 10_000),
    (*TRAINING, "averaging", "decay"): number(0, 1, below=True),
    (*TRAINING, "averaging", "start"): whole(0, 10_000),
    (*TRAINING, "averaging", "batch_norm"): one_of("copy", "recalibrate"),
    (*TRAINING, "averaging", "keep"): one_of("averaged", "raw"),
    (*TRAINING, "validation", "examples"): whole(1, 32),
    (*TRAINING, "validation", "eps"): radius,
    (*TRAINING, "validation", "step"): radius,
    (*TRAINING, "validation", "iterations"): whole(1, 100_000),
    (*TRAINING, "validation", "every"): whole(1, 10_000),
    (*TRAINING, "validation", "keep"): one_of("best", "last"),
    (*TRAINING, "early_stopping", "eps"): radius,
    (*TRAINING, "early_stopping", "step"): radius,
    (*TRAINING, "early_stopping", "iterations"): whole(1, 100_000),
    (*TRAINING, "early_stopping", "drop"): number(0, 1, above=True, below=True),
    ("evaluation", "run", 0): lambda value: False,  # clean, which must stay; no other stands there once
    ("evaluation", "headline"): one_of(*BASE["evaluation"]["run"]),
    ("evaluation", "batch_size"): whole(1, 1_000_000),
    ("evaluation", "attacks", "clean", "method"): one_of("clean"),
    ("evaluation", "attacks", "pgd", "method"): one_of("pgd", "thesis_pgd"),
    ("evaluation", "attacks", "pgd", "eps"): radius,
    ("evaluation", "attacks", "pgd", "step"): radius,
    ("evaluation", "attacks", "pgd", "iterations"): whole(1, 100_000),
    ("evaluation", "attacks", "pgd", "restarts"): whole(1, 10_000),
    ("card", "run", 0): one_of(NAME),
    ("card", "examples"): or_null(whole(1, 1_000_000_000)),
    ("card", "pictures"): whole(1, 12),
    ("card", "eps"): radius,
    ("card", "step"): radius,
    ("card", "iterations"): whole(1, BASE["card"]["most_iterations"] - 1),
    ("card", "most_iterations"): whole(BASE["card"]["iterations"] + 1, 100_000),
    ("card", "restarts"): whole(1, 10_000),
    ("card", "radii", 0): lambda value: radius(value) and fraction(value) == 0,
    ("card", "radius_iterations"): whole(1, 100_000),
    ("card", "queries"): whole(1, 1_000_000),
    ("card", "samples"): whole(1, 1_000_000),
    ("card", "sources"): whole(0, 100),
    ("certification", "run", 0): one_of(*BASE["certification"]["certificates"]),
    ("certification", "examples"): or_null(whole(1, 1_000_000_000)),
    (*CERTIFICATE, "method"): one_of("smoothing"),
    (*CERTIFICATE, "experiments", 0): one_of(NAME),
    (*CERTIFICATE, "examples"): or_null(whole(1, 1_000_000_000)),
    (*CERTIFICATE, "sigma"): number(0, 100, above=True),
    (*CERTIFICATE, "samples"): whole(1, 100_000_000),
    (*CERTIFICATE, "selection_samples"): whole(1, 100_000_000),
    (*CERTIFICATE, "alpha"): number(0, 0.5, above=True, below=True),
    (*CERTIFICATE, "seed"): whole(0, 2**31 - 1),
    ("study", "run", 0): one_of(NAME),
    ("study", "controls", 0): one_of(*registry.ACTIVATIONS),
    ("study", "null_models", "kaf"): one_of(*registry.ACTIVATIONS),
    ("study", "rates", 0): one_of(NAME),
    ("detection", "run", 0): one_of(NAME),
    ("detection", "examples"): whole(1, 1_000_000),
    ("detection", "held_out"): whole(100, 357),  # of 397, 40 are attacked
    ("detection", "train_examples"): or_null(whole(1, 1400)),
    ("detection", "run_detectors", 0): one_of("metzen"),
    ("detection", "run_attacks", 0): one_of("static"),
    (*DETECTOR, "method"): one_of("metzen", "kaf_statistics"),
    (*DETECTOR, "eps"): radius,
    (*DETECTOR, "step"): radius,
    ("detection", "attacks", "static", "method"): one_of("pgd", "fmn"),
    ("detection", "attacks", "static", "eps"): radius,
    ("detection", "attacks", "static", "step"): radius,
    ("detection", "attacks", "static", "iterations"): whole(1, 100_000),
    ("lr_range", "min"): lambda value: number(0, BASE["lr_range"]["max"], above=True, below=True)(value),
    ("lr_range", "max"): number(BASE["lr_range"]["min"], 100, above=True),
    ("lr_range", "epochs"): whole(1, 10_000),
}
_OPTIONAL = ("schedule", "awp", "averaging", "validation", "early_stopping")
# Replaced whole by something that is no mapping and no list, or by an empty one.
CONTAINERS = [
    ("seeds",),
    ("run",),
    ("data",),
    *(("data", name) for name in ("cifar10", *OTHER_DATA)),
    ("experiments",),
    EXPERIMENT,
    (*EXPERIMENT, "architecture_arguments"),
    (*EXPERIMENT, "activations"),
    (*EXPERIMENT, "activation_arguments"),
    KAF,
    TRAINING,
    *(
        (*TRAINING, name)
        for name in ("adversary", "l2", "learning_rate", "penalties", "tail", "monitor", *_OPTIONAL)
    ),
    (*TRAINING, "learning_rate", "kaf"),
    ("data", "published"),
    ("data", "published", "archives"),
    ARCHIVE,
    ("evaluation",),
    ("evaluation", "run"),
    ("evaluation", "attacks"),
    ("evaluation", "attacks", "pgd"),
    ("card",),
    ("card", "run"),
    ("card", "radii"),
    ("certification",),
    ("certification", "run"),
    ("certification", "certificates"),
    CERTIFICATE,
    (*CERTIFICATE, "experiments"),
    ("study",),
    ("study", "run"),
    ("study", "controls"),
    ("study", "null_models"),
    ("study", "variants"),
    ("study", "rates"),
    ("detection",),
    *(("detection", name) for name in ("run", "run_detectors", "run_attacks", "detectors", "attacks")),
    DETECTOR,
    ("lr_range",),
]
# The mappings in which no key but the known may stand, and those with names of the user's own.
CLOSED = [
    (),
    ("data",),
    *(("data", name) for name in ("cifar10", *OTHER_DATA)),
    ("data", "published"),
    ARCHIVE,
    EXPERIMENT,
    (*EXPERIMENT, "architecture_arguments"),
    KAF,
    TRAINING,
    *((*TRAINING, name) for name in ("adversary", "l2", "learning_rate", "tail", "monitor", *_OPTIONAL)),
    (*EXPERIMENT, "activation_arguments"),
    ("evaluation",),
    ("evaluation", "attacks", "pgd"),
    ("card",),
    ("certification",),
    CERTIFICATE,
    ("study",),
    ("detection",),
    DETECTOR,
    ("lr_range",),
]
NAMED = [
    ("experiments",),
    ("evaluation", "attacks"),
    ("data", "published", "archives"),
    ("certification", "certificates"),
    ("detection", "detectors"),
    ("detection", "attacks"),
]

HOSTILE = [
    "; rm -rf /",
    "$(touch pwned)",
    "`touch pwned`",
    "../../etc/passwd",
    "..",
    "/absolute",
    "~/home",
    "-rf",
    ".hidden",
    "vgg\n",
    "vgg\r",
    "a\nb",
    "\x00",
    "\x1b[31m",
    "{wildcard}",
    "{input.model}",
    "%s%n",
    "' OR 1=1",
    '"',
    "\\",
    "&&",
    "|",
    "*",
    " ",
    "",
    "VGG",
    "кaf",
    "ｋａｆ",
    "kaf\u200b",
    "\u202ekaf",
    "\ud800",
    "\u2028",
    "😀",
    "a" * 65,
    "a" * 10_000,
    "nan",
    "inf",
    "1e-4",
    "1e5",
    "0x10",
    "8/256",
    "256/255",
    "-1/255",
    "8 / 255",
    "8/255\n",
    "08/255/1",
    "1e1/255",
    "nan/255",
    "None",
    "null",
    "true",
]
# What YAML makes of innocent looking text: booleans, dates, sexagesimal and octal numbers, sets, bytes.
ODDITIES = [
    "no",
    "on",
    "Yes",
    "~",
    "",
    "1e-4",
    "1e5",
    "1_000_000_000_000",
    "0x" + "f" * 6000,
    "8:255",
    "1:30:00",
    "0o17",
    "017",
    "2020-01-01",
    "2020-01-01 10:00:00",
    ".nan",
    "-.inf",
    "1.0e+400",
    "!!binary aGVsbG8=",
    "!!set {a}",  # of one: in which order a set is shown depends on the process
    "!!omap [a: 1]",
    "{1: 2}",
    "{null: 1}",
    "[[[[[]]]]]",
    "&a [*a]",
    "&a {b: *a}",
]
ODD_VALUES = [yaml.safe_load(oddity) for oddity in ODDITIES]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-300, 300),
    st.sampled_from([2**31, 2**63, -(2**63), 10**18, 10**400, -1]),
    st.floats(),
    st.floats(-2, 2),
    st.text(max_size=30),
    st.characters(),
    st.sampled_from(HOSTILE),
    st.builds("{}/255".format, st.integers(-400, 400)),
    st.builds(str, st.integers()),
    st.builds(str, st.floats()),
    st.binary(max_size=8),
    st.dates(),
    st.just(datetime.timedelta(1)),
)
values = st.one_of(
    scalars,
    st.sampled_from(ODD_VALUES),
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)
    ),
)
keys = st.one_of(scalars.filter(lambda key: key.__hash__ is not None), st.tuples(scalars))

generated = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


def shown(value):
    """How an error shows a value, or its beginning."""
    if isinstance(value, int) and abs(value) > 10**4000:  # Python refuses to print it
        return "this int"
    try:
        return json.dumps(value, default=str)[:70]
    except (TypeError, ValueError):  # a key that is no text, a number as above, a list in itself
        return "this "


def named(key):
    """How an error shows a key."""
    return key if isinstance(key, str) and re.fullmatch("[A-Za-z0-9_-]{1,64}", key) else shown(key)


def inside(value, message, depth=9):
    """Whether a message names an item or a key within `value`, and not the whole of it."""
    if depth == 0:  # a list in itself
        return ': "..." is nested' in message
    if not isinstance(value, dict | list | tuple):
        return shown(value) in message or named(value) in message
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return any(inside(item, message, depth - 1) for item in items)


def assert_told(path, value, message):
    """The message is of the wrong `value` at `path`, and says so."""
    # a wrong length or a lost `clean` is told of the list, too few epochs of what is to happen in them
    drops = dotted((*TRAINING, "schedule", "drops")) if path == (*TRAINING, "epochs") else dotted(path)
    assert message.startswith((dotted(path), dotted(path[:-1]) + ":", drops))
    # of 1.0 and 1, which are the same seed, one is shown
    same = path == ("seeds", 0) and value == 1 and message.startswith("seeds: 1 is listed twice")
    assert shown(value) in message or inside(value, message) or same
