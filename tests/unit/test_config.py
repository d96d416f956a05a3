"""The configuration: what is right passes, what is wrong ends in one line before any job starts."""

import copy
import datetime
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kafnets import registry
from kafnets.config.checks import typed, validate
from kafnets.config.slices import (
    card_settings,
    cells,
    evaluation_settings,
    iterated_attack,
    lr_range_settings,
    table_settings,
    training_settings,
    worst_case_attacks,
)
from kafnets.pipeline.params import as_params
from kafnets.runtime.driver import has_gpu
from kafnets.runtime.errors import UserError
from kafnets.runtime.units import fraction
from snakemake.utils import update_config

from tests.planner import Planner
from tests.repository import copy_repository

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
PUBLISHED = ROOT / "workflow/resources/thesis_results.yaml"
PRESETS = sorted([*(ROOT / "workflow/presets").glob("*.yaml"), *(ROOT / "tests").glob("*/*.yaml")])
REFERENCES = tuple(yaml.safe_load(PUBLISHED.read_text()))
NAME = "tiny"
EXPERIMENT = ("experiments", NAME)


def read(path):
    return yaml.safe_load(path.read_text())


def base():
    """A right configuration with every kind of setting in it."""
    config = read(ROOT / "config.yaml")
    tiny = copy.deepcopy(config["experiments"]["resnet20"])
    tiny.update(dataset="digits", train_examples=64, test_examples=40, activations=["relu", "kaf"])
    tiny["activation_arguments"] = {
        "kaf": {
            "D": 20,
            "boundary": 3.0,
            "bandwidth": "thesis",
            "std": 0.05,
            "ridge": 1.0e-6,
            "kernel": "gaussian",
            "arithmetic": "float32",
            "trainable_dictionary": False,
            "trainable_bandwidth": False,
        }
    }
    tiny["training"]["batch_size"] = 32
    tiny["training"]["learning_rate"] = {"default": [0.01, 0.1], "kaf": [0.01, 0.2]}
    config.update(experiments={NAME: tiny}, run=[NAME], seeds=[0, 1])
    config["card"]["run"] = [NAME]
    config["data"]["published"]["archives"] = {"relu": {"bytes": 1_240_603, "sha256": "0" * 64}}
    return config


def of_published_weights():
    """A right configuration of an experiment that trains nothing."""
    config = read(ROOT / "config.yaml")
    judged = copy.deepcopy(config["experiments"]["published"])
    del judged["beside"]
    config.update(experiments={NAME: judged}, run=[NAME])
    config["card"]["run"] = [NAME]
    return config


BASE = base()


def changed(path, value, config=BASE):
    """A copy of `config` with `value` at `path`."""
    config = copy.deepcopy(config)
    holder = config
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    return config


def at(path, config=BASE):
    for part in path:
        config = config[part]
    return config


def dotted(path):
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def refused(config):
    """The one line with which `config` is refused."""
    with pytest.raises(UserError) as caught:
        validate(config, SCHEMA, PUBLISHED)
    message = str(caught.value)
    assert message.isascii() and message.isprintable(), "more than a plain line"
    assert len(message) < 1500, "longer than anybody reads"
    assert re.search(r"; (did you mean \w+\? )?write ", message), "does not say what is allowed"
    return message


def test_the_right_configuration_passes():
    validate(BASE, SCHEMA, PUBLISHED)


# -- hostile values, generated: an independent table of what each setting may be


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


