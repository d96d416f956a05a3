"""A training with the fast KAF is the training with the formula as printed, within what a seed changes."""

import statistics
from dataclasses import replace

import pytest
import torch
from kafnets.activations.kaf.functional import active_backend, get_backend, set_backend
from kafnets.data import prepare_digits
from kafnets.training.run import train

CPU = torch.device("cpu")
SEEDS = range(3)
SETTINGS = {
    "experiment": "fidelity",
    "activation": "kaf_elu",
    "dataset": "digits",
    "train_examples": 128,
    "architecture": "resnet8",
    "architecture_arguments": {"block": "thesis"},
    "activation_arguments": {},
    "num_classes": 10,
    "training": {
        "adversary": {"name": "fbf", "eps": "8/255", "step": "10/255"},
        "epochs": 5,
        "batch_size": 16,
        "augmentation": "none",
        "precision": "float32",
        "momentum": 0.0,
        "l2": {"conv": 0.0005, "dense": 0.0005},
        "learning_rate": [0.02, 0.2],
        "tail": {"epochs": 0, "learning_rate": 0.005, "halve_every": 1},
        "monitor": {"eps": "8/255", "examples": 32, "iterations": 2, "every": 100},
    },
}


def history(backend, seed, dataset, folder):
    """One adversarial training, a row an epoch."""
    set_backend(backend)
    _, rows, _ = train({**SETTINGS, "seed": seed}, dataset, CPU, folder / f"{backend}{seed}.ckpt")
    return rows


@pytest.mark.slow
def test_the_fast_path_trains_like_the_formula(tmp_path):
    digits = prepare_digits()
    count = SETTINGS["train_examples"]
    dataset = replace(
        digits, train_images=digits.train_images[:count], train_labels=digits.train_labels[:count]
    )
    before = get_backend()
    try:
        set_backend("auto")
        fast = active_backend(CPU)
        runs = {name: [history(name, seed, dataset, tmp_path) for seed in SEEDS] for name in ("plain", fast)}
    finally:
        set_backend(before)
    slow, quick = ([rows[-1]["fgsm_accuracy"] for rows in runs[name]] for name in ("plain", fast))
    print(f"accuracy in the last epoch: plain {slow}, {fast} {quick}")
    for first, second in zip(runs["plain"], runs[fast], strict=True):
        assert second[0]["loss"] == pytest.approx(first[0]["loss"], rel=0.02)
    noise = max(statistics.stdev(slow), statistics.stdev(quick), 1 / count)
    assert min(slow) > 0.3  # it has learned, so that there is something to lose
    assert abs(statistics.mean(slow) - statistics.mean(quick)) < 2 * noise
