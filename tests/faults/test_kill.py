"""A training killed at any moment and started again ends with the bits of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.repository import ENVIRONMENT
from tests.scripts import EPOCHS, SCRIPTS, complete, log_of, outcome, start, training_arguments, until


@pytest.mark.parametrize("seed", range(10))
def test_killed_five_times(context, data, undisturbed, tmp_path, tally, seed):
    """kill -9 at random moments; every second time while a file is being written."""
    draw = random.Random(seed)
    activation = ("relu", "kaf")[seed % 2]
    expected, seconds = undisturbed[activation]
    kills = 0
    for turn in range(5):
        before = set(tmp_path.glob(".*.*"))
        process = start(context, tmp_path, data, activation)
        if turn % 2:
            # a temporary file beside the one that it will become: the write is under way
            until(lambda: set(tmp_path.glob(".*.*")) - before or not process.is_alive(), seconds * 3)  # noqa: B023
        else:
            process.join(draw.uniform(0.1, seconds * 0.5))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    tally.tried("kill -9 of a training", kills)
    complete(context, tmp_path, data, activation)
    assert outcome(tmp_path) == expected
    assert json.loads((tmp_path / "record.json").read_text())["model_sha256"] == expected[0]
    assert not list(tmp_path.glob("resume-*")) and not list(tmp_path.glob(".*")), "something was left"
    tally.held("kill -9 of a training", kills)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_preempted(context, data, undisturbed, tmp_path, tally, number):
    """SIGTERM: a checkpoint within 10 s, an exit code that is not 0, and the same bits afterwards."""
    expected, seconds = undisturbed["kaf"]
    process = start(context, tmp_path, data, "kaf")
    until(lambda: list(tmp_path.glob("resume-*.ckpt")), seconds * 5)
    (checkpoint,) = tmp_path.glob("resume-*.ckpt")
    before = checkpoint.stat().st_mtime_ns
    time.sleep(seconds / EPOCHS / 4)  # into an epoch: what is lost is a step, not the epoch
    tally.tried("SIGTERM or SIGINT to a training")
    started = time.monotonic()
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == 128 + number and time.monotonic() - started < 10
    assert checkpoint.stat().st_mtime_ns > before and not (tmp_path / "model.safetensors").exists()
    complete(context, tmp_path, data, "kaf")
    assert "resuming at epoch" in log_of(tmp_path).read_text()
    assert outcome(tmp_path) == expected
    tally.held("SIGTERM or SIGINT to a training")


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


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "foreign"])
def test_a_damaged_checkpoint(context, data, undisturbed, tmp_path, tally, damage):
    """Refused or passed over, never used."""
    expected, seconds = undisturbed["relu"]
    process = start(context, tmp_path, data, "relu")
    until(lambda: list(tmp_path.glob("resume-*.ckpt")), seconds * 5)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (checkpoint,) = tmp_path.glob("resume-*.ckpt")
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
    assert "resuming" not in log_of(tmp_path).read_text()
    tally.held("damaged checkpoints")
