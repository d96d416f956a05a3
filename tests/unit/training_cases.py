"""A tiny training: its settings, and images of noise."""

import os
import signal

import torch
from kafnets.data import Dataset

CPU = torch.device("cpu")
_GENERATOR = torch.Generator().manual_seed(0)
_IMAGES = torch.randint(0, 256, (40, 3, 32, 32), generator=_GENERATOR, dtype=torch.uint8)
_LABELS = torch.arange(40) % 10
# 28 training images: the last batch of an epoch is smaller than the others
NOISE = Dataset(
    "noise", _IMAGES[:28], _LABELS[:28], _IMAGES[28:], _LABELS[28:], tuple("0123456789"), "", "abc"
)


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


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def first_batch(training):
    """Where the first batch of a training lies."""
    return next(training.batches.epoch(0))


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
