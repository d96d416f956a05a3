"""A training killed at any moment and started again ends with the bits of an undisturbed one."""

import io
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from kafnets.config.slices import training_settings
from kafnets.data import load
from kafnets.training import monitor
from kafnets.training.run import run_fingerprint

from tests.repository import ENVIRONMENT
from tests.scripts import (
    EPOCHS,
    SCRIPTS,
    call,
    complete,
    config,
    dying,
    log_of,
    outcome,
    script,
    start,
    training_arguments,
    until,
)

FILES = ["history.csv", "model.safetensors", "record.json"]
KILL = "kill -9 of a training"
SIGNAL = "SIGTERM or SIGINT to a training"


# in a quick run twenty kills, ten with either activation
@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))]
)
def test_killed_five_times(context, data, undisturbed, tmp_path, tally, seed):
    """kill -9 at random moments; every second time while a file is being written."""
    draw = random.Random(seed)
    activation = ("relu", "kaf")[seed % 2]
    expected, seconds = undisturbed[activation]
    kills = starts = 0
    while kills < 5:
        starts += 1
        assert starts < 25, "it gets through faster than it can be killed"
        before = set(tmp_path.glob(".*.*"))
        process = start(context, tmp_path, data, activation)
        if kills % 2:
            # a temporary file beside the one that it will become: the write is under way
            until(lambda: set(tmp_path.glob(".*.*")) - before or not process.is_alive())  # noqa: B023
        else:
            process.join(draw.uniform(0.1, seconds * 0.5))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:  # it was done before: from the start again
            assert process.exitcode == 0 and outcome(tmp_path) == expected
            for path in tmp_path.iterdir():
                path.unlink()
    tally.tried(KILL, kills)
    complete(context, tmp_path, data, activation)
    assert outcome(tmp_path) == expected
    assert json.loads((tmp_path / "record.json").read_text())["model_sha256"] == expected[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES, "something was left"
    tally.bits(KILL, kills)


@pytest.mark.parametrize("activation", ["relu", pytest.param("kaf", marks=pytest.mark.slow)])
def test_killed_at_every_moment_of_every_file(context, data, undisturbed, tmp_path, tally, activation):
    """Not by chance: in one folder, one death after the other, those of the end too."""
    expected, _ = undisturbed[activation]
    train = ("train.py", training_arguments(tmp_path, data, activation), log_of(tmp_path))
    process = context.Process(target=dying, args=("renamed", name_of_checkpoint(data, activation), *train))
    process.start()
    process.join(300)
    (checkpoint,) = tmp_path.glob("resume-*.ckpt")
    for name in (checkpoint.name, "model.safetensors", "history.csv", "record.json"):
        for moment in ("written", "synced", "renamed"):
            tally.tried(KILL)
            process = context.Process(target=dying, args=(moment, name, *train))
            process.start()
            process.join(300)
            assert process.exitcode == -signal.SIGKILL, f"not killed: {name} {moment}"
            assert len(list(tmp_path.glob(f".{name}.*"))) == (moment != "renamed")
            assert not (tmp_path / "record.json").exists() or (name, moment) == ("record.json", "renamed")
            tally.held(KILL)
    complete(context, tmp_path, data, activation)
    assert outcome(tmp_path) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES, "something was left"
    tally.bits(KILL, 12, held=False)


def name_of_checkpoint(data, activation):
    settings = training_settings(config(), "tiny", activation, 0)
    dataset = load(data, train_examples=settings["train_examples"])
    return f"resume-record-{run_fingerprint(settings, dataset, torch.device('cpu'))}.ckpt"


def position(checkpoint):
    """The epoch and the step, from 0, at which a training will go on."""
    body = checkpoint.read_bytes().split(b"\n", 2)[2]
    found = torch.load(io.BytesIO(body), weights_only=True)["position"]
    return found["epoch"], found["step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_preempted(context, data, undisturbed, tmp_path, tally, number):
    """SIGTERM: a checkpoint within 10 s, an exit code that is not 0, and the same bits afterwards."""
    expected, seconds = undisturbed["kaf"]
    process = start(context, tmp_path, data, "kaf")
    (checkpoint,) = until(lambda: list(tmp_path.glob("resume-*.ckpt")))
    before = position(checkpoint)
    time.sleep(seconds / EPOCHS / 4)  # into an epoch: what is lost is a step, not the epoch
    tally.tried(SIGNAL)
    started = time.monotonic()
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == 128 + number and time.monotonic() - started < 10
    name = signal.Signals(number).name
    assert f"stopped by {name}; the same command goes on from {checkpoint}" in log_of(tmp_path).read_text()
    epoch, step = position(checkpoint)
    assert (epoch, step) >= before and not (tmp_path / "model.safetensors").exists()
    complete(context, tmp_path, data, "kaf")
    resumed = re.findall(r"^resuming at (.*)$", log_of(tmp_path).read_text(), re.MULTILINE)
    assert resumed == [f"epoch {epoch + 1}, step {step + 1}"]
    assert outcome(tmp_path) == expected
    tally.bits(SIGNAL)


def long_probe(begun, *arguments):
    """What a process runs that says when its end-of-epoch measurements begin: a script."""
    probe = monitor.probe

    def told(*arguments):
        begun.touch()
        return probe(*arguments)

    monitor.probe = told
    script(*arguments)


def test_preempted_in_the_measurements_after_an_epoch(context, data, tmp_path, tally):
    """They take an hour here; what the epoch computed is saved at once."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = config()
    settings["experiments"]["tiny"]["training"]["monitor"].update(iterations=1_000_000)
    train = ("train.py", training_arguments(folder, data, "relu", settings), log_of(folder))
    begun = tmp_path / "begun"
    process = context.Process(target=long_probe, args=(begun, *train))
    process.start()
    until(begun.exists)
    assert not list(folder.glob("resume-*"))
    tally.tried(SIGNAL)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == 128 + signal.SIGTERM and time.monotonic() - started < 10
    (checkpoint,) = folder.glob("resume-*.ckpt")
    assert position(checkpoint) == (0, 4), "after the last step of the first epoch"
    tally.held(SIGNAL)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a step", "the measurements"])
def test_a_real_networks_checkpoint_comes_within_ten_seconds(context, data, tmp_path, tally, moment):
    """ResNet20 at batch 128 on a CPU, whose steps and measurements are the slowest that there are."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = config()
    settings["experiments"]["tiny"].update(architecture="resnet20", train_examples=1200)
    settings["experiments"]["tiny"]["training"].update(batch_size=128)
    settings["experiments"]["tiny"]["training"]["monitor"].update(examples=128, iterations=20)
    train = ("train.py", training_arguments(folder, data, "kaf", settings), log_of(folder))
    begun = tmp_path / "begun"
    process = context.Process(target=long_probe, args=(begun, *train))
    process.start()
    if moment == "a step":
        until((folder / "record.lock").exists)
        time.sleep(5)
        assert not begun.exists()
    else:
        until(begun.exists)
    tally.tried(SIGNAL)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    seconds = time.monotonic() - started
    assert process.exitcode == 128 + signal.SIGTERM and seconds < 10, seconds
    assert list(folder.glob("resume-*.ckpt"))
    tally.held(SIGNAL)
    tally.figure(f"seconds from SIGTERM in {moment} to the exit (ResNet20, batch 128, CPU)", f"{seconds:.1f}")


def test_a_signal_before_the_training_began(data, tmp_path):
    """While torch is being imported nothing listens: the exit is the signal's, and nothing is written."""
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "train.py", *map(str, training_arguments(tmp_path, data, "relu"))],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) != 0 and not list(tmp_path.iterdir())


