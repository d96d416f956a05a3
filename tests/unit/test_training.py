import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from kafnets.data import Dataset
from kafnets.models import create_model
from kafnets.runtime import checkpoint
from kafnets.runtime.errors import UserError
from kafnets.runtime.interruption import Interrupted
from kafnets.training import monitor, nonfinite, train
from kafnets.training.augmentation import crop_flip
from kafnets.training.loop import Training, initial_model, parameter_groups, run_fingerprint
from kafnets.training.lr_range import lr_range, suggest
from kafnets.training.methods.fbf import fbf, no_adversary
from kafnets.training.monitor import catastrophic_overfitting, probe
from kafnets.training.schedule import exponential, learning_rates
from torch import nn
from torch.nn import functional

CPU = torch.device("cpu")
SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


def settings(**changes):
    training = {
        "adversary": {"name": "fbf", "eps": "8/255", "step": "10/255"},
        "epochs": 2,
        "batch_size": 8,
        "augmentation": "crop_flip",
        "precision": "float32",
        "momentum": 0.5,
        "l2": {"conv": 0.0005, "dense": 0.001},
        "learning_rate": [0.01, 0.1],
        "tail": {"epochs": 1, "learning_rate": 0.005, "halve_every": 4},
        "monitor": {"eps": "8/255", "examples": 8, "iterations": 2, "every": 2},
    }
    training.update(changes)
    return {
        "experiment": "test",
        "activation": "kaf",
        "seed": 3,
        "dataset": "noise",
        "train_examples": None,
        "architecture": "resnet8",
        "architecture_arguments": {"block": "thesis"},
        "activation_arguments": {},
        "num_classes": 10,
        "training": training,
    }