TRAINING = (*EXPERIMENT, "training")
KAF = (*EXPERIMENT, "activation_arguments", "kaf")
ARCHIVE = ("data", "published", "archives", "relu")
RIGHT = {
    ("output",): text(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", 200),
    ("device",): one_of("auto", "cpu", "cuda"),
    ("seeds", 0): lambda value: whole(0, 2**31 - 1)(value) and value != 1,
    ("run", 0): one_of(NAME),
    ("data", "cifar10", "source"): or_null(path_text),
    ("data", "published", "source"): or_null(path_text),
    ("data", "published", "url"): text(r"https://raw\.githubusercontent\.com/[A-Za-z0-9._/%~-]+", 4000),
    (*ARCHIVE, "bytes"): whole(1, 1_000_000_000),
    (*ARCHIVE, "sha256"): text("[0-9a-f]{64}", 64),
    (*EXPERIMENT, "title"): text(r"[A-Za-z0-9 ,.()+/-]+", 80),
    (*EXPERIMENT, "dataset"): one_of("cifar10", "digits"),
    (*EXPERIMENT, "train_examples"): or_null(whole(1, 1400)),
    (*EXPERIMENT, "test_examples"): or_null(whole(1, 397)),
    (*EXPERIMENT, "reference"): or_null(one_of(*REFERENCES)),
    (*EXPERIMENT, "architecture"): one_of(*(name for name in registry.ARCHITECTURES if name != "vgg")),
    (*EXPERIMENT, "architecture_arguments", "block"): one_of("thesis", "original"),
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
    (*TRAINING, "adversary", "name"): one_of("fbf"),
    (*TRAINING, "adversary", "eps"): radius,
    (*TRAINING, "adversary", "step"): radius,
    (*TRAINING, "epochs"): whole(1, 10_000),
    (*TRAINING, "batch_size"): whole(1, 64),
    (*TRAINING, "augmentation"): one_of("none", "crop_flip"),
    (*TRAINING, "precision"): one_of("float32", "bfloat16", "float16"),
    (*TRAINING, "momentum"): number(0, 1, below=True),
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
    ("lr_range", "min"): lambda value: number(0, BASE["lr_range"]["max"], above=True, below=True)(value),
    ("lr_range", "max"): number(BASE["lr_range"]["min"], 100, above=True),
    ("lr_range", "epochs"): whole(1, 10_000),
}
# Replaced whole by something that is no mapping and no list, or by an empty one.
CONTAINERS = [
    ("seeds",),
    ("run",),
    ("data",),
    ("data", "cifar10"),
    ("experiments",),
    EXPERIMENT,
    (*EXPERIMENT, "architecture_arguments"),
    (*EXPERIMENT, "activations"),
    (*EXPERIMENT, "activation_arguments"),
    KAF,
    TRAINING,
    *((*TRAINING, name) for name in ("adversary", "l2", "learning_rate", "tail", "monitor")),
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
    ("lr_range",),
]
# The mappings in which no key but the known may stand, and those with names of the user's own.
CLOSED = [
    (),
    ("data",),
    ("data", "cifar10"),
    ("data", "published"),
    ARCHIVE,
    EXPERIMENT,
    (*EXPERIMENT, "architecture_arguments"),
    KAF,
    TRAINING,
    *((*TRAINING, name) for name in ("adversary", "l2", "learning_rate", "tail", "monitor")),
    (*EXPERIMENT, "activation_arguments"),
    ("evaluation",),
    ("evaluation", "attacks", "pgd"),
    ("card",),
    ("lr_range",),
]
NAMED = [("experiments",), ("evaluation", "attacks"), ("data", "published", "archives")]

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
    # a wrong length or a lost `clean` is told of the list
    assert message.startswith((dotted(path), dotted(path[:-1]) + ":"))
    # of 1.0 and 1, which are the same seed, one is shown
    same = path == ("seeds", 0) and value == 1 and message.startswith("seeds: 1 is listed twice")
    assert shown(value) in message or inside(value, message) or same


@settings(generated, max_examples=1300)
@given(path=st.sampled_from(list(RIGHT)), value=values)
@example(path=("seeds", 0), value=1.0)
def test_a_wrong_value(tally, path, value):
    if RIGHT[path](value):
        return
    tally.tried("wrong configurations")
    message = refused(changed(path, value))
    assert_told(path, value, message)
    tally.held("wrong configurations")


@settings(generated, max_examples=400)
@given(st.sampled_from(CONTAINERS), values)
def test_a_wrong_value_for_a_whole_section(tally, path, value):
    if isinstance(value, dict | list):
        return
    tally.tried("wrong configurations")
    message = refused(changed(path, value))
    assert message.startswith(f"{dotted(path)}: ")
    assert shown(value) in message
    tally.held("wrong configurations")


@settings(generated, max_examples=500)
@given(st.sampled_from(CLOSED), keys, scalars)
def test_an_unknown_key(tally, path, key, value):
    holder = at(path)
    if key in holder or key in registry.ACTIVATIONS:
        return
    tally.tried("wrong configurations")
    message = refused(changed((*path, key), value))
    assert message.startswith(dotted(path))
    assert named(key) in message
    # what is no name is told of the key alone
    assert shown(value) in message or " key" in message
    tally.held("wrong configurations")


@settings(generated, max_examples=300)
@given(st.sampled_from(NAMED), keys)
def test_a_hostile_name(tally, path, key):
    """An experiment, attack or archive whose name is no name: it would be a folder and a file."""
    if isinstance(key, str) and re.fullmatch("[a-z][a-z0-9_]{0,63}", key):
        return
    tally.tried("wrong configurations")
    inner = next(iter(at(path).values()))
    message = refused(changed((*path, key), copy.deepcopy(inner)))
    assert message.startswith(f"{dotted(path)}")
    assert named(key) in message
    tally.held("wrong configurations")


def mappings(value, path=()):
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from mappings(item, (*path, key))


OPTIONAL = [
    ("data", "cifar10"),
    ("data", "published"),
    ARCHIVE,
    ("evaluation", "attacks", "autoattack"),
    *((*EXPERIMENT, "architecture_arguments", name) for name in ("block", "dropout")),
]
NEEDED = [
    (*path, key)
    for path, mapping in mappings(BASE)
    for key in mapping
    if (*path, key) not in OPTIONAL
    and (*path, key)[: len(KAF)] != KAF
    and (*path, key) != (*TRAINING, "learning_rate", "kaf")
]


@pytest.mark.parametrize("path", NEEDED, ids=dotted)
def test_a_missing_key(tally, path):
    tally.tried("wrong configurations")
    config = copy.deepcopy(BASE)
    del at(path[:-1], config)[path[-1]]
    message = refused(config)
    # of the only experiment, its section is said to be empty
    assert str(path[-1]) in message or message.startswith(f"{dotted(path[:-1])}: {{}} is empty")
    tally.held("wrong configurations")


def test_aliases_without_end_are_refused():
    grown = [0] * 10
    for _ in range(9):
        grown = [grown] * 10
    assert "more than" in refused(changed(("seeds",), grown))
    loop = []
    loop.append(loop)
    assert "deep" in refused(changed(("seeds",), loop))


# -- what a shape cannot say


SEMANTIC = [
    (("run",), ["vvg"], 'run[0]: "vvg" is not known'),
    (("run",), ["tniy"], "did you mean tiny?"),
    (("run",), [NAME, NAME], "listed twice"),
    (("run",), NAME, "write a list"),
    (("seeds",), [0, 0], "seeds: 0 is listed twice"),
    (("seeds",), [], "seeds: [] has too few items"),
    (("seeds",), 3, "seeds: 3 has the wrong type; write a list"),
    (("seeds",), [1.0], "seeds[0]: 1.0 has the wrong type; write a whole number"),
    (("seeds",), [True], "seeds[0]: true has the wrong type"),
    (("output",), "../elsewhere", "output:"),
    (("output",), "results/../..", "output:"),
    (("output",), "/tmp/results", "output:"),
    (("output",), "results\n", "unprintable"),
    (("evaluation", "run"), ["pgd"], 'evaluation.run: ["pgd"] lacks clean'),
    (("evaluation", "run"), ["clean", "pdg"], "did you mean pgd?"),
    (("evaluation", "headline"), "thesis", "evaluation.headline:"),
    (("evaluation", "attacks", "pgd", "eps"), "300/255", "out of range; write n/255"),
    (("evaluation", "attacks", "pgd", "eps"), 8, "8/255?"),
    (("evaluation", "attacks", "pgd", "eps"), 0.03, "; 0.03 is 7.65/255 (8/255 is 0.0314)"),
    (("evaluation", "attacks"), {}, "as in {clean: {method: clean}"),
    (("run",), NAME, "; [tiny]?"),
    (("seeds",), 3, "; [3]?"),
    (
        (*TRAINING, "learning_rate"),
        0.01,
        "write [min, max] per activation, as in {relu: [0.01, 0.4], default: ",
    ),
    (
        (*TRAINING, "batch_size"),
        65,
        "batch_size: 65 is more than the 64 training images (train_examples); write at",
    ),
    ((*EXPERIMENT, "architecture"), None, "architecture: null has the wrong type; write one of vgg, resnet8"),
    (
        (*EXPERIMENT, "architecture_arguments", "dropout"),
        0.1,
        "a list of exactly 4, as in [a, b, c, d], each a",
    ),
    (("evaluation", "attacks", "clean", "eps"), "8/255", "does not belong to clean"),
    (("evaluation", "attacks", "clean", "method"), "fgsm", "evaluation.attacks.clean.eps: is missing"),
    (("evaluation", "attacks", "pgd", "loss"), "ensemble", 'pgd.loss: "ensemble" does not belong to pgd'),
    (("evaluation", "attacks", "pgd", "seed"), 1, "evaluation.attacks.pgd.seed: 1 is an unknown key"),
    (("card", "run"), ["tniy"], 'card.run[0]: "tniy" is not known; did you mean tiny?'),
    (("card", "radii"), ["0/255"], "too few items"),
    (("card", "radii"), [f"{n}/255" for n in range(1, 9)], "does not grow from 0; write 0/255, then larger"),
    (("card", "radii"), [f"{n}/255" for n in (0, 1, 2, 4, 8, 16, 12, 32)], "does not grow from 0"),
    (("card", "radii", 3), 8, "8/255?"),
    (("card", "most_iterations"), 50, '"most_iterations": 50} shows no further iterations; write more'),
    (("lr_range", "min"), 50.0, 'lr_range: {"min": 50.0, "max": 3.0} is no range; write min less than max'),
    ((*EXPERIMENT, "dataset"), "cifar", "did you mean cifar10?"),
    ((*EXPERIMENT, "train_examples"), 1401, "write at most 1400, or null"),
    ((*EXPERIMENT, "reference"), "vggg", "did you mean vgg?"),
    ((*EXPERIMENT, "architecture"), "resnet21", "is not known"),
    ((*EXPERIMENT, "architecture"), "vgg", "does not belong to vgg"),
    ((*EXPERIMENT, "architecture_arguments"), {"dropout": [0, 0, 0, 0]}, "does not belong to resnet20"),
    ((*EXPERIMENT, "activations"), ["kaf_elo"], "did you mean kaf_elu?"),
    ((*EXPERIMENT, "activation_arguments"), {"relu": {"D": 3}}, "is for a fixed activation"),
    ((*EXPERIMENT, "activation_arguments"), {"kaff": {"D": 3}}, "did you mean kaf?"),
    ((*EXPERIMENT, "activation_arguments"), {"kaf_free": {"kernel": "relu"}}, "no bandwidth to train"),
    ((*TRAINING, "learning_rate"), {"kaf": [0.1, 0.2]}, "learning_rate.relu: is missing; write [min, max]"),
    ((*TRAINING, "learning_rate", "kaf"), [0.2, 0.1], "wrong way round"),
    ((*TRAINING, "learning_rate", "kaf"), [0.2], "too few items"),
    ((*TRAINING, "learning_rate", "kfa"), [0.1, 0.2], "did you mean kaf?"),
    ((*TRAINING, "learning_rate", "kaf"), ["1e-4", 0.1], "0.0001, without quotes or an exponent?"),
    ((*TRAINING, "adversary"), {"name": "fbf", "eps": "8/255"}, "adversary.step: is missing"),
    ((*TRAINING, "adversary"), {"name": "none", "eps": "8/255"}, "does not belong to none"),
    ((*TRAINING, "adversary"), {"name": "pgd"}, "is not known"),
    ((*TRAINING, "momentum"), True, "momentum: true has the wrong type"),
    ((*TRAINING, "momentum"), float("nan"), "no finite number; write a number at least 0 and below 1"),
    ((*TRAINING, "epochs"), 10**30, "out of range"),
]


@pytest.mark.parametrize(("path", "value", "expected"), SEMANTIC)
def test_what_the_error_says(tally, path, value, expected):
    tally.tried("wrong configurations")
    assert expected in refused(changed(path, value))
    tally.held("wrong configurations")


@pytest.mark.parametrize("value", [0.03, 0.001, 0.9, "0.03", "8", 8, 4.5, 255])
def test_the_hint_for_a_radius_is_a_radius_as_large(value):
    path = ("evaluation", "attacks", "pgd", "eps")
    hint = re.search(r"[0-9.]+/255", refused(changed(path, value)).rpartition("; ")[2])[0]
    validate(changed(path, hint), SCHEMA, PUBLISHED)
    meant = float(value) if float(value) < 1 else float(value) / 255
    assert fraction(hint) == pytest.approx(meant, rel=1e-3)


WEIGHTS = of_published_weights()
OF_PUBLISHED_WEIGHTS = [
    (("weights",), "theirs", 'weights: "theirs" is not allowed; write published'),
    (("training",), BASE["experiments"][NAME]["training"], "does not belong to published weights"),
    (("train_examples",), None, "train_examples: null does not belong to published weights"),
    (("activations",), ["gelu"], 'activations[0]: "gelu" is not known'),
    (("architecture",), "resnet32", '"resnet32" is not what the published weights are of; write "resnet20"'),
    (("architecture_arguments",), {"block": "original"}, 'write {"block": "thesis"}'),
    (("activation_arguments",), {"kaf": {"D": 30}}, "kaf.D: 30 does not belong to published weights"),
    (("beside",), "other", f'beside: "other" is not known; write {NAME}'),
]


@pytest.mark.parametrize(("path", "value", "expected"), OF_PUBLISHED_WEIGHTS)
def test_what_the_error_says_of_published_weights(tally, path, value, expected):
    tally.tried("wrong configurations")
    assert expected in refused(changed((*EXPERIMENT, *path), value, WEIGHTS))
    tally.held("wrong configurations")


def test_published_weights_have_archives_and_one_seed():
    validate(WEIGHTS, SCHEMA, PUBLISHED)
    assert set(WEIGHTS["data"]["published"]["archives"]) == set(registry.PUBLISHED)
    without = copy.deepcopy(WEIGHTS)
    del without["data"]["published"]["archives"]["kaf"]
    assert refused(without).startswith("data.published.archives.kaf: is missing")
    validate(changed(("data", "published", "source"), str(ROOT), without), SCHEMA, PUBLISHED)
    assert "does not exist" in refused(changed(("data", "published", "source"), "/nowhere", WEIGHTS))
    assert {seed for _, _, seed in cells({**WEIGHTS, "seeds": [3, 4]})} == {0}
    settings = training_settings(WEIGHTS, NAME, "kaf", 0)
    assert settings["weights"] == "published" and "training" not in settings


def test_without_weights_a_training_is_needed():
    for key in ("training", "train_examples"):
        config = copy.deepcopy(BASE)
        del config["experiments"][NAME][key]
        assert f"{key}: is missing; write it, or weights: published" in refused(config)


ATTACK_SETTINGS = {
    "eps": "8/255",
    "step": "2/255",
    "iterations": 3,
    "restarts": 2,
    "loss": "margin",
    "norm": "linf",
    "momentum": 0.5,
    "targets": 3,
    "samples": 4,
    "queries": 20,
    "search_steps": 2,
    "learning_rate": 0.01,
    "confidence": 1,
    "overshoot": 0.02,
    "shrink": 0.05,
    "sources": ["relu"],
    "backward": "wider",
    "width": 3,
    "delta": 0.5,
    "start_seed": 1,
}


@pytest.mark.parametrize("method", registry.ATTACKS)
def test_every_attack_takes_what_the_registry_says(method):
    """Each setting has a place in the schema, and is an argument of the attack."""
    entry = registry.ATTACKS[method]
    given = {name: ATTACK_SETTINGS[name] for name in (*entry.required, *entry.optional)}
    validate(changed(("evaluation", "attacks", "new"), {"method": method, **given}), SCHEMA, PUBLISHED)
    arguments = inspect.signature(entry.load()).parameters
    assert set(given) - {"start_seed"} <= set(arguments)
    needed = {
        name
        for name, argument in arguments.items()
        if argument.kind is argument.KEYWORD_ONLY and argument.default is argument.empty
    }
    assert needed <= {*entry.required, *(["sources"] if entry.sources == "needed" else [])}
    assert bool(entry.sources) == ("sources" in arguments)


TRANSFER = {"method": "transfer", "eps": "8/255", "step": "2/255", "iterations": 3}


def with_transfer(activations=("relu", "kaf"), **settings):
    config = changed((*EXPERIMENT, "activations"), list(activations))
    config["evaluation"]["attacks"]["transfer"] = {**TRANSFER, **settings}
    config["evaluation"]["run"] = ["clean", "pgd", "transfer"]
    return config


def test_transfer_takes_the_models_of_the_other_activations():
    validate(with_transfer(), SCHEMA, PUBLISHED)
    config = with_transfer(("relu", "elu", "kaf"))
    assert evaluation_settings(config, NAME, "elu", 1, "transfer")["sources"] == ["relu", "kaf"]
    assert "sources" not in evaluation_settings(config, NAME, "elu", 1, "pgd")
    config = with_transfer(("relu", "elu", "kaf"), sources=["kaf", "elu"])
    validate(config, SCHEMA, PUBLISHED)
    assert evaluation_settings(config, NAME, "elu", 1, "transfer")["sources"] == ["kaf"]
    assert evaluation_settings(config, NAME, "relu", 1, "transfer")["sources"] == ["kaf", "elu"]


def test_what_the_worst_case_is_of():
    config = copy.deepcopy(BASE)
    pgd = config["evaluation"]["attacks"]["pgd"]
    config["evaluation"]["attacks"].update(
        same={"method": "fgsm", "eps": "8.0/255"},
        larger={**pgd, "eps": "9/255"},
        round={**pgd, "norm": "l2"},
        cw={"method": "cw", "eps": "8/255"},
        distances={"method": "fmn"},
    )
    config["evaluation"]["run"] = ["clean", "larger", *("pgd", "thesis_pgd", "round", "cw", "distances")]
    assert worst_case_attacks(config) == []
    assert 'headline: "worst_case" needs two' in refused(changed(("evaluation", "headline"), "worst_case"))
    config["evaluation"]["run"].append("same")
    validate(config, SCHEMA, PUBLISHED)
    assert worst_case_attacks(config) == ["pgd", "same"]
    assert worst_case_attacks(changed(("evaluation", "headline"), "round", config)) == ["round", "cw"]
    config["evaluation"]["run"].remove("larger")
    config["evaluation"]["headline"] = "worst_case"
    validate(config, SCHEMA, PUBLISHED)
    assert worst_case_attacks(config) == ["pgd", "same"]
    assert iterated_attack(config) == "pgd"
    config["evaluation"]["attacks"]["worst_case"] = pgd
    assert "worst_case" in refused(config)


@pytest.mark.parametrize(
    ("activations", "sources", "expected"),
    [
        (
            ("relu", "kaf"),
            ["kaff"],
            'transfer.sources[0]: "kaff" is no activation of tiny; did you mean kaf?',
        ),
        (("relu", "kaf"), ["relu", "elu"], 'transfer.sources[1]: "elu" is no activation of tiny'),
        (("relu", "kaf"), ["kaf"], "no other model to attack kaf from"),
        (("relu", "kaf"), [], "no other model to attack relu from"),
        (("relu",), None, "no other model to attack relu from"),
    ],
)
def test_transfer_without_a_model_to_start_from(activations, sources, expected):
    given = {} if sources is None else {"sources": sources}
    assert expected in refused(with_transfer(activations, **given))


def test_a_source_that_is_absent():
    config = changed((*EXPERIMENT, "dataset"), "cifar10")
    message = refused(changed(("data", "cifar10", "source"), "/nowhere/$(touch pwned)", config))
    assert message.startswith('data.cifar10.source: "/nowhere/$(touch pwned)" does not exist')
    assert "does not exist" in refused(changed(("data", "cifar10", "source"), "a/" * 1990, config))
    validate(changed(("data", "cifar10", "source"), str(ROOT), config), SCHEMA, PUBLISHED)


def test_a_radius_is_n_over_255():
    assert fraction("8/255") == 8 / 255 and fraction("0.5/255") == 0.5 / 255
    for wrong in ("8", "8/256", "x/255", "256/255", "-1/255", "nan/255", "", "8/255/255"):
        with pytest.raises(UserError, match="write it as n/255"):
            fraction(wrong)


def test_the_command_line_has_numbers():
    """Snakemake gives lists and mappings of --config as texts."""
    given = {"seeds": ["0", "1"], "a": {"b": "0.5", "c": "null", "d": "8/255", "e": "[", "f": "true"}}
    assert typed(given) == {
        "seeds": [0, 1],
        "a": {"b": 0.5, "c": None, "d": "8/255", "e": "[", "f": True},
    }


@pytest.mark.parametrize(
    "text",
    [
        "2020-99-99",
        "1" * 5000,
        "[" * 700 + "]" * 700,
        "!!int x",
        "!!int",
        "!!bool x",
        "!!timestamp x",
        "&a {b: *a}",
        "\x00",
    ],
)
def test_what_yaml_cannot_make_a_value_of_stays_a_text(text):
    assert typed({"seeds": [text]}) == {"seeds": [text]}


def test_the_command_line_is_gone_through_only_to_an_end():
    loop, grown = [], ["0"] * 10
    loop.append(loop)
    for _ in range(9):
        grown = [grown] * 10
    with pytest.raises(UserError, match="nested more than 20 deep"):
        typed({"seeds": loop})
    with pytest.raises(UserError, match=r"seeds: .* more than 200000 entries"):
        typed({"seeds": grown})


# -- slices


def test_slices_hold_what_their_step_needs():
    assert cells(BASE) == [(NAME, name, seed) for name in ("relu", "kaf") for seed in (0, 1)]
    training = training_settings(BASE, NAME, "kaf", 1)
    assert (
        training["training"]["learning_rate"] == [0.01, 0.2] and training["activation_arguments"]["D"] == 20
    )
    assert training_settings(BASE, NAME, "relu", 0)["training"]["learning_rate"] == [0.01, 0.1]
    assert "evaluation" not in training and "test_examples" not in training
    assert lr_range_settings(BASE, NAME, "kaf")["lr_range"] == BASE["lr_range"]
    attack = evaluation_settings(BASE, NAME, "kaf", 1, "pgd")
    assert attack["seed"] == 1 and attack["iterations"] == 50 and "training" not in attack
    assert table_settings(BASE, NAME)["headline"] == "pgd"
    card = card_settings(BASE, NAME, "kaf", 1)
    assert card["examples"] == 40, "no more than the experiment has"
    assert card["card"]["eps"] == "8/255" and not card["card"].keys() & {"run", "sources", "examples"}
    json.dumps([training, attack, card], allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "section"),
    [
        (training_settings(BASE, NAME, "kaf", 1), "training"),
        (lr_range_settings(BASE, NAME, "kaf"), "training"),
        (card_settings(BASE, NAME, "kaf", 1), "card"),
        (table_settings(BASE, NAME), None),
    ],
)
def test_a_change_of_any_setting_changes_a_param_and_is_short(settings, section):
    params = as_params(lambda changed: changed, section)
    assert json.loads(params.pop("settings")(settings, output=None)) == settings
    before = {function(settings) for function in params.values()}
    assert max(map(len, before)) < 400
    paths = [(key,) for key in settings if key != section]
    for path in [*paths, *((section, key) for key in settings.get(section, ()))]:
        after = {function(changed(path, "another", settings)) for function in params.values()}
        assert f'{path[-1]}: "another"' in " ".join(after - before)


