"""What the error says of a configuration whose shape is right and whose content is wrong."""

import copy
import inspect
import re

import pytest
from kafnets import registry
from kafnets.config.checks import validate
from kafnets.config.slices import (
    cells,
    training_settings,
)
from kafnets.runtime.units import fraction

from tests.repository import ROOT
from tests.unit.config_builders import (
    BASE,
    EXPERIMENT,
    NAME,
    PUBLISHED,
    SCHEMA,
    changed,
    of_published_weights,
    refused,
)
from tests.unit.config_values import CERTIFICATE, TRAINING

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
        "batch_size: 65 is more than the 48 images that validation.examples leaves to train on; write at",
    ),
    ((*EXPERIMENT, "architecture"), None, "architecture: null has the wrong type; write one of vgg, resnet8"),
    (
        (*EXPERIMENT, "architecture_arguments", "dropout"),
        0.1,
        "does not belong to resnet20; write block",
    ),
    (("evaluation", "attacks", "clean", "eps"), "8/255", "does not belong to clean"),
    (("evaluation", "attacks", "clean", "method"), "fgsm", "evaluation.attacks.clean.eps: is missing"),
    (
        ("evaluation", "attacks", "pgd", "loss"),
        "ensemble",
        '"ensemble" is not allowed; write one of cross_entropy, ',
    ),
    (("evaluation", "attacks", "pgd", "seed"), 1, "evaluation.attacks.pgd.seed: 1 does not belong to pgd"),
    (("card", "run"), ["tniy"], 'card.run[0]: "tniy" is not known; did you mean tiny?'),
    (("certification", "run"), ["smoothing"], 'certification.run[0]: "smoothing" is not known; did you mean'),
    ((*CERTIFICATE, "method"), "smothing", '.method: "smothing" is not known; did you mean smoothing?'),
    ((*CERTIFICATE, "experiments"), ["tniy"], '.experiments[0]: "tniy" is not known; did you mean tiny?'),
    ((*CERTIFICATE, "alpha"), 0.5, ".alpha: 0.5 is out of range; write a number above 0 and below 0.5"),
    ((*CERTIFICATE, "eps"), "8/255", '.eps: "8/255" does not belong to smoothing; write one of sigma, '),
    (("card", "radii"), ["0/255"], "too few items"),
    (("card", "radii"), [f"{n}/255" for n in range(1, 9)], "does not grow from 0; write 0/255, then larger"),
    (("card", "radii"), [f"{n}/255" for n in (0, 1, 2, 4, 8, 16, 12, 32)], "does not grow from 0"),
    (("card", "radii", 3), 8, "8/255?"),
    (("card", "most_iterations"), 50, '"most_iterations": 50} shows no further iterations; write more'),
    (
        *(("study", "variants"), {NAME: NAME}),
        f'study.variants.{NAME}: "{NAME}" is a variant itself; write the experiment that all are variants of',
    ),
    (("lr_range", "min"), 50.0, 'lr_range: {"min": 50.0, "max": 3.0} is no range; write min less than max'),
    ((*EXPERIMENT, "dataset"), "cifar", "did you mean cifar10?"),
    ((*EXPERIMENT, "train_examples"), 1401, "write at most 1400, or null"),
    ((*EXPERIMENT, "reference"), "vggg", "did you mean vgg?"),
    ((*EXPERIMENT, "architecture"), "resnet21", "is not known"),
    ((*EXPERIMENT, "architecture"), "vgg", "does not belong to vgg"),
    ((*EXPERIMENT, "architecture_arguments"), {"dropout": [0, 0, 0, 0]}, "does not belong to resnet20"),
    ((*EXPERIMENT, "activations"), ["kaf_elo"], "did you mean kaf_elu?"),
    ((*EXPERIMENT, "activation_arguments"), {"relu": {"D": 3}}, "relu.D: 3 does not belong to relu"),
    ((*EXPERIMENT, "activation_arguments"), {"kaff": {"D": 3}}, "did you mean kaf?"),
    ((*EXPERIMENT, "activation_arguments"), {"kaf_free": {"kernel": "relu"}}, "no bandwidth to train"),
    ((*TRAINING, "learning_rate"), {"kaf": [0.1, 0.2]}, "learning_rate.relu: is missing; write [min, max]"),
    ((*TRAINING, "learning_rate", "kaf"), [0.2, 0.1], "wrong way round"),
    ((*TRAINING, "learning_rate", "kaf"), [0.2], "too few items"),
    ((*TRAINING, "learning_rate", "kfa"), [0.1, 0.2], "did you mean kaf?"),
    ((*TRAINING, "learning_rate", "kaf"), ["1e-4", 0.1], "0.0001, without quotes or an exponent?"),
    ((*TRAINING, "adversary"), {"name": "fbf", "eps": "8/255"}, "adversary.step: is missing"),
    ((*TRAINING, "adversary"), {"name": "none", "eps": "8/255"}, "does not belong to none"),
    ((*TRAINING, "adversary"), {"name": "pgd"}, "is not known; did you mean pgd_at"),
    (
        (*TRAINING, "adversary"),
        {"name": "trades", "eps": "8/255", "step": "2/255", "lambda": 6},
        "adversary.lambda: 6 does not belong to trades",
    ),
    ((*TRAINING, "validation", "examples"), 64, "leaves nothing of the 64 training images"),
    ((*TRAINING, "schedule"), {"name": "piecewise"}, "schedule.drops: is missing"),
    ((*TRAINING, "schedule"), {"name": "triangle", "factor": 0.5}, "factor: 0.5 does not belong to triangle"),
    ((*TRAINING, "schedule", "drops"), [40, 80], "drops: [40, 80] is not before the end of 80 epochs"),
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
    "eot_samples": 2,
}


@pytest.mark.parametrize("method", registry.ATTACKS)
def test_every_attack_takes_what_the_registry_says(method):
    """Each setting has a place in the schema, and is an argument of the attack."""
    entry = registry.ATTACKS[method]
    given = {name: ATTACK_SETTINGS[name] for name in (*entry.required, *entry.optional)}
    validate(changed(("evaluation", "attacks", "new"), {"method": method, **given}), SCHEMA, PUBLISHED)
    arguments = inspect.signature(entry.load()).parameters
    assert set(given) - {"start_seed", "eot_samples"} <= set(arguments)  # which every attack takes
    needed = {
        name
        for name, argument in arguments.items()
        if argument.kind is argument.KEYWORD_ONLY and argument.default is argument.empty
    }
    assert needed <= {*entry.required, *(["sources"] if entry.sources == "needed" else [])}
    assert bool(entry.sources) == ("sources" in arguments)


def test_a_source_that_is_absent():
    config = changed((*EXPERIMENT, "dataset"), "cifar10")
    message = refused(changed(("data", "cifar10", "source"), "/nowhere/$(touch pwned)", config))
    assert message.startswith('data.cifar10.source: "/nowhere/$(touch pwned)" does not exist')
    assert "does not exist" in refused(changed(("data", "cifar10", "source"), "a/" * 1990, config))
    validate(changed(("data", "cifar10", "source"), str(ROOT), config), SCHEMA, PUBLISHED)