@pytest.fixture(scope="module")
def dataset():
    """28 images: the last batch of an epoch is smaller than the others."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    return Dataset(
        "noise", images[:28], labels[:28], images[28:], labels[28:], tuple("0123456789"), "", "abc"
    )


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# -- the schedule


def test_the_cycle_is_a_triangle_and_the_tail_halves():
    rates = learning_rates(
        {
            "epochs": 2,
            "learning_rate": [0.1, 0.9],
            "tail": {"epochs": 5, "learning_rate": 0.4, "halve_every": 2},
        },
        steps_per_epoch=3,
    )
    assert rates[:6] == pytest.approx([0.1, 0.42, 0.74, 0.74, 0.42, 0.1])
    assert rates[6:] == pytest.approx([0.4] * 6 + [0.2] * 6 + [0.1] * 3)


def test_the_peak_is_at_half_time():
    rates = learning_rates(
        {
            "epochs": 1,
            "learning_rate": [0.0, 1.0],
            "tail": {"epochs": 0, "learning_rate": 1, "halve_every": 1},
        },
        101,
    )
    assert rates[50] == 1.0 and rates[0] == rates[-1] == 0.0


def test_the_range_test_grows_by_a_constant_factor():
    rates = exponential(1e-4, 3, 50)
    assert rates[0] == pytest.approx(1e-4) and rates[-1] == pytest.approx(3)
    assert all(b / a == pytest.approx(rates[1] / rates[0]) for a, b in pairwise(rates))


# -- the adversary


def test_fbf_takes_the_step_of_the_paper():
    images, eps, step = torch.rand(4, 3, 8, 8), 0.1, 0.125
    weight = torch.randn(3 * 8 * 8)
    torch.manual_seed(5)
    perturbed = fbf(lambda x: (x.flatten(1) @ weight).sum(), images, eps=eps, step=step)
    torch.manual_seed(5)
    start = torch.empty_like(images).uniform_(-eps, eps)
    expected = (start + step * weight.view(3, 8, 8).sign()).clamp(-eps, eps)
    assert torch.allclose(perturbed, (images + expected).clamp(0, 1))
    assert not perturbed.requires_grad


def test_fbf_stays_in_the_ball_and_in_the_pixel_range():
    images = torch.rand(16, 3, 4, 4)
    perturbed = fbf(lambda x: (x**2).sum(), images, eps=0.03, step=0.0375)
    assert (perturbed - images).abs().max() <= 0.03 + 1e-6
    assert perturbed.min() >= 0 and perturbed.max() <= 1


def test_both_passes_update_the_running_averages(dataset):
    training = Training(settings(), dataset, CPU)
    counter = training.model.stem.bn.num_batches_tracked
    training.step(training.chosen(training.order(0), 0), 0.01)
    assert counter.item() == 2 and training.model.training


def test_the_attack_asks_for_no_parameter_gradients(dataset, monkeypatch):
    training = Training(settings(), dataset, CPU)
    seen = []

    def watch(loss, images, **_):
        seen.append([parameter.requires_grad for parameter in training.model.parameters()])
        return images

    monkeypatch.setattr(training, "adversary", watch)
    training.step(training.chosen(training.order(0), 0), 0.01)
    assert not any(seen[0]) and all(parameter.requires_grad for parameter in training.model.parameters())


def test_another_implementation_of_the_kaf_is_another_run(dataset, monkeypatch):
    fixed = {**settings(), "activation": "relu"}
    before, before_fixed = (run_fingerprint(one, dataset, CPU) for one in (settings(), fixed))
    monkeypatch.setattr("kafnets.training.loop.active_backend", lambda device: "another")
    assert run_fingerprint(settings(), dataset, CPU) != before
    assert run_fingerprint(fixed, dataset, CPU) == before_fixed
    assert run_fingerprint(settings(), dataset, CPU, "code") != run_fingerprint(settings(), dataset, CPU)


def test_standard_training_takes_the_images_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    assert no_adversary(None, images) is images


def test_a_step_is_plain_sgd_with_the_penalty_on_kernels_only(dataset):
    """One step against the update written out: w -= lr (grad + 2 l2 w), l2 = 0 but for kernels."""
    options = settings(adversary={"name": "none"}, momentum=0.0, augmentation="none")
    training = Training(options, dataset, CPU)
    reference = initial_model(options).train()
    chosen = training.chosen(training.order(0), 0)
    images, labels = training.batch(chosen)
    functional.cross_entropy(reference(images), labels).backward()
    penalty = {}
    for name, module in reference.named_modules():
        if isinstance(module, nn.Conv2d):
            penalty[f"{name}.weight"] = 0.0005
        if isinstance(module, nn.Linear):
            penalty[f"{name}.weight"] = 0.001
    training.step(chosen, 0.05)
    for name, parameter in reference.named_parameters():
        update = parameter.grad + 2 * penalty.get(name, 0.0) * parameter
        updated = training.model.get_parameter(name)
        assert torch.allclose(updated, parameter - 0.05 * update, atol=1e-6), name


def test_kafs_biases_and_normalisations_are_not_penalised():
    model = create_model("resnet8", "kaf_free")
    groups = parameter_groups(model, {"conv": 0.0005, "dense": 0.001})
    assert [group["weight_decay"] for group in groups] == [0.001, 0.002, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(parameter.dim() == 4 for parameter in groups[0]["params"])
    assert [tuple(parameter.shape) for parameter in groups[1]["params"]] == [(10, 64)]


# -- the data of a step


def test_crop_flip_moves_whole_images():
    images = torch.arange(1, 33, dtype=torch.uint8).expand(64, 3, 32, 32)  # each column has its own value
    torch.manual_seed(0)
    moved = crop_flip(images)
    assert moved.shape == images.shape and moved.dtype == torch.uint8
    seen = set()
    for image in moved:
        rows = {tuple(row.tolist()) for channel in image for row in channel if row.any()}
        assert len(rows) == 1  # all rows moved alike
        row = rows.pop()
        inside = [value for value in row if value]
        direction = inside[1] - inside[0]
        assert all(b - a == direction for a, b in pairwise(inside)) and abs(direction) == 1
        seen.add((direction, inside[0]))
    assert {direction for direction, _ in seen} == {1, -1} and len(seen) > 8


def test_every_image_is_seen_once_an_epoch(dataset):
    training = Training(settings(), dataset, CPU)
    assert sorted(training.order(0).tolist()) == list(range(28))
    assert training.order(0).tolist() != training.order(1).tolist()
    assert training.steps_per_epoch == 4 and len(training.chosen(training.order(0), 3)) == 4


# -- a whole run


def test_a_batch_larger_than_the_training_set_is_refused(dataset):
    with pytest.raises(UserError, match="batch_size: 29 is more than the 28 training images; write at most"):
        Training(settings(batch_size=29), dataset, CPU)
    assert Training(settings(batch_size=28), dataset, CPU).steps_per_epoch == 1


def test_the_same_settings_give_the_same_weights(dataset, tmp_path):
    first, history, facts = train(settings(), dataset, CPU, tmp_path / "a")
    second, _, _ = train(settings(), dataset, CPU, tmp_path / "b")
    other, _, _ = train({**settings(), "seed": 4}, dataset, CPU, tmp_path / "c")
    assert same(weights(first), weights(second)) and not same(weights(first), weights(other))
    assert [row["phase"] for row in history] == ["cycle", "cycle", "tail"]
    assert [row["probe_pgd_accuracy"] is not None for row in history] == [False, True, True]
    assert facts["parameters"]["activation"] == 20 * (16 * 3 + 32 * 2 + 64 * 2)
    assert all(0 <= row["clean_accuracy"] <= 1 and row["gradient_norm"] > 0 for row in history)


class StopAt:
    """Stands in for the progress bar, to raise a signal's flag at a chosen step."""

    def __init__(self, step):
        self.left = step

    def __call__(self, total, label):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count=1):
        self.left -= count
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_a_run_stopped_by_a_signal_ends_with_the_same_bits(dataset, tmp_path, monkeypatch, step):
    whole, history, _ = train(settings(), dataset, CPU, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.loop.progress.bar", StopAt(step))
        with pytest.raises(Interrupted) as stopped:
            train(settings(), dataset, CPU, tmp_path / "stopped")
    assert stopped.value.exit_code == 143
    assert position(tmp_path / "stopped", dataset) == ((step - 1) // 4, (step - 1) % 4 + 1)
    torch.manual_seed(99)  # whatever happened meanwhile
    resumed, again, _ = train(settings(), dataset, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed))
    assert without_seconds(again) == without_seconds(history)


def position(path, dataset):
    """The epoch and the step, from 0, at which a run will go on."""
    found = checkpoint.read(path, run_fingerprint(settings(), dataset, CPU))["position"]
    return found["epoch"], found["step"]


def without_seconds(history):
    return [{**row, "seconds": 0} for row in history]


@pytest.mark.parametrize("measurement", ["clean_accuracy", "probe"])
def test_a_signal_during_the_measurements_saves_the_epoch_before_them(
    dataset, tmp_path, monkeypatch, measurement
):
    """They are made again, and end with the same bits and the same history."""
    whole, history, _ = train(settings(), dataset, CPU, tmp_path / "whole")
    measure = getattr(monitor, measurement)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(monitor, measurement, interrupted)
        with pytest.raises(Interrupted):
            train(settings(), dataset, CPU, tmp_path / "stopped")
    epoch = {"clean_accuracy": 0, "probe": 1}[measurement]  # the first that makes it
    assert position(tmp_path / "stopped", dataset) == (epoch, 4)
    resumed, again, _ = train(settings(), dataset, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed)) and without_seconds(again) == without_seconds(history)


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(dataset, tmp_path, tally):
    """kill -9 of the real process, again and again, until it gets through."""
    whole, _, _ = train(settings(epochs=3), dataset, CPU, tmp_path / "whole")
    torch.save(dataset.__dict__, tmp_path / "data.pt")
    (tmp_path / "settings.json").write_text(json.dumps(settings(epochs=3)))
    code = f"""
import json, torch
from pathlib import Path
from kafnets.data import Dataset
from kafnets.training import train
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
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        tally.tried("kill -9 of a training")
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert start().wait(timeout=300) == 0
    assert same(weights(whole), torch.load(tmp_path / "end.pt", weights_only=True))
    tally.bits("kill -9 of a training", 4)


# -- as on a GPU: nothing in a step waits for the device


def test_deferred_a_run_learns_the_same(dataset, tmp_path):
    """Rates read on the device, the fused optimiser and late questions change rounding only."""
    first, history, _ = train(settings(), dataset, CPU, tmp_path / "a")
    second, again, _ = train(settings(), dataset, CPU, tmp_path / "b", deferred=True)
    for row, other in zip(history, again, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
    for name, tensor in weights(first).items():
        assert torch.allclose(tensor.double(), weights(second)[name].double(), rtol=1e-2, atol=1e-3), name


def test_deferred_a_stopped_run_ends_with_the_same_bits(dataset, tmp_path, monkeypatch):
    whole, _, _ = train(settings(), dataset, CPU, tmp_path / "whole", deferred=True)
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.loop.progress.bar", StopAt(6))
        with pytest.raises(Interrupted):
            train(settings(), dataset, CPU, tmp_path / "stopped", deferred=True)
    resumed, _, _ = train(settings(), dataset, CPU, tmp_path / "stopped", deferred=True)
    assert same(weights(whole), weights(resumed))


def test_deferred_an_update_that_is_not_finite_is_left_out_and_told_of_later(dataset):
    training = Training(settings(), dataset, CPU, deferred=True)
    order = training.order(0)
    training.step(training.chosen(order, 0), 0.01)
    with torch.no_grad():
        training.model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    before = weights(training.model)
    training.step(training.chosen(order, 1), 0.01)
    training.step(training.chosen(order, 2), 0.01)
    after = {name: parameter for name, parameter in training.model.named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in after if "layer2.0.conv2" not in name)
    with pytest.raises(UserError, match=r"epoch 1, step 2 of 4: the output of layer layer2.0.conv2 is not"):
        training.check()


def test_a_capture_that_fails_leaves_the_step_as_it_was(dataset, monkeypatch):
    """The control around a CUDA graph, where there is none: ordinary steps, one attempt, ordinary steps."""
    training, plain = (Training(settings(), dataset, CPU, deferred=True) for _ in range(2))
    attempts = []

    def fail(chosen):
        attempts.append(len(chosen))
        training._step(chosen)  # half done: what it changed must be put back
        raise RuntimeError("operation not permitted when stream is capturing")

    training.replayed.usable = True
    monkeypatch.setattr(training.replayed, "_capture", fail)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    for one in (training, plain):
        torch.manual_seed(1)
        for epoch in range(3):
            order = one.order(epoch)
            for step in range(one.steps_per_epoch):
                one.step(one.chosen(order, step), 0.05)
    assert attempts == [8] and not training.replayed.usable
    assert same(weights(training.model), weights(plain.model))


@pytest.mark.parametrize("forgotten", [None, "update", "averages"])
def test_a_graph_must_do_to_the_weights_and_averages_what_the_step_does(dataset, monkeypatch, forgotten):
    """The trial of a CUDA graph, where there is none: in its place the step, or all but a part of it."""
    training = Training(settings(), dataset, CPU, deferred=True)
    left_alone = {
        None: [],
        "update": list(training.model.parameters()),
        "averages": [value for name, value in training.model.named_buffers() if "running" in name],
    }[forgotten]

    def replay(chosen):
        before = [tensor.detach().clone() for tensor in left_alone]
        result = training._step(chosen)
        with torch.no_grad():
            for tensor, value in zip(left_alone, before, strict=True):
                tensor.copy_(value)
        return result

    training.replayed.usable = True
    monkeypatch.setattr(training.replayed, "_capture", lambda chosen: None)
    monkeypatch.setattr(training.replayed, "_replay", replay)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    order = training.order(0)
    for step in (0, 1, 2, 0):
        training.step(training.chosen(order, step), 0.05)
    assert training.replayed.usable == (forgotten is None)


def test_deferred_momentum_begins_at_zero_when_the_first_update_is_left_out(dataset):
    training = Training(settings(), dataset, CPU, deferred=True)
    with torch.no_grad():
        training.model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    training.step(training.chosen(training.order(0), 0), 0.01)
    buffers = [training.optimizer.state[p]["momentum_buffer"] for p in training.model.parameters()]
    assert all((buffer == 0).all() for buffer in buffers)


def test_in_float16_a_large_loss_scale_leaves_the_adversary_its_gradient(dataset):
    training = Training(settings(augmentation="none"), dataset, CPU, deferred=True)
    training.autocast = {"device_type": "cpu", "dtype": torch.float16, "enabled": True}
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17)
    images, labels = training.batch(torch.arange(8))
    perturbed = []
    monitored = training.adversary
    training.adversary = lambda *given, **arguments: (
        perturbed.append(monitored(*given, **arguments)) or perturbed[0]
    )
    training.update(images, labels)
    eps = 8 / 255
    inner = (images > eps) & (images < 1 - eps)
    # from a start within eps a step of 1.25 eps ends at least eps / 4 away
    assert ((perturbed[0] - images).abs()[inner] > 0.24 * eps).double().mean() > 0.99


# -- checkpoints


def test_a_damaged_checkpoint_is_not_used(dataset, tmp_path):
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


def test_the_checkpoint_of_another_run_is_refused(dataset, tmp_path):
    path = tmp_path / "state"
    checkpoint.write(path, {"fingerprint": run_fingerprint(settings(epochs=5), dataset, CPU)})
    with pytest.raises(UserError, match="other settings"):
        train(settings(), dataset, CPU, path)


# -- what can go wrong in a training


@pytest.mark.injects("a training whose loss is not finite")
def test_a_loss_that_is_not_finite_names_epoch_step_and_layer(dataset, tmp_path):
    with pytest.raises(UserError, match=r"epoch \d, step \d of 4: the output of layer [\w.]+ is not finite"):
        train(settings(learning_rate=[1e30, 1e30]), dataset, CPU, tmp_path / "state")


def test_the_first_layer_with_a_nonfinite_output_is_found():
    model = create_model("resnet8", "relu")
    with torch.no_grad():
        model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    assert (
        nonfinite.describe(model, torch.rand(2, 3, 32, 32))
        == "the output of layer layer2.0.conv2 is not finite"
    )


def test_a_nonfinite_gradient_is_found_at_the_loss_end():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad[0, 0] = math.inf
    assert nonfinite.describe(model, torch.zeros(1, 2)) == "the gradient of 0.weight is not finite"


# -- catastrophic overfitting

IMAGES = 128
NOTHING = {"detected": False, "first_epoch": None, "at_end": False}


def history_of(*pairs):
    return [
        {"epoch": i + 1, "probe_fgsm_accuracy": fgsm, "probe_pgd_accuracy": full}
        for i, (fgsm, full) in enumerate(pairs)
    ]


def judged(*pairs, examples=IMAGES, adversary="fbf"):
    return catastrophic_overfitting(history_of(*pairs), examples, adversary)


NOT_PROBED = (None, None)
HEALTHY = ((0.1, 0.1), (0.3, 0.25), (0.5, 0.4))


@pytest.mark.parametrize(
    ("pairs", "first"),
    [
        (((0.4, 0.35), (0.5, 0.4), NOT_PROBED, (0.9, 0.05), (0.95, 0.0)), 4),
        (((0.9, 0.0),) * 6, 1),  # from the first epoch on
        (((0.8, 0.3),) * 6, 1),  # a wide gap that never falls
        (((0.9, 0.0),), 1),  # of a single probe
        (((0.5, 0.4), (0.6, 0.4), (0.7, 0.38), (0.75, 0.34), (0.8, 0.3), (0.85, 0.25)), 5),  # slowly
        ((*[NOT_PROBED] * 11, (0.9, 0.0), *[NOT_PROBED] * 11, (0.9, 0.0)), 12),  # every 12th epoch
        (((0.5, 0.4), (0.9, 0.0), (math.nan, math.nan)), 2),  # the last that was measured counts
        (((0.5, 0.4), (0.9, 0.05), (0.15, 0.0)), 2),  # FGSM accuracy is lost too: no recovery
    ],
)
def test_a_collapse_is_detected(pairs, first):
    assert judged(*pairs) == {"detected": True, "first_epoch": first, "at_end": True}


@pytest.mark.parametrize(
    "pairs",
    [
        HEALTHY,
        ((0.5, 0.4), (0.2, 0.15)),  # both fell: the training went wrong, but not this way
        (NOT_PROBED,),
        (),
        ((math.nan, math.nan),),
        ((0.12, 0.0), (0.1, 0.02)),  # at chance level
        ((0.52, 0.24), (0.77, 0.49)),  # half-trained, on digits at 24/255
    ],
)
def test_an_ordinary_history_is_not_a_collapse(pairs):
    assert judged(*pairs) == NOTHING


def test_a_training_that_recovers_is_not_collapsed_at_its_end():
    assert judged((0.5, 0.4), (0.9, 0.05), (0.5, 0.42)) == {
        "detected": True,
        "first_epoch": 2,
        "at_end": False,
    }
    assert judged((0.9, 0.0), (0.5, 0.4))["at_end"] is False


def test_few_images_prove_little():
    assert judged((4 / 8, 0.0), examples=8) == NOTHING
    assert judged((7 / 8, 0.0), examples=8)["at_end"]
    assert judged((0.52, 0.2), examples=25) == NOTHING
    assert judged((0.52, 0.2), examples=250)["at_end"]


def test_without_an_adversary_nothing_overfits_to_it():
    assert judged((0.5, 0.0), adversary="none") == NOTHING


# ResNet20 with ReLU on CIFAR-10, FBF at 8/255: in each epoch, images of 128 that withstood FGSM / PGD-10
HUNDRED_EPOCHS = """
11/11 16/16 23/21 29/27 23/21 29/26 32/29 27/25 26/17 30/27 25/21 32/28 34/29 29/27 38/30 35/33 31/27
32/30 32/24 34/27 33/33 39/35 41/31 35/27 44/37 36/32 43/34 45/37 47/37 32/26 38/30 42/37 48/33 50/36
51/39 32/27 39/31 41/34 46/37 51/43 45/37 44/34 47/34 49/39 48/41 44/36 55/47 51/46 55/43 44/37 57/40
54/39 45/35 50/41 55/40 51/44 52/42 40/31 55/42 53/49 59/46 56/45 52/39 51/40 60/49 51/43 45/36 58/51
59/48 62/47 64/51 58/49 61/48 58/49 65/50 64/51 69/52 68/55 64/50 68/51 68/53 67/56 66/56 68/57 68/55
67/53 67/55 68/56 68/55 67/56 67/56 68/56 68/55 68/55 68/55 68/55 67/56 68/56 68/56 68/56
"""


def test_a_healthy_history_of_a_hundred_epochs_is_not_a_collapse():
    pairs = [tuple(int(count) / 128 for count in epoch.split("/")) for epoch in HUNDRED_EPOCHS.split()]
    for every in (1, 6, 12):
        assert judged(*pairs[every - 1 :: every]) == NOTHING
    # the same with a collapse in epoch 70, seen however seldom it is looked
    pairs[69:] = [(0.85, 0.01)] * 31
    for every, first in ((1, 70), (6, 72), (12, 72)):
        probed = [pair if (i + 1) % every == 0 else NOT_PROBED for i, pair in enumerate(pairs)]
        assert judged(*probed) == {"detected": True, "first_epoch": first, "at_end": True}


@pytest.mark.parametrize(("eps", "step", "collapses"), [(0.3, 0.6, True), (0.1, 0.125, False)])
def test_a_real_collapse_is_detected_and_nothing_else(eps, step, collapses):
    """Digits, 8 x 8 pixels: at a wide radius a large step overfits to itself; probed in two epochs of 24."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    torch.manual_seed(1)
    layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    model = nn.Sequential(nn.Flatten(), *layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pairs = []
    for epoch in range(24):
        for chosen in torch.randperm(1400).split(64):
            loss = functools.partial(mean_loss, model, labels[chosen])
            attacked = fbf(loss, images[chosen], eps=eps, step=step)
            optimizer.zero_grad()
            loss(attacked).backward()
            optimizer.step()
        probed = (epoch + 1) % 12 == 0
        pairs.append(probe(model, images[-IMAGES:], labels[-IMAGES:], eps, 10) if probed else NOT_PROBED)
    found = judged(*pairs)
    assert found["at_end"] == found["detected"] == collapses, pairs[11::12]
    assert collapses or pairs[-1][1] > 0.6


def mean_loss(model, labels, images):
    return functional.cross_entropy(model(images), labels)


def test_the_probe_leaves_mode_and_random_numbers_alone():
    model = create_model("resnet8", "relu").train()
    images = torch.rand(4, 3, 32, 32)
    state = torch.get_rng_state()
    fgsm, full = probe(model, images, torch.arange(4), 8 / 255, 2)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert 0 <= full <= 1 and 0 <= fgsm <= 1


# -- the learning-rate range test


def test_the_range_test_records_every_step(dataset):
    rows = lr_range({**settings(), "lr_range": {"min": 1e-4, "max": 1e-2, "epochs": 2}}, dataset, CPU)
    assert [row["step"] for row in rows] == list(range(8))
    assert rows[0]["smoothed_loss"] == pytest.approx(rows[0]["loss"])
    assert rows[-1]["learning_rate"] == pytest.approx(1e-2)


def test_the_range_test_ends_where_the_loss_does(dataset):
    rows = lr_range({**settings(), "lr_range": {"min": 1e-4, "max": 1e30, "epochs": 5}}, dataset, CPU)
    assert 0 < len(rows) < 20 and all(math.isfinite(row["loss"]) for row in rows)


def test_the_suggestion_brackets_the_fall():
    rates = exponential(1e-4, 3, 101)
    losses = [2.3] * 30 + [2.3 - 0.02 * i for i in range(51)] + [1.3] * 10 + [3.0] * 10
    suggestion = suggest(
        [{"learning_rate": rate, "smoothed_loss": loss} for rate, loss in zip(rates, losses, strict=True)]
    )
    assert rates[30] < suggestion["min"] < rates[36] and rates[74] < suggestion["max"] <= rates[80]


def test_no_fall_no_suggestion():
    assert suggest([{"learning_rate": 0.1, "smoothed_loss": 1.0}]) == {"min": None, "max": None}
    assert suggest([]) == {"min": None, "max": None}
