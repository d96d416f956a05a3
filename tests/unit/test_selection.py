"""Averaged weights, and which weights of a training are kept."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from kafnets.models import load_model
from kafnets.runtime.interruption import Interrupted
from kafnets.training.averaging import Averaged, recalibrate
from kafnets.training.run import train
from kafnets.training.selection import Selection, split
from kafnets.training.training import Training
from torch import nn
from training_cases import CPU, NOISE, StopAt, first_batch, same, settings, weights

from tests.repository import ROOT

ATTACK = {"eps": "8/255", "step": "2/255", "iterations": 2}
VALIDATION = {"examples": 8, **ATTACK}


def quick(**changes):
    return {**settings(adversary={"name": "none"}, **changes), "activation": "relu"}


def test_the_mean_is_that_of_the_formula_and_warms_up():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    averaged, expected = Averaged(model, decay=0.5, start=1), None
    for step in range(12):
        averaged.begin_epoch(step // 3)
        with torch.no_grad():
            model.weight.normal_()
        averaged.update()
        weight = model.weight.detach().clone()
        kept = min(0.5, (1 + step - 3) / (10 + step - 3)) if step >= 3 else 0
        expected = weight if expected is None else kept * expected + (1 - kept) * weight
        torch.testing.assert_close(averaged.means[0], expected)
    assert not torch.allclose(expected, weight)


def test_averaged_weights_are_lent():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    averaged = Averaged(model, decay=0.9, batch_norm="recalibrate")
    with torch.no_grad():
        model[0].weight.add_(1)
    before = weights(model)
    with averaged.installed(NOISE.train_images):
        assert torch.equal(model[0].weight, before["0.weight"] - 1) or torch.allclose(
            model[0].weight, before["0.weight"] - 1, atol=1e-6
        )
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert same(before, weights(model))


def test_recalibrated_averages_are_those_of_the_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    recalibrate(model, NOISE.train_images)
    outputs = model[0](NOISE.train_images.float() / 255)
    torch.testing.assert_close(model[1].running_mean, outputs.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, outputs.var((0, 2, 3)))
    assert model.training and model[1].training and model[1].momentum == 0.1


def test_a_step_takes_its_weights_into_the_mean_and_checkpoints_carry_it():
    options = quick(averaging={"decay": 0.5}, augmentation="none")
    training = Training(options, NOISE, CPU)
    for epoch in range(2):
        training.begin_epoch(epoch)
        for rows in training.batches.epoch(epoch):
            training.step(rows, 0.1)
    assert training.averaged.updates == 8
    other = Training(options, NOISE, CPU)
    other.restore(copy.deepcopy(training.state()))
    assert all(map(torch.equal, training.averaged.tensors, other.averaged.tensors))
    for one in (training, other):
        one.step(first_batch(one), 0.1)
    assert all(map(torch.equal, training.averaged.tensors, other.averaged.tensors))


def test_held_out_images_are_of_the_training_set_and_not_trained_on():
    rest, (images, labels) = split(NOISE, quick(validation=VALIDATION))
    assert len(rest.train_labels) == 20 and len(labels) == 8
    together = torch.cat([rest.train_images, images]).flatten(1)
    assert len(together.unique(dim=0)) == 28
    known = {tuple(image.flatten().tolist()) for image in NOISE.train_images}
    assert all(tuple(image.flatten().tolist()) in known for image in images)
    assert torch.equal(rest.test_images, NOISE.test_images)
    assert torch.equal(split(NOISE, {**quick(validation=VALIDATION), "seed": 9})[1][0], images)
    assert split(NOISE, quick()) == (NOISE, None)


class Scripted(Selection):
    """A selection that is told the accuracies of each epoch."""

    def __init__(self, accuracies, training, **options):
        super().__init__(quick(**options), NOISE, None, training)
        self.accuracies = accuracies

    def run(self):
        model = self.training.model
        for epoch, accuracy in enumerate(self.accuracies, 1):
            with torch.no_grad():
                model.fc.bias.fill_(float(epoch))
            row = {"epoch": epoch, "validation_pgd_accuracy": accuracy, "train_pgd_accuracy": accuracy}
            if self.note({**row, "validation_accuracy": 0.9}):
                break
        facts, last = self.install(epoch)
        return facts, model.fc.bias[0].item(), last


@pytest.mark.parametrize(
    "accuracies, options, kept, stopped",
    [
        ([0.2, 0.5, 0.4, 0.5, 0.3], {"validation": VALIDATION}, 2, None),  # the first of the best
        ([0.2, 0.5, 0.4], {"validation": {**VALIDATION, "keep": "last"}}, 3, None),
        ([0.2, None, 0.4], {"validation": VALIDATION}, 3, None),
        ([0.4, 0.5, 0.31, 0.1, 0.6], {"early_stopping": ATTACK}, 3, 4),
        ([0.4, 0.3, 0.2, 0.1], {"early_stopping": ATTACK}, 4, None),  # slowly
        ([0.4, 0.5, 0.45, 0.1], {"early_stopping": ATTACK, "validation": VALIDATION}, 2, 4),
        ([0.4, 0.5, 0.2, 0.6], {"early_stopping": {**ATTACK, "drop": 0.5}}, 4, None),
    ],
)
def test_what_is_kept(accuracies, options, kept, stopped):
    training = Training(quick(), NOISE, CPU)
    facts, found, last = Scripted(accuracies, training, **options).run()
    assert found == kept == facts["epoch"]
    assert facts.get("stopped_at") == stopped
    ended = stopped or len(accuracies)
    assert (last is None) == (kept == ended)
    if last is not None:
        assert last["fc.bias"][0] == ended
    if "validation" in options:
        assert facts["last"]["epoch"] in (ended, ended - 1) and facts["weights"] == "raw"


def test_a_stopped_run_keeps_the_same_weights(tmp_path, monkeypatch):
    options = quick(validation=VALIDATION, averaging={"decay": 0.9, "batch_norm": "recalibrate"})
    whole, history, facts = train(options, NOISE, CPU, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.run.progress.bar", StopAt(5))
        with pytest.raises(Interrupted):
            train(options, NOISE, CPU, tmp_path / "stopped")
    resumed, _, other = train(options, NOISE, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed)) and facts["selection"] == other["selection"]
    assert same(facts["last"], other["last"])
    best = max(row["averaged_pgd_accuracy"] for row in history)
    assert facts["selection"]["best"]["pgd_accuracy"] == best
    assert facts["selection"]["weights"] == "averaged" and facts["selection"]["last"]["epoch"] == 3
    assert not same(weights(whole), facts["last"])
    assert all(0 <= row["validation_accuracy"] <= 1 for row in history)


def test_a_run_that_has_stopped_early_does_not_go_on(tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.1])
    monkeypatch.setattr(Selection, "_accuracies", lambda *_: (0.9, next(accuracies)))
    options = quick(early_stopping=ATTACK)
    model, history, facts = train(options, NOISE, CPU, tmp_path / "state")
    assert [row["epoch"] for row in history] == [1, 2] and facts["selection"]["stopped_at"] == 2
    again, history, _ = train(options, NOISE, CPU, tmp_path / "state")
    assert len(history) == 2 and same(weights(model), weights(again))


def test_without_these_settings_nothing_is_chosen_and_nothing_changes(tmp_path):
    _, history, facts = train(quick(epochs=1), NOISE, CPU, tmp_path / "state")
    assert facts["selection"] is None and facts["last"] is None
    assert not any("validation" in key or "train_pgd" in key for key in history[0])


def test_the_script_writes_the_last_weights_beside_the_kept_ones(tmp_path):
    from kafnets.data.dataset import save
    from kafnets.data.digits import prepare_digits

    save(prepare_digits(), tmp_path / "data.safetensors", tmp_path / "data.json")
    options = quick(
        averaging={"decay": 0.9},
        epochs=1,
        batch_size=32,
        tail={"epochs": 0, "learning_rate": 0.1, "halve_every": 1},
    )
    (tmp_path / "settings.json").write_text(json.dumps({**options, "train_examples": 64}))
    files = {name: tmp_path / f"{name}.out" for name in ("model", "history", "record")}
    subprocess.run(
        [
            *(sys.executable, ROOT / "workflow/scripts/train.py", "--device", "cpu"),
            *("--settings", tmp_path / "settings.json", "--data", tmp_path / "data.safetensors"),
            *(part for name, path in files.items() for part in (f"--{name}", path)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    record = json.loads(files["record"].read_text())
    assert record["selection"]["weights"] == "averaged" and record["selection"]["epoch"] == 1
    kept, last = load_model(files["model"]), load_model(tmp_path / "last.safetensors")
    assert not torch.equal(kept.fc.weight, last.fc.weight)