# -- config.yaml, schema, registry and presets say the same


def properties(schema, root, seen=()):
    """Every key that a schema knows, and every mapping in it."""
    schema = root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "properties" in schema or schema.get("type") == "object":
        yield None, schema
    for key, inner in schema.get("properties", {}).items():
        yield key, None
        yield from properties(inner, root)
    for inner in (schema.get("additionalProperties"), schema.get("items")):
        if isinstance(inner, dict):
            yield from properties(inner, root)


def test_every_key_of_the_schema_is_in_the_config_or_its_comments():
    root, written = read(SCHEMA), (ROOT / "config.yaml").read_text()
    known = {key for key, _ in properties(root, root) if key}
    assert len(known) > 50
    missing = [key for key in sorted(known) if not re.search(rf"\b{key}\b", written)]
    assert not missing, f"config.yaml does not tell of {missing}"


def test_the_schema_is_closed():
    root = read(SCHEMA)
    for _, mapping in properties(root, root):
        if mapping is not None:
            assert "additionalProperties" in mapping and mapping["additionalProperties"] is not True


def test_a_mapping_with_names_of_ones_own_is_shown():
    root = read(SCHEMA)
    own = [mapping for _, mapping in properties(root, root) if mapping and "properties" not in mapping]
    assert len(own) == 5
    for mapping in own:
        assert re.search("{.+: .+}|in config.yaml", mapping["description"]), mapping


