import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kafnets.runtime import checkpoint
from kafnets.runtime.errors import UserError
from kafnets.runtime.interruption import Interrupted
from kafnets.training import monitor
from kafnets.training.run import run_fingerprint, train
from training_cases import CPU, NOISE, StopAt, same, settings, weights

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


def test_another_implementation_of_the_kaf_is_another_run(monkeypatch):
    fixed = {**settings(), "activation": "relu"}
    before, before_fixed = (run_fingerprint(one, NOISE, CPU) for one in (settings(), fixed))
    monkeypatch.setattr("kafnets.activations.kaf.functional.active_backend", lambda device: "another")
    assert run_fingerprint(settings(), NOISE, CPU) != before
    assert run_fingerprint(fixed, NOISE, CPU) == before_fixed
    assert run_fingerprint(settings(), NOISE, CPU, "code") != run_fingerprint(settings(), NOISE, CPU)


def test_the_same_settings_give_the_same_weights(tmp_path):
    first, history, facts = train(settings(), NOISE, CPU, tmp_path / "a")
    second, _, _ = train(settings(), NOISE, CPU, tmp_path / "b")
    other, _, _ = train({**settings(), "seed": 4}, NOISE, CPU, tmp_path / "c")
    assert same(weights(first), weights(second)) and not same(weights(first), weights(other))
    assert [row["phase"] for row in history] == ["cycle", "cycle", "tail"]
    assert [row["probe_pgd_accuracy"] is not None for row in history] == [False, True, True]
    assert facts["parameters"]["activation"] == 20 * (16 * 3 + 32 * 2 + 64 * 2)
    assert all(0 <= row["clean_accuracy"] <= 1 and row["gradient_norm"] > 0 for row in history)


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_a_run_stopped_by_a_signal_ends_with_the_same_bits(tmp_path, monkeypatch, step):
    whole, history, _ = train(settings(), NOISE, CPU, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.run.progress.bar", StopAt(step))
        with pytest.raises(Interrupted) as stopped:
            train(settings(), NOISE, CPU, tmp_path / "stopped")
    assert stopped.value.exit_code == 143
    assert position(tmp_path / "stopped", NOISE) == ((step - 1) // 4, (step - 1) % 4 + 1)
    torch.manual_seed(99)  # whatever happened meanwhile
    resumed, again, _ = train(settings(), NOISE, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed))
    assert without_seconds(again) == without_seconds(history)


def position(path, NOISE):
    """The epoch and the step, from 0, at which a run will go on."""
    found = checkpoint.read(path, run_fingerprint(settings(), NOISE, CPU))["position"]
    return found["epoch"], found["step"]


def without_seconds(history):
    return [{**row, "seconds": 0} for row in history]


@pytest.mark.parametrize("measurement", ["clean_accuracy", "probe"])
def test_a_signal_during_the_measurements_saves_the_epoch_before_them(tmp_path, monkeypatch, measurement):
    """They are made again, and end with the same bits and the same history."""
    whole, history, _ = train(settings(), NOISE, CPU, tmp_path / "whole")
    measure = getattr(monitor, measurement)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(monitor, measurement, interrupted)
        with pytest.raises(Interrupted):
            train(settings(), NOISE, CPU, tmp_path / "stopped")
    epoch = {"clean_accuracy": 0, "probe": 1}[measurement]  # the first that makes it
    assert position(tmp_path / "stopped", NOISE) == (epoch, 4)
    resumed, again, _ = train(settings(), NOISE, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed)) and without_seconds(again) == without_seconds(history)


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(tmp_path, tally):
    """kill -9 of the real process, again and again, until it gets through."""
    whole, _, _ = train(settings(epochs=3), NOISE, CPU, tmp_path / "whole")
    torch.save(NOISE.__dict__, tmp_path / "data.pt")
    (tmp_path / "settings.json").write_text(json.dumps(settings(epochs=3)))
    code = f"""
import json, torch
from pathlib import Path
from kafnets.data import Dataset
from kafnets.training.run import train
torch.set_num_threads({torch.get_num_threads()})
folder = Path({str(tmp_path)!r})
dataset = Dataset(**torch.load(folder / "data.pt"))
print("begun", flush=True)
model, _, _ = train(json.loads((folder / "settings.json").read_text()), dataset, torch.device("cpu"),
                    folder / "state", checkpoint_seconds=0.0)
torch.save(model.state_dict(), folder / "end.pt")
"""

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        process.stdout.readline()
        return process

    def written():
        return state.stat().st_mtime_ns if state.exists() else None

    state, draw = tmp_path / "state", random.Random(0)
    for _ in range(4):  # after a step at least, so that each goes on from another; there are 12
        before, process = written(), start()
        while written() == before:
            assert process.poll() is None, "it ended before it had written"
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        tally.tried("kill -9 of a training")
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert start().wait(timeout=300) == 0
    assert same(weights(whole), torch.load(tmp_path / "end.pt", weights_only=True))
    tally.bits("kill -9 of a training", 4)


def test_deferred_a_run_learns_the_same(tmp_path):
    """Rates read on the device, the fused optimiser and late questions change rounding only."""
    first, history, _ = train(settings(), NOISE, CPU, tmp_path / "a")
    second, again, _ = train(settings(), NOISE, CPU, tmp_path / "b", deferred=True)
    for row, other in zip(history, again, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
    for name, tensor in weights(first).items():
        assert torch.allclose(tensor.double(), weights(second)[name].double(), rtol=1e-2, atol=1e-3), name


def test_deferred_a_stopped_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole, _, _ = train(settings(), NOISE, CPU, tmp_path / "whole", deferred=True)
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.run.progress.bar", StopAt(6))
        with pytest.raises(Interrupted):
            train(settings(), NOISE, CPU, tmp_path / "stopped", deferred=True)
    resumed, _, _ = train(settings(), NOISE, CPU, tmp_path / "stopped", deferred=True)
    assert same(weights(whole), weights(resumed))


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    path = tmp_path / "state"
    checkpoint.write(path, {"fingerprint": "a", "tensor": torch.arange(5)})
    assert torch.equal(checkpoint.read(path, "a")["tensor"], torch.arange(5))
    content = bytearray(path.read_bytes())
    for position in (0, 30, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert checkpoint.read(path, "a") is None
    path.write_bytes(content[: len(content) // 2])
    assert checkpoint.read(path, "a") is None


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state"
    checkpoint.write(path, {"fingerprint": run_fingerprint(settings(epochs=5), NOISE, CPU)})
    with pytest.raises(UserError, match="other settings"):
        train(settings(), NOISE, CPU, path)


@pytest.mark.injects("a training whose loss is not finite")
def test_a_loss_that_is_not_finite_names_epoch_step_and_layer(tmp_path):
    with pytest.raises(UserError, match=r"epoch \d, step \d of 4: the output of layer [\w.]+ is not finite"):
        train(settings(learning_rate=[1e30, 1e30]), NOISE, CPU, tmp_path / "state")
