"""A right configuration, and changes of it that are refused, for the tests of the configuration."""

import copy
import re

import pytest
import yaml
from kafnets.config.checks import validate
from kafnets.runtime.errors import UserError

from tests.repository import ROOT

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
PUBLISHED = ROOT / "workflow/resources/thesis_results.yaml"
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
            "share": "channel",
        }
    }
    tiny["training"] |= {"activation_rate": 1.0, "penalties": {"slope": 0.0001}}
    tiny["training"]["batch_size"] = 32
    tiny["training"]["learning_rate"] = {"default": [0.01, 0.1], "kaf": [0.01, 0.2]}
    tiny["training"] |= {
        "schedule": {"name": "piecewise", "drops": [40, 60], "factor": 0.1},
        "awp": {"gamma": 0.01, "warm_up": 5},
        "averaging": {"decay": 0.995, "start": 2, "batch_norm": "copy", "keep": "averaged"},
        "validation": {
            **{"examples": 16, "eps": "8/255", "step": "2/255", "iterations": 10},
            **{"every": 1, "keep": "best"},
        },
        "early_stopping": {"eps": "8/255", "step": "2/255", "iterations": 5, "drop": 0.2},
    }
    config.update(experiments={NAME: tiny}, run=[NAME], seeds=[0, 1])
    config["card"]["run"] = [NAME]
    config["certification"]["run"] = ["smoothing_25"]
    config["certification"]["certificates"]["smoothing_25"] = {
        **{"method": "smoothing", "sigma": 0.25, "samples": 1000, "selection_samples": 100},
        **{"alpha": 0.001, "seed": 0, "experiments": [NAME], "examples": 20},
    }
    config["study"].update(run=[NAME], rates=[NAME], null_models={"kaf": "relu"})
    config["data"]["published"]["archives"] = {"relu": {"bytes": 1_240_603, "sha256": "0" * 64}}
    config["detection"] = {
        **{"run": [NAME], "examples": 40, "held_out": 100, "train_examples": 64},
        **{"run_detectors": ["metzen"], "run_attacks": ["static", "orthogonal"]},
        "detectors": {"metzen": {"method": "metzen", "eps": "8/255", "step": "2/255"}},
        "attacks": {
            "static": {"method": "pgd", "eps": "8/255", "step": "1/255", "iterations": 20},
            "orthogonal": {"method": "orthogonal_pgd", "eps": "8/255", "step": "1/255", "iterations": 20},
        },
    }
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
