"""Jobs that one process computes: each ends as by itself, whatever becomes of the others or of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

import pytest
from kafnets.runtime import client, server

from tests.repository import ENVIRONMENT
from tests.scripts import SCRIPTS, config, evaluation_arguments, outcome, script, training_arguments, until

SERVER = "kill -9 of the process of several trainings"
CLIENT = "SIGTERM or kill -9 to one of several trainings in a process"
FAILS = "one of several trainings in a process fails"
FILES = ["history.csv", "model.safetensors", "record.json"]


def forked(listening, folder, name, index):
    """`client._start` without the seconds that a new Python takes to import torch."""
    if os.fork():
        return
    os.setsid()
    handle = listening.detach()
    for held in map(int, os.listdir("/proc/self/fd")):  # a new program has no lock of the old one's
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{held}").endswith(f"{name}.lock"):
                os.close(held)
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    (folder.parent / "server").write_text(str(os.getpid()))
    server.LINGER = 1.0
    server.serve(handle, folder, name, index)
    os._exit(0)


def guest(place, name, arguments, log):
    """What a process runs: the script in the common process of those of the same place."""
    os.environ["TMPDIR"], tempfile.tempdir = str(place), None
    client._start = forked
    script("together.py", ["cpu", name, *arguments], log)


class Guests:
    """Trainings that are started in one process, their files in folders of `place`."""

    def __init__(self, context, data, place):
        self.context, self.data, self.place = context, data, place
        self.common = place / "common"
        self.common.mkdir()

    def start(self, activation, configuration=None):
        folder = self.place / activation
        folder.mkdir(exist_ok=True)
        arguments = training_arguments(folder, self.data, activation, configuration)
        process = self.context.Process(
            target=guest, args=(self.common, "train.py", arguments, self.log(activation))
        )
        process.start()
        return process

    def log(self, activation):
        return self.place / f"{activation}.log"

    def server(self):
        return int((self.common / "server").read_text())

    def words(self, activation):
        return self.log(activation).read_text() if self.log(activation).exists() else ""

    def is_in_epoch(self, activation, number):
        return lambda: f"epoch {number}/" in self.words(activation)

    def is_over(self):
        """Whether the process has ended, and left nothing."""
        return not any(path for path in self.common.rglob("*") if path.is_file() and path.name != "server")


@pytest.fixture
def guests(context, data, tmp_path):
    return Guests(context, data, tmp_path)


def check(guests, undisturbed, activations=("relu", "kaf")):
    for activation in activations:
        assert outcome(guests.place / activation) == undisturbed[activation][0]
        assert sorted(path.name for path in (guests.place / activation).iterdir()) == FILES


def test_one_that_fails_leaves_the_others(guests, undisturbed, tally):
    """Three in one process: the record says so. Each has its own words, in its own log."""
    failing = config()
    failing["experiments"]["tiny"]["training"]["learning_rate"] = {"default": [1e30, 1e30]}
    tally.tried(FAILS)
    started = [guests.start("relu"), guests.start("kaf"), guests.start("elu", failing)]
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0, 0, 2], guests.words("elu")
    (said,) = guests.words("elu").splitlines()
    assert said.startswith("error: training stopped at epoch 1, step") and "layer" in said
    assert not list((guests.place / "elu").iterdir())
    check(guests, undisturbed)
    for activation in ("relu", "kaf"):
        record = json.loads((guests.place / activation / "record.json").read_text())
        assert record["environment"]["jobs"] == 3
        lines = guests.words(activation).splitlines()
        assert [line.split("  ")[0] for line in lines] == [f"tiny/{activation}/seed0"] * 5
    until(guests.is_over, 30)
    tally.bits(FAILS)


def test_when_their_process_is_killed_they_go_on_by_themselves(guests, undisturbed, tally):
    started = [guests.start("relu"), guests.start("kaf")]
    for activation in ("relu", "kaf"):
        until(guests.is_in_epoch(activation, 1))
    tally.tried(SERVER)
    os.kill(guests.server(), signal.SIGKILL)
    for activation, process in zip(("relu", "kaf"), started, strict=True):
        process.join(300)
        words = guests.words(activation)
        assert process.exitcode == 0 and "has died; it goes on by itself" in words, words
        assert re.search(r"resuming at epoch [2-5]", words), words
    check(guests, undisturbed)
    tally.bits(SERVER)


def test_a_signal_to_one_and_the_death_of_one(guests, undisturbed, tally):
    """Neither is the others' business; called again, each goes on where it was."""
    kaf, relu = guests.start("kaf"), guests.start("relu")
    until(guests.is_in_epoch("relu", 1))
    tally.tried(CLIENT, 2)
    relu.terminate()
    relu.join(60)
    assert relu.exitcode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; the same command goes on from" in guests.words("relu")
    relu = guests.start("relu")
    until(lambda: "resuming at" in guests.words("relu"))
    relu.kill()
    relu = guests.start("relu")
    for process in (relu, kaf):
        process.join(300)
        assert process.exitcode == 0, (guests.words("relu"), guests.words("kaf"))
    assert guests.words("relu").count("resuming at") == 2 and "resuming" not in guests.words("kaf")
    assert "has died" not in guests.words("relu") + guests.words("kaf")
    check(guests, undisturbed)
    tally.bits(CLIENT, 2)


