import dataclasses
import json
import multiprocessing
import os
import subprocess
import time

import pytest
from kafnets.config.slices import card_settings, evaluation_settings, lr_range_settings, training_settings
from kafnets.data import prepare_digits, save
from kafnets.report import manifest, summary
from kafnets.runtime.files import write_sealed

from tests.repository import REQUIRED
from tests.scripts import call, complete, config, evaluation_arguments, outcome

ATTACKS = ("clean", "pgd")


@pytest.fixture(scope="session")
def context():
    """Processes that have torch already: a fault costs a second, not the import too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "kafnets.training", "kafnets.data", "kafnets.models", "tqdm"])
    return context


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    save(prepare_digits(), folder / "digits.safetensors", folder / "digits.json")
    return folder / "digits.safetensors"


@pytest.fixture(scope="session")
def undisturbed(context, data, tmp_path_factory):
    """By activation: what a training comes to that nothing disturbs, and its seconds."""
    outcomes = {}
    for activation in ("relu", "kaf"):
        folder = tmp_path_factory.mktemp(activation)
        started = time.monotonic()
        complete(context, folder, data, activation)
        outcomes[activation] = outcome(folder), time.monotonic() - started
    return outcomes


@pytest.fixture(scope="session")
def finished(context, data, tmp_path_factory):
    """One training, its evaluations, its card and its learning-rate range, and the run of a manifest."""
    folder = tmp_path_factory.mktemp("finished")
    complete(context, folder, data, "kaf")
    scripts = [("evaluate.py", evaluation_arguments(folder, data, "kaf", attack)) for attack in ATTACKS]
    scripts += [("card.py", card_arguments(folder, data)), ("lr_range.py", lr_range_arguments(folder, data))]
    for name, arguments in scripts:
        code, words = call(context, name, arguments, folder.with_name("finished.log"))
        assert code == 0, words[-2000:]
    run = manifest.Run(
        experiment="tiny",
        activation="kaf",
        seed=0,
        architecture="resnet8",
        dataset="digits",
        training_record=str(folder / "record.json"),
        history=str(folder / "history.csv"),
        training_settings=training_settings(config(), "tiny", "kaf", 0),
        evaluations={
            attack: {
                "record": str(folder / f"{attack}.json"),
                "verdicts": str(folder / f"{attack}.safetensors"),
                "settings": evaluation_settings(config(), "tiny", "kaf", 0, attack),
            }
            for attack in ATTACKS
        },
    )
    write_sealed(folder / "manifest.jsonl", json.dumps(dataclasses.asdict(run)) + "\n")
    summary.write_rows(folder / "summary.csv", summary.summarize([run]))
    return folder, run


def card_arguments(trained, data, target=None):
    """Of card.py, for the network in `trained`, with the fewest images and passes."""
    target = target or trained
    settings = card_settings(config(), "tiny", "kaf", 0)
    return [
        *("--settings", json.dumps(settings), "--data", data, "--device", "cpu", "--batch-size", "20"),
        *("--model", trained / "model.safetensors", "--model-record", trained / "record.json"),
        *("--record", target / "card.json", "--tensors", target / "card.safetensors"),
    ]


def lr_range_arguments(target, data):
    settings = lr_range_settings(config(), "tiny", "kaf")
    return [
        *("--settings", json.dumps(settings), "--data", data, "--device", "cpu"),
        *("--csv", target / "lr_range.csv", "--json", target / "lr_range.json"),
    ]


@pytest.fixture
def disk(tmp_path):
    """Mounts a small file system with the options given."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            message = f"no tmpfs can be mounted here: {done.stderr.strip()}"
            pytest.fail(message) if REQUIRED else pytest.skip(message)
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)
