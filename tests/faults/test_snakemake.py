"""Snakemake itself killed, started twice, given another configuration: the same bits, nothing stale."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.repository import (
    OUT,
    cell,
    copy_repository,
    finish,
    processes,
    run,
    start,
    verdicts,
    weights,
    words,
)
from tests.scripts import until

SUMMARY = f"{OUT}/summary.csv"
ARGUMENTS = ["evaluations", "--config", "seeds=[0]", "experiments={tiny: {activations: [relu]}}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder in which everything was made without a fault, and the seconds it took."""
    folder = copy_repository(tmp_path_factory.mktemp("undisturbed"))
    run(folder, f"{OUT}/data/digits.json")
    started = time.monotonic()
    run(folder, *ARGUMENTS)
    seconds = time.monotonic() - started
    run(folder, SUMMARY, *ARGUMENTS[1:])
    return folder, seconds


@pytest.fixture
def folder(undisturbed, tmp_path):
    """The same with only the data made."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder, symlinks=True)
    for made in ("models", "evaluations", "logs"):
        shutil.rmtree(folder / OUT / made)
    for made in ("summary.csv", "summary.csv.sha256", "manifest.jsonl", "manifest.jsonl.sha256"):
        (folder / OUT / made).unlink()
    return folder


def same(folder, undisturbed):
    return (weights(folder), verdicts(folder)) == (weights(undisturbed), verdicts(undisturbed))


# in a quick run once, during the training
KILLS = [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 0)) for seed in range(12)]


@pytest.mark.parametrize("whole_group", [True, False], ids=["with its jobs", "alone"])
@pytest.mark.parametrize("seed", KILLS)
def test_kill_9_of_snakemake(folder, undisturbed, tally, seed, whole_group):
    """The power fails (snakemake and its jobs), or snakemake alone dies and its job works on as an orphan."""
    reference, seconds = undisturbed
    process = start(folder, *ARGUMENTS)
    time.sleep(random.Random(seed).uniform(0.1, 0.45) * seconds)
    assert process.poll() is None, "too quick to be disturbed"
    tally.tried("kill -9 of snakemake")
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    run(folder, *ARGUMENTS)
    assert same(folder, reference)
    left = [path for path in (folder / OUT).rglob("*") if path.name.startswith((".", "resume-"))]
    assert not [path for path in left if path.suffix != ".ckpt"], left
    tally.bits("kill -9 of snakemake")


def test_two_pipelines_in_one_folder(folder, undisturbed, tally):
    """The second is refused, the first is not disturbed."""
    reference, _ = undisturbed
    first = start(folder, *ARGUMENTS)
    end = time.monotonic() + 120
    while not processes(folder, "train.py", f"{OUT}/models") and time.monotonic() < end:
        time.sleep(0.05)
    first_words = words(folder)
    tally.tried("a second pipeline in the same folder")
    second = start(folder, *ARGUMENTS)
    output = finish(second, folder, check=False)
    assert second.returncode != 0 and "cannot be locked" in output and first_words
    first.wait(300)
    assert first.returncode == 0 and same(folder, reference)
    tally.bits("a second pipeline in the same folder")


def test_results_of_an_older_configuration_are_not_merged(folder, undisturbed, tally):
    """Other activations, seeds and attacks lie in the folder: the summary holds this configuration's only."""
    reference, _ = undisturbed
    for kind in ("models", "evaluations"):
        shutil.copytree(reference / OUT / kind, folder / OUT / kind)
        finished = folder / OUT / kind / "tiny" / "relu"
        shutil.copytree(finished / "seed0", finished / "seed7")
        shutil.copytree(finished, finished.with_name("kaf_swish"))
    old = folder / OUT / "evaluations" / "tiny" / "relu" / "seed0"
    shutil.copy(old / "pgd.json", old / "older_attack.json")
    tally.tried("results of another configuration in the folder")
    run(folder, f"{OUT}/summary.csv", *ARGUMENTS[1:], "evaluation={attacks: {pgd: {iterations: 3}}}")
    with open(folder / OUT / "summary.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["attack"]) for row in rows] == [("0", "clean"), ("0", "pgd")]
    assert (
        weights(folder)[str(cell(folder).relative_to(folder) / "model.safetensors")]
        in weights(reference).values()
    )
    assert json.loads((old / "pgd.json").read_text())["settings"]["iterations"] == 3
    tally.held("results of another configuration in the folder")


@pytest.mark.parametrize(
    "seconds", [0.4, *[pytest.param(other, marks=pytest.mark.slow) for other in (0.0, 0.2, 0.6, 0.8, 1.0)]]
)
def test_killed_while_aggregating(folder, undisturbed, tally, seconds):
    """The summary is whole or absent, and made again."""
    reference, _ = undisturbed
    for kind in ("models", "evaluations"):
        shutil.copytree(reference / OUT / kind, folder / OUT / kind)
    summary, whole = folder / SUMMARY, (reference / SUMMARY).read_bytes()
    arguments = [SUMMARY, *ARGUMENTS[1:]]
    process = start(folder, *arguments)
    until(lambda: processes(folder, "aggregate.py"), 120)
    time.sleep(seconds)
    tally.tried("kill -9 while aggregating")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not summary.exists() or summary.read_bytes() == whole
    run(folder, *arguments)
    assert summary.read_bytes() == whole
    assert not [path for path in summary.parent.iterdir() if path.name.startswith(".")]
    tally.bits("kill -9 while aggregating")


# kB beyond the repository and the data: for logs only; a checkpoint; a model too; hardly an evaluation
@pytest.mark.parametrize("room", [40, *[pytest.param(kb, marks=pytest.mark.slow) for kb in (500, 900, 1200)]])
def test_the_disk_fills_under_the_pipeline(folder, undisturbed, disk, tally, room):
    """Its own records of what it did, and its words, are on that disk too."""
    reference, _ = undisturbed
    full = disk("size=64m") / "run"
    shutil.copytree(folder, full, symlinks=True)
    used = int(subprocess.check_output(["du", "-sk", full]).split()[0])
    subprocess.run(["mount", "-o", f"remount,size={used + room}k", full.parent], check=True)
    tally.tried("full disk under the whole pipeline")
    run(full, *ARGUMENTS, check=False)
    assert not same(full, reference), "there was room for everything"
    subprocess.run(["mount", "-o", "remount,size=64m", full.parent], check=True)
    run(full, *ARGUMENTS)
    assert same(full, reference)
    assert not [path for path in (full / OUT).rglob(".*") if path.is_file()]
    tally.bits("full disk under the whole pipeline")