def test_the_table_above_has_every_setting_of_the_schema():
    root = read(SCHEMA)
    leaves = {key for key, _ in properties(root, root) if key}
    tested = {part for path in (*RIGHT, *CONTAINERS) for part in path if isinstance(part, str)}
    only_for_some = {"dropout", "weights", "beside", *root["$defs"]["attack"]["properties"]}
    assert leaves - tested <= only_for_some


def test_the_registry_and_the_schema_know_the_same_settings():
    definitions = read(SCHEMA)["$defs"]
    for table, schema in (
        (registry.ATTACKS, definitions["attack"]),
        (registry.ADVERSARIES, definitions["training"]["properties"]["adversary"]),
    ):
        known = {name for entry in table.values() for name in (*entry.required, *entry.optional)}
        assert known <= set(schema["properties"]), "a setting in the registry that no configuration can give"


def test_data_sets_are_as_large_as_the_registry_says():
    from kafnets.data import prepare_digits

    digits = prepare_digits()
    assert (len(digits.train_labels), len(digits.test_labels)) == registry.DATASETS["digits"].examples


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *PRESETS], ids=lambda path: path.name)
def test_config_and_presets_are_right(path):
    config = read(ROOT / "config.yaml")
    update_config(config, read(path))
    validate(config, SCHEMA, PUBLISHED)


