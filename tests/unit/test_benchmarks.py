"""The benchmarks on the CPU with the smallest sizes: what they write, when they stop, what the table says."""

import copy
import json
import subprocess
import sys
import time

import pytest
import torch
from kafnets.runtime.files import read_json, write_json
from kafnets.training.augmentation import crop_flip
from kafnets.training.training import Training
from torch.nn import functional

from benchmarks import gpu, targets, thesis, together
from benchmarks.contestants import Careful, Case, Contestant, random_images, settings
from benchmarks.measuring import Figures, launched
from benchmarks.processes import sharing
from benchmarks.training import measure
from tests.repository import ENVIRONMENT, ROOT

CPU = torch.device("cpu")


def figures(path, seconds=None, sections=("rows",)):
    return Figures(path / "figures.json", "some", {"environment": {}}, sections, seconds)


def test_figures_are_written_as_they_come(tmp_path):
    some = figures(tmp_path)
    some.add("rows", {"ms": 1.5})
    content = read_json(tmp_path / "figures.json")
    assert content["rows"] == [{"ms": 1.5}] and not content["complete"]
    some.finish()
    assert read_json(tmp_path / "figures.json")["complete"]


def test_what_there_is_no_time_for_is_named(tmp_path, capsys):
    some = figures(tmp_path, seconds=5)
    assert some.allows("a short one", 1) and not some.allows("a long one", 60)
    some.finish()
    content = read_json(tmp_path / "figures.json")
    assert content["cut_short"] == ["a long one: 5 s are not enough"] and content["complete"]
    assert "left out: a long one: 5 s are not enough" in capsys.readouterr().out


def test_operators_are_counted():
    """xx + y is a multiplication and an addition."""
    x, y = torch.ones(3), torch.ones(3)
    assert launched(lambda: torch.add(torch.mul(x, x), y), CPU) == {"operators": 2}
    assert launched(lambda: None, CPU) == {"operators": 0}


@pytest.mark.parametrize(("activation", "most"), [("relu", 3450), ("kaf", 8280)])
def test_a_step_launches_no_more_operators_than_it_did(activation, most):
    """As on a GPU, nothing read back; the numbers are what torch 2.11 counted: lower them with the step."""
    chosen = settings(activation, "float32", batch=4)
    training = Training(chosen, random_images(4), CPU, deferred=True, fused=False)
    (rows,) = training.batches.epoch(0)
    training.step(rows, 0.01)
    assert launched(lambda: training.step(rows, 0.01), CPU)["operators"] <= most


def test_contestants_take_turns_and_a_slow_one_does_not_keep_the_others(tmp_path):
    """The second is left out: the first has used the time; its figures are there."""
    calls = []

    def prepare(name, seconds):
        def run(steps):
            calls.append((name, steps))
            time.sleep(seconds)

        return lambda case: Contestant(run, {"compile_seconds": 7.0})

    some = figures(tmp_path, sections=("contestants",))
    case = Case(random_images(16), CPU, "float32", "resnet8", batch=8)
    measure({"a": prepare("a", 0.02), "b": prepare("b", 0.04)}, case, 2, 3, some)
    first, second = some.content["contestants"]
    assert [name for name, steps in calls if steps == 2] == ["a", "b"] * 4
    assert len(first["seconds"]) == 3 and first["step_ms"] == pytest.approx(10, rel=0.5)
    assert first["times_ours"] == 1 and second["times_ours"] == pytest.approx(2, rel=0.5)
    assert second["compile_seconds"] == 7.0 and second["launched"] == {"operators": 0}

    some = figures(tmp_path, seconds=0.4, sections=("contestants",))
    measure({"a": prepare("a", 0.15), "compiled relu": prepare("c", 0.1)}, case, 1, 3, some)
    assert [row["contestant"] for row in some.content["contestants"]] == ["a"]
    assert len(some.content["contestants"][0]["seconds"]) == 1
    assert "a turn of everyone: 0.4 s are not enough" in some.content["cut_short"]


