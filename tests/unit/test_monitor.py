import math

import pytest
import torch
from kafnets.models import create_model
from kafnets.training.methods.base import Network
from kafnets.training.methods.fbf import FBF
from kafnets.training.monitor import catastrophic_overfitting, probe
from torch import nn

IMAGES = 128
NOTHING = {"detected": False, "first_epoch": None, "at_end": False}


def history_of(*pairs):
    return [
        {"epoch": i + 1, "probe_fgsm_accuracy": fgsm, "probe_pgd_accuracy": full}
        for i, (fgsm, full) in enumerate(pairs)
    ]


def judged(*pairs, examples=IMAGES, single_step=True):
    return catastrophic_overfitting(history_of(*pairs), examples, single_step)


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


def test_without_a_single_step_nothing_overfits_to_it():
    assert judged((0.5, 0.0), single_step=False) == NOTHING


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
    network, method, pairs = Network(model), FBF(eps=eps, step=step), []
    for epoch in range(24):
        for chosen in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            method.update(network, images[chosen], labels[chosen], {}).loss.backward()
            optimizer.step()
        probed = (epoch + 1) % 12 == 0
        pairs.append(probe(model, images[-IMAGES:], labels[-IMAGES:], eps, 10) if probed else NOT_PROBED)
    found = judged(*pairs)
    assert found["at_end"] == found["detected"] == collapses, pairs[11::12]
    assert collapses or pairs[-1][1] > 0.6


def test_the_probe_leaves_mode_and_random_numbers_alone():
    model = create_model("resnet8", "relu").train()
    images = torch.rand(4, 3, 32, 32)
    state = torch.get_rng_state()
    fgsm, full = probe(model, images, torch.arange(4), 8 / 255, 2)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert 0 <= full <= 1 and 0 <= fgsm <= 1
