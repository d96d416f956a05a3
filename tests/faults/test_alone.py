"""Two processes on one result, and what a killed one leaves of its files."""

import errno
import fcntl
import os
import platform
import signal
import time

from kafnets.runtime.files import alone, atomic_path

from tests.scripts import call, complete, dying, evaluation_arguments, log_of, outcome, script, start, until

TWO = "a second process on the same result"
LEFT = "kill -9 while a result is written: what is left is removed by the next"


def test_a_second_training_waits_and_takes_what_the_first_made(context, data, undisturbed, tmp_path, tally):
    """An orphan of a killed snakemake, and the same job of the next one."""
    expected, _ = undisturbed["relu"]
    first = start(context, tmp_path, data, "relu")
    until(lambda: (tmp_path / "record.lock").exists() and (tmp_path / "record.lock").read_text())
    tally.tried(TWO)
    log = tmp_path.with_name("second.log")
    second = start(context, tmp_path, data, "relu", log=log)
    until(lambda: log.exists() and "is at it" in log.read_text())
    assert f"process {first.pid} on {platform.node()} is at it; waiting until it ends" in log.read_text()
    first.join(300)
    assert first.exitcode == 0
    made = (tmp_path / "model.safetensors").stat()
    second.join(300)
    assert second.exitcode == 0 and "the other process has trained it" in log.read_text()
    assert "resuming" not in log.read_text() and "epoch" not in log.read_text()
    assert os.path.samestat(made, (tmp_path / "model.safetensors").stat())
    assert outcome(tmp_path) == expected and not (tmp_path / "record.lock").exists()
    tally.bits(TWO)


def test_a_second_training_goes_on_where_the_first_was_killed(context, data, undisturbed, tmp_path, tally):
    expected, _ = undisturbed["relu"]
    first = start(context, tmp_path, data, "relu")
    until((tmp_path / "record.lock").exists)
    log = tmp_path.with_name("second.log")
    second = start(context, tmp_path, data, "relu", log=log)
    until(lambda: list(tmp_path.glob("resume-*.ckpt")) and log.exists() and "is at it" in log.read_text())
    tally.tried(TWO)
    first.kill()
    first.join()
    assert first.exitcode == -signal.SIGKILL
    second.join(300)
    assert second.exitcode == 0 and "resuming at epoch" in log.read_text()
    assert outcome(tmp_path) == expected
    tally.bits(TWO)


def hold(path):
    """What a process runs that is at a result until it is killed."""
    os.environ["SLURM_JOB_ID"] = "4711"
    with alone(path):
        signal.pause()


def test_a_second_evaluation_waits(context, data, undisturbed, tmp_path, tally):
    complete(context, tmp_path, data, "relu")
    holder = context.Process(target=hold, args=(tmp_path / "clean.json",))
    holder.start()
    until(lambda: (tmp_path / "clean.lock").exists() and (tmp_path / "clean.lock").read_text())
    tally.tried(TWO)
    arguments = evaluation_arguments(tmp_path, data, "relu", "clean")
    log = tmp_path.with_name("evaluation.log")
    process = context.Process(target=script, args=("evaluate.py", arguments, log))
    process.start()
    until(lambda: log.exists() and "is at it" in log.read_text())
    assert f"process {holder.pid} on {platform.node()}, SLURM job 4711 is at it" in log.read_text()
    assert not (tmp_path / "clean.json").exists()
    holder.kill()
    process.join(300)
    assert process.exitcode == 0 and (tmp_path / "clean.json").exists()
    assert not (tmp_path / "clean.lock").exists()
    tally.held(TWO)


def enter(path, times):
    """What a process runs that must never meet another inside."""
    inside = path.with_name("inside")
    for _ in range(times):
        with alone(path):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            time.sleep(0.002)
            inside.unlink()


def test_no_two_are_ever_inside(context, tmp_path):
    """The lock's file comes and goes: who waited for one that is gone must not go on with it."""
    crowd = [context.Process(target=enter, args=(tmp_path / "record.json", 25)) for _ in range(6)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(120)
    assert [process.exitcode for process in crowd] == [0] * 6 and not list(tmp_path.iterdir())


def test_without_locks_a_line_says_so_and_nothing_is_removed(tmp_path, monkeypatch, capsys):
    """As on a file system that has none."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".a.json.left").touch()
    with alone(tmp_path / "a.json") as waited, atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert not waited and (tmp_path / "a.json").read_text() == "{}" and (tmp_path / ".a.json.left").exists()
    assert "a.lock: cannot be locked (No locks available)" in capsys.readouterr().err


def write_for_ever(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        signal.pause()


def test_a_living_writers_file_is_left_alone_and_a_dead_ones_is_not(context, tmp_path, tally):
    path = tmp_path / "history.csv"
    writer = context.Process(target=write_for_ever, args=(path,))
    writer.start()
    (half,) = until(lambda: list(tmp_path.glob(".history.csv.*")))
    until(lambda: half.read_text() == "half")
    for living in (True, False):
        with atomic_path(path) as temporary:
            temporary.write_text("whole")
        assert half.exists() == living and path.read_text() == "whole"
        if living:
            tally.tried(LEFT)
            writer.kill()
            writer.join()
    tally.held(LEFT)


def test_what_a_killed_evaluation_left_is_removed(context, data, tmp_path, tally):
    complete(context, tmp_path, data, "relu")
    arguments = evaluation_arguments(tmp_path, data, "relu", "pgd")
    for name in ("pgd.safetensors", "pgd.json"):
        tally.tried(LEFT)
        evaluate = ("evaluate.py", arguments, log_of(tmp_path))
        process = context.Process(target=dying, args=("synced", name, *evaluate))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL and len(list(tmp_path.glob(f".{name}.*"))) == 1
        assert call(context, *evaluate)[0] == 0
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"history.csv", "model.safetensors", "record.json", "pgd.json", "pgd.safetensors"}
        tally.held(LEFT)
        for path in (tmp_path / "pgd.json", tmp_path / "pgd.safetensors"):
            path.unlink()