class NoDuplicates(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, of which YAML silently takes the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"a key twice in line {node.start_mark.line + 1}"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("path", [ROOT / "config.yaml", SCHEMA, *PRESETS], ids=lambda path: path.name)
def test_no_key_stands_twice(path):
    yaml.load(path.read_text(), NoDuplicates)


def test_validation_is_quick_and_without_torch():
    code = (
        "import sys, time, yaml; from pathlib import Path\n"
        "config = yaml.safe_load(Path('config.yaml').read_text()); start = time.process_time()\n"
        "from kafnets.config.checks import validate\n"
        "validate(config, 'workflow/schemas/config.schema.yaml', 'workflow/resources/thesis_results.yaml')\n"
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    seconds, torch = result.stdout.split()
    assert torch == "False"
    assert float(seconds) < 0.6  # with the import of jsonschema; 0.25 on two slow cores


# -- through Snakemake itself


@pytest.fixture(scope="module")
def planner():
    with Planner() as planner:
        yield planner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where snakemake is called: it holds a right configuration."""
    folder = tmp_path_factory.mktemp("called")
    (folder / "right.yaml").write_text(yaml.safe_dump(BASE))
    return folder


def contents(folder):
    """Every file but Snakemake's own, with its bytes."""
    found = sorted(path for path in folder.rglob("*") if ".snakemake" not in path.relative_to(folder).parts)
    return {path: path.read_bytes() if path.is_file() else None for path in found}


def ended(planner, folder, *arguments):
    """The words of a snakemake that ends by itself, before any job, and writes nothing."""
    before = contents(folder)
    code, words = planner.run(folder, folder.with_suffix(".log"), *arguments)
    assert code == 1, words
    assert contents(folder) == before
    assert not re.search("^(Building DAG|rule |localrule |Job stats)", words, re.MULTILINE), words
    return words


def refused_by_the_workflow(planner, folder, *arguments):
    """The one message with which snakemake ends."""
    words = ended(planner, folder, *arguments)
    rest = re.sub("^(Using workflow specific profile|Config file) .*\n", "", words, flags=re.MULTILINE)
    where = r'"?.*/workflow/rules/common\.smk"?, line \d+'
    told = re.fullmatch(
        rf"WorkflowError in file {where}:\nerror in the configuration: (.+)\n  File {where}, in <module>\n",
        rest.lstrip("\n"),
    )
    assert told, words
    return told[1]


def ways(dry):
    return ["-n"] if dry else []


@settings(generated, max_examples=150)
@given(path=st.sampled_from(list(RIGHT)), value=values, dry=st.booleans())
def test_snakemake_refuses_a_wrong_file(planner, folder, tally, path, value, dry):
    try:
        text = yaml.safe_dump(changed(path, value))
        value = at(path, yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, TypeError):
        return  # nothing that a file can hold
    if RIGHT[path](value):
        return
    tally.tried("wrong configurations through snakemake")
    wrong = folder / "wrong.yaml"
    wrong.write_text(text)
    assert_told(path, value, refused_by_the_workflow(planner, folder, "--configfile", wrong, *ways(dry)))
    tally.held("wrong configurations through snakemake")


def only(path, value):
    """A mapping with `value` at `path` and nothing that it can do without: lists are given whole."""
    if not path or isinstance(path[0], int):
        return value
    return {path[0]: only(path[1:], value)}


GIVEN = [path for path in RIGHT if len(path) > 1]
texts = st.sampled_from(HOSTILE + ODDITIES) | st.text(max_size=20) | st.integers().map(str)


@settings(generated, max_examples=150)
@given(path=st.sampled_from(GIVEN), text=texts, dry=st.booleans())
@example(path=("seeds", 0), text="2020-99-99", dry=True)
@example(path=("seeds", 0), text="1" * 5000, dry=True)
@example(path=("seeds", 0), text="[" * 700 + "]" * 700, dry=True)
@example(path=(*TRAINING, "epochs"), text="!!int x", dry=False)
@example(path=(*TRAINING, "epochs"), text="!!bool x", dry=False)
@example(path=(*TRAINING, "epochs"), text="!!timestamp x", dry=False)
@example(path=(*TRAINING, "epochs"), text="&a {b: *a}", dry=False)
def test_snakemake_refuses_a_wrong_value(planner, folder, tally, path, text, dry):
    try:
        value = text if "*" in text else yaml.safe_load(text)
    except Exception:
        value = text
    if RIGHT[path](value):
        return
    tally.tried("wrong configurations through snakemake")
    first = next((index for index, part in enumerate(path) if isinstance(part, int)), len(path))
    whole = text if first == len(path) else at(path[:first], changed(path, text))
    given = f"{path[0]}={json.dumps(only(path[1:first], whole))}"
    words = refused_by_the_workflow(
        planner, folder, "--configfile", folder / "right.yaml", "--config", given, *ways(dry)
    )
    assert_told(path, value, words)
    tally.held("wrong configurations through snakemake")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("output=$(touch pwned)", 'output: "$(touch pwned)" is not allowed'),
        ("output=2020-01-01", 'output: "2020-01-01" has the wrong type (date)'),
        ("device=1e999", "device: Infinity is no finite number"),
        ("seeds=[0, 1.5]", "seeds[1]: 1.5 has the wrong type; write a whole number"),
        ("seeds=&a [*a]", 'seeds: "&a [*a]" has the wrong type'),
        ("experiments={'; touch pwned': {}}", 'experiments: "; touch pwned" is not a possible key'),
        ("run=vgg", "write a list"),
        ("data={cifar10: {source: '/data/{x}'}}", 'data.cifar10.source: "/data/{x}" is not allowed'),
        ("data={cifar10: {source: '/data/<x>'}}", 'data.cifar10.source: "/data/<x>" is not allowed'),
        ("data={published: {source: '-x'}}", 'data.published.source: "-x" is not allowed'),
        ("data={published: {url: 'http://raw.githubusercontent.com/x'}}", "begins with https://"),
        (
            "data={published: {url: 'https://example.org/x'}}",
            "begins with https://raw.githubusercontent.com/",
        ),
    ],
)
def test_snakemake_says_of_a_wrong_value(planner, folder, tally, given, expected):
    tally.tried("wrong configurations through snakemake")
    words = refused_by_the_workflow(planner, folder, "--configfile", folder / "right.yaml", "--config", given)
    assert expected in words
    tally.held("wrong configurations through snakemake")


