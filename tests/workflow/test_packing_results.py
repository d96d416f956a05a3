"""An unfinished grid packed, carried into another clone and gone on with there."""

import os
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from kafnets.config.slices import training_settings
from kafnets.data import load
from kafnets.pipeline import carrying
from kafnets.runtime.errors import UserError
from kafnets.training.run import train
from safetensors.torch import load_file

from tests.repository import ENVIRONMENT, OUT, TINY, cell, copy_repository, planned, snakemake, start
from tests.scripts import until

SCRIPT = "workflow/scripts/pack_results.py"
ARCHIVE = "carried.tar.xz"


def pack(folder, *arguments, code=0):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings():
    config = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    config["seeds"] = [0]
    config["experiments"]["tiny"]["activations"] = ["relu", "elu"]
    config["experiments"]["tiny"]["training"]["epochs"] = 8
    return config


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A clone whose first network is trained, and whose second was stopped on its way."""
    folder = copy_repository(tmp_path_factory.mktemp("one machine"))
    (folder / "small.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    process = start(folder, "--configfile", "small.yaml", "--cores", "1", "--", "models")

    def is_half_way():
        assert process.poll() is None, (folder / "snakemake.out").read_text()
        folders = {path.parent for path in folder.glob(f"{OUT}/models/*/*/*/resume-*.ckpt")}
        done = {path.parent for path in folder.glob(f"{OUT}/models/*/*/*/record.json")}
        return done and folders - done

    until(is_half_way)
    with pytest.raises(UserError, match="a process is at work there; stop it"):
        carrying.pack(folder, OUT, folder / ARCHIVE)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(120)
    assert len([*folder.glob(f"{OUT}/models/*/*/*/record.json")]) == 1
    return folder


def test_it_goes_on_elsewhere_with_the_same_bits(interrupted, tmp_path):
    """Packed in parts, with the data; one ordinary command goes on, and makes nothing again."""
    words = pack(
        interrupted, "--output", tmp_path / ARCHIVE, "--results", OUT, "--with-data", "--part-size", "100k"
    )
    parts = sorted(tmp_path.glob(f"{ARCHIVE}.*"))
    assert len(parts) > 1 and all(part.stat().st_size <= 100_000 for part in parts)
    assert parts[0].name == f"{ARCHIVE}.000" and str(parts[-1]) in words

    fresh = copy_repository(tmp_path / "another machine")
    (fresh / "small.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    for path in fresh.rglob("*.py"):  # as git clones them: newer than any result
        path.touch()
    pack(fresh, "--unpack", tmp_path / ARCHIVE)
    (done,) = interrupted.glob(f"{OUT}/models/*/*/*/record.json")
    command = ("--configfile", TINY, "--configfile", "small.yaml", "--cores", "1")
    assert planned(snakemake(fresh, *command, "--", "models").stdout)["train"] == 1
    moved = fresh / done.relative_to(interrupted)
    assert moved.read_bytes() == done.read_bytes()
    other = {"relu": "elu", "elu": "relu"}[done.parents[1].name]
    log = (fresh / OUT / "logs/train/tiny" / other / "seed0.log").read_text(encoding="utf-8")
    assert log.count("resuming at epoch") == 1 and "stopped by SIG" in log

    chosen = training_settings(settings(), "tiny", other, 0)
    data = load(fresh / OUT / "data/digits.safetensors", train_examples=chosen["train_examples"])
    torch.set_num_threads(1)
    undisturbed, _, _ = train(chosen, data, torch.device("cpu"), tmp_path / "resume.ckpt")
    carried = load_file(cell(fresh, other) / "model.safetensors")
    for name, expected in undisturbed.state_dict().items():
        assert torch.equal(carried[name], expected), name

    finished = cell(fresh, other) / "record.json"
    before = finished.read_bytes()
    words = pack(fresh, "--unpack", tmp_path / ARCHIVE)  # again: what is finished here stays
    assert finished.read_bytes() == before and f"kept as it is: models/tiny/{other}/seed0/record" in words
    assert "0 files put in place" in words


@pytest.mark.slow
def test_without_the_data_what_is_finished_proves_it(interrupted, tmp_path):
    """The data are prepared anew, so both trainings are planned: one goes on, the other ends at once."""
    pack(interrupted, "--output", tmp_path / ARCHIVE, "--results", OUT)
    fresh = copy_repository(tmp_path / "another machine")
    (fresh / "small.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    pack(fresh, "--unpack", tmp_path / ARCHIVE)
    assert not (fresh / OUT / "data").exists()
    (done,) = interrupted.glob(f"{OUT}/models/*/*/*/record.json")
    command = ("--configfile", TINY, "--configfile", "small.yaml", "--cores", "1", "--", "models")
    assert planned(snakemake(fresh, *command).stdout)["train"] == 2
    assert (fresh / done.relative_to(interrupted)).read_bytes() == done.read_bytes()
    logs = {path.parent.name: path.read_text() for path in (fresh / OUT / "logs/train/tiny").rglob("*.log")}
    activation = done.parents[1].name
    assert "trained already" in logs.pop(activation)
    assert "resuming at epoch" in logs.popitem()[1]