def test_the_careful_loop_is_the_same_training():
    """One step beside the formulas: FGSM from a random start, gradient descent at the perturbed images."""
    torch.manual_seed(0)
    loop = Careful(Case(random_images(16), CPU, "float32", "resnet8", batch=16), compiled=False)
    model, rows = copy.deepcopy(loop.model), torch.arange(16)
    torch.manual_seed(1)
    total = loop.step(rows)

    torch.manual_seed(1)
    pixels, labels = crop_flip(loop.images).float() / 255, loop.labels
    delta = torch.empty_like(pixels).uniform_(-8 / 255, 8 / 255).requires_grad_()
    functional.cross_entropy(model(pixels + delta), labels).backward()
    delta = (delta.detach() + 10 / 255 * delta.grad.sign()).clamp(-8 / 255, 8 / 255)
    model.zero_grad()
    logits = model((pixels + delta).clamp(0, 1))
    loss = functional.cross_entropy(logits, labels)
    loss.backward()
    assert total.item() == pytest.approx(16 * loss.item() + (logits.argmax(1) == labels).sum().item())
    for after, before in zip(loop.model.parameters(), model.parameters(), strict=True):
        expected = before - 0.01 * (before.grad + 0.001 * before)
        assert torch.allclose(after, expected, atol=1e-7) and after.requires_grad


def test_processes_that_do_not_get_ready_are_ended(tmp_path):
    started = time.monotonic()
    some = figures(tmp_path, seconds=0.5, sections=("sharing",))
    sharing([1, 2], Case(None, CPU, "float32", "resnet8", batch=4), 1, some)
    assert time.monotonic() - started < 30
    assert some.content["cut_short"] == ["1 processes: 0 got ready", "2 processes: 0 got ready"]


def test_trainings_in_one_process_are_timed_as_they_come(tmp_path, monkeypatch):
    """Where targets reads them; the last is left out, by what the one before took."""
    monkeypatch.setattr(together, "READY", 1)
    some = figures(tmp_path, sections=("together",))
    case = Case(random_images(8), CPU, "float32", "resnet8", batch=4)
    together.in_one_process([1, 2], case, "relu", 2, some)
    assert [row["trainings"] for row in some.content["together"]] == [1, 2]
    (tmp_path / "figures.json").rename(tmp_path / "together.json")
    found = targets.Found(tmp_path).together()
    assert found.keys() == {1, 2} and 0 < min(found.values()) <= max(found.values()) < 10_000
    some = figures(tmp_path, seconds=1000, sections=("together",))
    together.in_one_process([1, 10**6], case, "relu", 2, some)
    assert some.content["cut_short"] == ["1000000 trainings in one process: 1000 s are not enough"]


def test_one_that_fails_ends_the_timing_of_all():
    """Though the others wait until all are ready."""
    data = random_images(8)
    data.train_labels[0] = 11
    case = Case(data, CPU, "float32", "resnet8", batch=4)
    with pytest.raises(Exception, match=r"(?i)target|index|bounds"):
        together.together(2, case, "relu", 2)


def test_the_texts_of_a_grid_come_along(tmp_path):
    """Records, histories and tables; no weights, no verdicts."""
    kept = ("models/e/a/seed0/record.json", "models/e/a/seed0/history.csv", "tables/e.md", "summary.csv")
    for name in (*kept, "models/e/a/seed0/model.safetensors", "evaluations/e/a/seed0/pgd.safetensors"):
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).touch()
    thesis.copy_texts(tmp_path / "results", tmp_path / "copy")
    found = (path for path in (tmp_path / "copy").rglob("*") if path.is_file())
    assert {path.relative_to(tmp_path / "copy").as_posix() for path in found} == {*kept}


def write(folder, name, **content):
    write_json(folder / f"{name}.json", content)


def lines(folder):
    return {row.what: row for row in targets.rows(folder)}


