"""The workflow's scripts as processes of their own that need not import torch again."""

import contextlib
import hashlib
import io
import json
import os
import runpy
import signal
import sys
import time

import yaml
from kafnets.config.slices import evaluation_settings, training_settings

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


def here(name, *arguments):
    """A script in this process: its exit code, and what it wrote to the standard error."""
    before, errors = sys.argv, io.StringIO()
    sys.argv = [str(SCRIPTS / name), *map(str, arguments)]
    try:
        with contextlib.redirect_stderr(errors):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0, errors.getvalue()
    finally:
        sys.argv = before
    return 0, errors.getvalue()


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


def evaluation_arguments(folder, data, activation, attack, target=None, attacks=None):
    """Of evaluate.py, for an attack of the tiny configuration or of `attacks`, beside it."""
    configuration = config()
    configuration["evaluation"]["attacks"] |= attacks or {}
    settings = evaluation_settings(configuration, "tiny", activation, 0, attack)
    target = target or folder
    return [
        *("--settings", json.dumps(settings), "--data", data, "--device", "cpu", "--batch-size", "20"),
        *("--model", folder / "model.safetensors", "--model-record", folder / "record.json"),
        *("--record", target / f"{attack}.json", "--verdicts", target / f"{attack}.safetensors"),
    ]


def sources(*folders):
    """The options of the networks in `folders` as an attack's sources."""
    return [
        *("--sources", *[folder / "model.safetensors" for folder in folders]),
        *("--source-records", *[folder / "record.json" for folder in folders]),
    ]


def call(context, name, arguments, log):
    """A script from its start to its end: its exit code, and what it wrote to its log."""
    process = context.Process(target=script, args=(name, arguments, log))
    process.start()
    process.join(300)
    return process.exitcode, log.read_text()


def log_of(folder):
    return folder.with_name(f"{folder.name}.log")


def start(context, folder, data, activation, configuration=None, log=None):
    """A training whose files go to `folder`."""
    arguments = training_arguments(folder, data, activation, configuration)
    process = context.Process(target=script, args=("train.py", arguments, log or log_of(folder)))
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


def dying(moment, name, *arguments):
    """What a process runs that is killed at a moment in the life of the file `name`: a script.

    Args:
        moment (str): "written" (all its bytes are in the temporary file), "synced" (on the disk, not renamed)
            or "renamed".
    """
    sync, rename = os.fsync, os.replace

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(file):
        if moment == "written" and f"/.{name}." in os.readlink(f"/proc/self/fd/{file}"):
            die()
        sync(file)

    def replace(source, target):
        if os.path.basename(target) != name:
            return rename(source, target)
        if moment == "synced":
            die()
        rename(source, target)
        die()

    os.fsync, os.replace = fsync, replace
    script(*arguments)


def until(condition, seconds=300):
    """Waits for a condition that must come; its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.0005)
    return found