def test_snakemake_refuses_a_key_given_twice(planner, folder, tally):
    tally.tried("wrong configurations through snakemake")
    twice = folder / "twice.yaml"
    twice.write_text(f"{(folder / 'right.yaml').read_text()}\nseeds: [2]\n")
    line = twice.read_text().count("\n")
    expected = f'{twice}, line {line}: "seeds" is there for the second time; write it once'
    assert refused_by_the_workflow(planner, folder, "--configfile", twice) == expected
    tally.held("wrong configurations through snakemake")


@pytest.mark.parametrize(
    "text",
    [
        "seeds: [0\nrun: {",
        "- 1\n- 2\n",
        "seeds\n",
        "seeds: [2020-99-99]\n",
        "output: !!int x\n",
        "output: !!python/object/apply:os.system [touch pwned]\n",
        "seeds: &a {b: *a}\n",
        "pathvars: 3\n",
        "\tseeds: [0]\n",
        None,
    ],
)
def test_what_snakemake_itself_cannot_read(planner, folder, tally, text):
    """Snakemake reads configuration files before the workflow: the words are its own, but no job starts."""
    tally.tried("wrong configurations through snakemake")
    broken = folder / "broken.yaml"
    broken.unlink(missing_ok=True)
    if text is not None:
        broken.write_text(text)
    assert "rror" in ended(planner, folder, "--configfile", broken)
    tally.held("wrong configurations through snakemake")