def test_the_table_beside_the_targets(tmp_path):
    """Of figures that are made up: ratios, what is met, the grid's time by hand."""
    assert all(row.value is None and row.met is None for row in targets.rows(tmp_path))
    steps = {"kafnets relu": 2.0, "kafnets kaf": 2.1, "kafnets vgg relu": 1.0, "eager loop relu": 30.0}
    contestants = [
        {"contestant": name, "step_ms": ms, "ready_seconds": 9.0, "launched": {"kernels": 340}}
        for name, ms in steps.items()
    ]
    epochs = [{"activation": "relu", "times_steps": 1.1}]
    write(tmp_path, "steps", contestants=contestants, whole_epochs=epochs)
    beside = [
        {"contestant": "kafnets relu", "step_ms": 2.2, "launched": None},
        {"contestant": "compiled relu", "step_ms": 2.75, "launched": None, "compile_seconds": 40.0},
    ]
    write(tmp_path, "compiled", contestants=beside)
    networks = [
        {"row": "relu", "wall_seconds": 8.0, "correct": 4004, "versus": {"stored": {"correct": 3998}}},
        {"row": "kaf", "wall_seconds": 10.0, "correct": 4240, "versus": {"stored": {"correct": 4235}}},
    ]
    write(tmp_path, "attack", rows=networks)
    found = lines(tmp_path)
    assert found["step, relu"].met is False and found["step, relu: kernels"].met is True
    assert found["step, kaf over relu"].value == pytest.approx(1.05)
    assert found["compiled peer over ours"].value == pytest.approx(1.25)
    assert found["compiled peer over ours"].met is False and found["ours: ready after"].met is True
    assert found["PGD-50-10, relu"].met and not found["PGD-50-10, kaf"].met
    assert not found["PGD-50-10, relu: robust"].met and found["PGD-50-10, kaf: robust"].met
    assert found["PGD-50-10, swish"].value is None
    # ResNet20: 100 epochs of 3 networks without KAFs and 5 with; VGG: 60 of 3 and 4; two attacks on each
    epoch = 50_000 / 128 * 0.002 * 1.1
    trainings = 100 * epoch * (3 + 5 * 1.05) + 60 * epoch / 2 * (3 + 4 * 1.05)
    attacks = 2 * 9.0 * (8 + 7 / 2)
    by_hand = (10 + trainings + attacks) / 60
    assert found["the thesis's grid, estimated"].value == pytest.approx(by_hand)
    write(tmp_path, "together", together=[{"trainings": 8, "model_step_ms": 0.8}])
    found = lines(tmp_path)
    assert found["8 trainings in one process, a model-step"].met is True
    faster = (10 + 0.4 * trainings + attacks) / 60
    assert found["the thesis's grid, estimated"].value == pytest.approx(faster)


def stage_arguments(tmp_path, *words):
    sys.argv = ["gpu", "--output", str(tmp_path), *words]
    return gpu.parse()


@pytest.mark.parametrize("name", [*gpu.STAGES, *gpu.ASKED_FOR])
def test_a_stage_has_a_limit_and_a_program_that_takes_its_arguments(tmp_path, monkeypatch, name):
    stage = {**gpu.STAGES, **gpu.ASKED_FOR}[name]
    assert stage.seconds <= 90
    monkeypatch.setattr(sys, "argv", [])
    for words in ((), ("--tiny",)):
        arguments = stage_arguments(tmp_path, "--weights", str(tmp_path), *words)
        command = gpu.command(name, stage, arguments, tmp_path / "data", 60)
        assert command[3:5] == ["--device", "cpu" if words else "cuda"]
        assert command[command.index(stage.output) + 1] == str(tmp_path / f"{name}.json")
        if stage.limited:
            assert command[command.index("--seconds") + 1] == str(60 - gpu.MARGIN)


def test_all_stages_together_take_less_than_eight_minutes():
    assert sum(stage.seconds for stage in gpu.STAGES.values()) <= 60 * 8
    assert gpu.MINUTES < 8


def test_a_stage_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    """With what it started; what it wrote stays."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/slow.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('figure').write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "STAGES", {"slow": gpu.Stage("slow", 2)})
    monkeypatch.setattr(gpu, "MARGIN", 0)
    arguments = stage_arguments(tmp_path)
    row = gpu.run("slow", arguments, None, 100)
    assert row["came_of_it"] == "stopped" and row["seconds"] < 30
    child = (tmp_path / "figure").read_text()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout
    assert state[:1] in ("", "Z")
    assert gpu.run("slow", arguments, None, -1)["came_of_it"] == "left out: the time is over"


@pytest.mark.slow
def test_all_of_it_end_to_end(tmp_path):
    names = [*gpu.STAGES, *gpu.ASKED_FOR]
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--output", tmp_path, *names]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny sizes" in done.stdout and "missed" not in done.stdout
    stages = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert [row["stage"] for row in stages] == names
    ran = [row["stage"] for row in stages if row["came_of_it"] == "done"]
    assert {"check", "steps", "together", "compiled", "kaf", "processes"} <= set(ran)
    assert all(read_json(tmp_path / f"{name}.json")["complete"] for name in ran)
    assert [row["jobs"] for row in read_json(tmp_path / "processes.json")["sharing"]] == [1, 2]
    assert "2 processes, a model-epoch" in done.stdout
