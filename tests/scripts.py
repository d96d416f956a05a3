"""The workflow's scripts as processes of their own that need not import torch again."""

import hashlib
import json
import os
import runpy
import sys
import time

import yaml
from kafnets.config import evaluation_settings, training_settings

from tests.repository import ROOT, TINY

SCRIPTS = ROOT / "workflow" / "scripts"
EPOCHS = 5


def script(name, arguments, log):
    """What the forked process runs: a script as the workflow calls it, its words in `log`."""
    sys.argv = [str(SCRIPTS / name), *map(str, arguments)]
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(words, 1)
    os.dup2(words, 2)
    sys.path.insert(0, str(SCRIPTS))
    runpy.run_path(sys.argv[0], run_name="__main__")


def config():
    config = yaml.safe_load(TINY.read_text())
    config["experiments"]["tiny"]["training"]["epochs"] = EPOCHS
    return config


def training_arguments(folder, data, activation, configuration=None):
    settings = training_settings(configuration or config(), "tiny", activation, 0)
    return [
        *("--settings", json.dumps(settings), "--data", data, "--device", "cpu"),
        *("--model", folder / "model.safetensors", "--history", folder / "history.csv"),
        *("--record", folder / "record.json"),
    ]


def evaluation_arguments(folder, data, activation, attack, target=None):
    settings = evaluation_settings(config(), "tiny", activation, 0, attack)
    target = target or folder
    return [
        *("--settings", json.dumps(settings), "--data", data, "--device", "cpu", "--batch-size", "20"),
        *("--model", folder / "model.safetensors", "--model-record", folder / "record.json"),
        *("--record", target / f"{attack}.json", "--verdicts", target / f"{attack}.safetensors"),
    ]


def log_of(folder):
    return folder.with_name(f"{folder.name}.log")


def start(context, folder, data, activation):
    """A training whose files go to `folder`."""
    arguments = ("train.py", training_arguments(folder, data, activation), log_of(folder))
    process = context.Process(target=script, args=arguments)
    process.start()
    return process


def complete(context, folder, data, activation):
    """A training from where it is to its end."""
    process = start(context, folder, data, activation)
    process.join(300)
    assert process.exitcode == 0, log_of(folder).read_text()[-2000:]


def outcome(folder):
    """What must be equal to the bit: the weights, and the history without its seconds."""
    rows = [line.rpartition(",")[0] for line in (folder / "history.csv").read_text().splitlines()]
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), rows


def until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.0005)