def test_a_signal_to_their_process_stops_them_all(guests, undisturbed, tally):
    """As scancel does; each has saved its state, and says so."""
    started = [guests.start("relu"), guests.start("kaf")]
    for activation in ("relu", "kaf"):
        until(guests.is_in_epoch(activation, 1))
    tally.tried(CLIENT, 2)
    os.kill(guests.server(), signal.SIGTERM)
    for activation, process in zip(("relu", "kaf"), started, strict=True):
        process.join(60)
        assert process.exitcode == 128 + signal.SIGTERM and "stopped by SIGTERM" in guests.words(activation)
    until(guests.is_over, 30)
    again = [guests.start("relu"), guests.start("kaf")]
    for process in again:
        process.join(300)
    check(guests, undisturbed)
    tally.bits(CLIENT, 2)


def test_the_real_command(data, finished, tmp_path):
    """An attack on a finished network, in a process that the command starts: its output is the script's."""
    folder, _ = finished
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    expected = (folder / "pgd.safetensors").read_bytes()

    def call(*more):
        arguments = evaluation_arguments(folder, data, "kaf", "pgd", tmp_path)
        command = [sys.executable, SCRIPTS / "together.py", "cpu", "evaluate.py", *arguments, *more]
        return subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    made = call()
    assert made.returncode == 0 and "pgd: accuracy" in made.stderr and not made.stdout, made.stderr
    assert (tmp_path / "pgd.safetensors").read_bytes() == expected
    wrong = call("--sources", tmp_path / "absent.safetensors")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --sources: expected the weights of no")
    assert len(list(tmp_path.glob("kafnets-gpus-*/*.log"))) == 1, "both in one process"


def test_edited_code_is_not_run_as_it_was_before(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "SCRIPTS", tmp_path)
    (tmp_path / "train.py").write_text("1")
    os.utime(tmp_path / "train.py", (1e9, 1e9))
    sources = server.Sources()
    monkeypatch.setattr(sources, "started", sources.started + 1000)
    assert sources.changed() is None and sources.changed() is None
    (tmp_path / "train.py").write_text("2")
    assert sources.changed() == str(tmp_path / "train.py")
    os.utime(tmp_path / "train.py", (1e9, 1e9))
    assert sources.changed() is None, "of the same size and date: it cannot be told"
    (tmp_path / "new.py").touch()
    os.utime(tmp_path / "new.py", (3e9, 3e9))
    assert sources.changed() == str(tmp_path / "new.py")


@pytest.mark.parametrize("arguments", [[], ["gpu"], ["tpu", "train.py"], ["cpu", "../train.py"]])
def test_wrong_words_are_told(arguments):
    command = [sys.executable, SCRIPTS / "together.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: write gpu, cpu or none, a script of")
