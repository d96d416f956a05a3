"""An attack killed at any moment and started again ends with the figures of an undisturbed one."""

import json
import os
import signal
import time

import pytest
from kafnets.evaluation import judge as evaluation

from tests.scripts import call, config, evaluation_arguments, script, start, until

KILL = "kill -9 of an attack"
SIGNAL = "SIGTERM or SIGINT to an attack"
BALL = {"eps": "8/255", "step": "2/255"}
ATTACKS = {
    "long_pgd": {"method": "pgd", "iterations": 20, "restarts": 4, **BALL},
    "momentum": {"method": "pgd", "iterations": 20, "restarts": 2, "momentum": 0.9, "targets": 2, **BALL},
    "long_thesis": {"method": "thesis_pgd", "iterations": 20, "restarts": 4, **BALL},
}
OF_THE_RUN = {"code", "wall_seconds", "peak_memory_bytes", "started", "finished", "environment", "checksum"}


@pytest.fixture(scope="module")
def trained(context, data, tmp_path_factory):
    """A network that is right often enough to be worth an attack."""
    folder = tmp_path_factory.mktemp("trained")
    settings = config()
    settings["experiments"]["tiny"].update(train_examples=1000)
    settings["experiments"]["tiny"]["training"]["adversary"] = {"name": "none"}
    start(context, folder, data, "relu", settings).join()
    assert (folder / "record.json").exists()
    return folder


def arguments_of(trained, data, attack, target):
    """With batches smaller than the set, so that slots are refilled."""
    arguments = evaluation_arguments(trained, data, "relu", attack, target, ATTACKS)
    for option, value in (("--batch-size", "6"), ("--settings", json.dumps(settings_of(arguments)))):
        arguments[arguments.index(option) + 1] = value
    return arguments


def settings_of(arguments):
    return {**json.loads(arguments[arguments.index("--settings") + 1]), "test_examples": 40}


def judged(folder, attack):
    """The verdicts, and what a record says that does not depend on when and for how long it ran."""
    record = json.loads((folder / f"{attack}.json").read_text())
    return (folder / f"{attack}.safetensors").read_bytes(), {
        key: value for key, value in record.items() if key not in OF_THE_RUN
    }


@pytest.fixture(scope="module")
def undisturbed(context, data, trained, tmp_path_factory):
    """By attack: what it comes to that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for attack in ATTACKS:
        arguments = arguments_of(trained, data, attack, folder)
        code, words = call(context, "evaluate.py", arguments, folder.with_name("undisturbed.log"))
        assert code == 0, words[-2000:]
    found = {attack: judged(folder, attack) for attack in ATTACKS}
    assert all(0.1 < figures["accuracy"] < figures["clean_accuracy"] for _, figures in found.values())
    return found


def killed_after(passes, *arguments):
    """What a process runs that saves its state after every pass and is killed after so many: a script."""
    evaluation.CHECKPOINT_SECONDS = 0
    write, left = evaluation.checkpoint.write, passes

    def counted(*arguments):
        nonlocal left
        write(*arguments)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    evaluation.checkpoint.write = counted
    script(*arguments)


@pytest.mark.parametrize("attack", ATTACKS)
def test_killed_again_and_again(context, data, trained, undisturbed, tmp_path, tally, attack):
    folder, log = tmp_path / "run", tmp_path / "log"
    evaluate = ("evaluate.py", arguments_of(trained, data, attack, folder), log)
    kills = 0
    while kills < 30:
        process = context.Process(target=killed_after, args=(31, *evaluate))
        process.start()
        process.join(300)
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
        tally.tried(KILL)
        assert [path.suffix for path in folder.iterdir() if path.suffix != ".lock"] == [".ckpt"]
    assert process.exitcode == 0 and kills >= 3, log.read_text()[-2000:]
    assert log.read_text().count("going on after") == kills
    assert judged(folder, attack) == undisturbed[attack]
    assert sorted(path.name for path in folder.iterdir()) == [f"{attack}.json", f"{attack}.safetensors"]
    tally.bits(KILL, kills)


def slowly(begun, *arguments):
    """What a process runs that takes its time between passes, and says when the first is over: a script."""
    note = evaluation.Memory.note

    def slow(self, state):
        note(self, state)
        begun.touch()
        time.sleep(0.05)

    evaluation.Memory.note = slow
    script(*arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("attack", ["long_pgd", "long_thesis"])
def test_preempted(context, data, trained, undisturbed, tmp_path, tally, attack, number):
    """The state is saved, whatever the time since the last one, and the exit code is not 0."""
    folder, log = tmp_path / "run", tmp_path / "log"
    evaluate = ("evaluate.py", arguments_of(trained, data, attack, folder), log)
    begun = tmp_path / "begun"
    process = context.Process(target=slowly, args=(begun, *evaluate))
    process.start()
    until(begun.exists)
    tally.tried(SIGNAL)
    started = time.monotonic()
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == 128 + number and time.monotonic() - started < 10
    (checkpoint,) = folder.glob("resume-*.ckpt")
    name = signal.Signals(number).name
    assert f"stopped by {name}; the same command goes on from {checkpoint}" in log.read_text()
    assert call(context, *evaluate)[0] == 0
    assert "going on after" in log.read_text() and judged(folder, attack) == undisturbed[attack]
    assert not list(folder.glob("*.ckpt"))
    tally.bits(SIGNAL)


def test_a_damaged_checkpoint_and_one_of_other_code_are_not_used(
    context, data, trained, undisturbed, tmp_path, tally
):
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = arguments_of(trained, data, "long_pgd", folder)
    process = context.Process(target=killed_after, args=(31, "evaluate.py", arguments, log))
    process.start()
    process.join(300)
    (checkpoint,) = folder.glob("resume-*.ckpt")
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged, code in ((bytes(content), ""), (checkpoint.read_bytes(), "another")):
        checkpoint.write_bytes(damaged)
        tally.tried("damaged checkpoints")
        log.unlink()
        assert call(context, "evaluate.py", [*arguments, "--code", code], log)[0] == 0
        assert "going on" not in log.read_text() and judged(folder, "long_pgd") == undisturbed["long_pgd"]
        assert ("its checksum is another; beginning again" in log.read_text()) == (not code)
        assert not checkpoint.exists()
        tally.bits("damaged checkpoints")