def interrupted(context, folder, data):
    """The checkpoint of a training that was killed after its first epoch."""
    process = start(context, folder, data, "relu")
    (checkpoint,) = until(lambda: list(folder.glob("resume-*.ckpt")))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return checkpoint


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "foreign"])
def test_a_damaged_checkpoint(context, data, undisturbed, tmp_path, tally, damage):
    """Passed over, never used, and the log says so."""
    expected, _ = undisturbed["relu"]
    checkpoint = interrupted(context, tmp_path, data)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    tally.tried("damaged checkpoints")
    checkpoint.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "flipped": content,
            "empty": b"",
            "text": b"hello\n",
            "foreign": b"kafnets-checkpoint-1\n" + b"0" * 64 + b"\n" + bytes(content),
        }[damage]
    )
    complete(context, tmp_path, data, "relu")
    assert outcome(tmp_path) == expected
    words = log_of(tmp_path).read_text()
    assert "resuming" not in words
    assert f"{checkpoint}: damaged, its checksum is another; beginning again" in words
    tally.bits("damaged checkpoints")


def test_a_checkpoint_that_cannot_be_read(context, data, tmp_path, tally):
    """No traceback, and no training from the start that would write over it."""
    checkpoint = interrupted(context, tmp_path, data)
    checkpoint.unlink()
    checkpoint.mkdir()
    tally.tried("damaged checkpoints")
    process = start(context, tmp_path, data, "relu")
    process.join(300)
    words = log_of(tmp_path).read_text()
    assert process.exitcode == 2 and "Traceback" not in words
    assert words.splitlines()[-1].startswith(f"error: {checkpoint}: cannot be read: Is a directory")
    tally.held("damaged checkpoints")


def test_a_finished_training_that_was_thrown_away_is_written_again(
    context, data, undisturbed, tmp_path, tally, monkeypatch
):
    """As Snakemake does with all that a group has made, when one of it fails."""
    expected, _ = undisturbed["relu"]
    monkeypatch.setenv("KAFNETS_KEEP_CHECKPOINT", "1")
    fresh = multiprocessing.get_context("spawn")  # the forkserver has its environment already
    assert call(fresh, "train.py", training_arguments(tmp_path, data, "relu"), log_of(tmp_path))[0] == 0
    for name in FILES:
        (tmp_path / name).unlink()
    monkeypatch.delenv("KAFNETS_KEEP_CHECKPOINT")
    tally.tried("a finished training thrown away")
    log_of(tmp_path).unlink()
    complete(context, tmp_path, data, "relu")
    words = log_of(tmp_path).read_text()
    assert f"resuming at epoch {EPOCHS + 1}, step 1" in words and "loss" not in words
    assert outcome(tmp_path) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    tally.bits("a finished training thrown away")


def test_a_checkpoint_of_other_code_is_left_and_removed_at_the_end(
    context, data, undisturbed, tmp_path, tally
):
    """After an edit or a pull in the middle of a run: half of each would be a training of no code at all."""
    expected, _ = undisturbed["relu"]
    interrupted(context, tmp_path, data)
    arguments = [*training_arguments(tmp_path, data, "relu"), "--code", "another"]
    tally.tried("a checkpoint of other code")
    log_of(tmp_path).unlink()
    code, words = call(context, "train.py", arguments, log_of(tmp_path))
    assert code == 0 and "resuming" not in words
    assert outcome(tmp_path) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    tally.bits("a checkpoint of other code")