def test_cuda_without_a_gpu_ends_before_any_job(planner, folder, tmp_path):
    copy_repository(tmp_path)
    given = ("--configfile", folder / "right.yaml", "--config", "device=cuda")
    code, words = planner.run(tmp_path, folder.with_suffix(".log"), *given, "-n")
    assert code == 0, "a plan needs no GPU"
    if has_gpu():
        pytest.skip("a GPU is here")
    before = contents(tmp_path)
    code, words = planner.run(tmp_path, folder.with_suffix(".log"), *given)
    assert code == 1 and contents(tmp_path) == before and "Traceback" not in words
    said = 'device: "cuda" is asked for, but this machine has no GPU; write auto or cpu'
    assert f"error in the configuration: {said}" in words
    assert not re.search("^(rule |localrule )", words, re.MULTILINE)


@pytest.mark.parametrize(("status", "count", "expected"), [(0, 1, True), (0, 0, False), (100, 1, False)])
def test_a_gpu_is_there_if_the_driver_says_so(tmp_path, status, count, expected):
    """A driver of two functions that answers as CUDA does with a GPU, without one, or with its error 100."""
    source = tmp_path / "driver.c"
    source.write_text(
        f"int cuInit(unsigned flags) {{ return {status}; }}\n"
        f"int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}\n"
    )
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "workflow/scripts"),
        "LD_LIBRARY_PATH": str(tmp_path),
    }
    code = "from kafnets.runtime.driver import has_gpu; print(has_gpu())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(expected), done.stderr


GENERATED = {
    test_a_wrong_value,
    test_a_wrong_value_for_a_whole_section,
    test_an_unknown_key,
    test_a_hostile_name,
}


def test_thousands_were_wrong(request, tally):
    """After the tests above: how many of what they generated was wrong."""
    if not {test.__name__ for test in GENERATED} <= {item.originalname for item in request.session.items}:
        pytest.skip("only a part of this file is run")
    assert tally.rows["wrong configurations"]["tried"] >= 2000
    assert tally.rows["wrong configurations through snakemake"]["tried"] >= 200
