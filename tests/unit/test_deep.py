"""Deep networks: which activations a gradient gets through, and a ResNet56 that learns."""

import pytest
import torch
from kafnets import create_model, registry
from kafnets.activations.kaf.layer import KAF
from kafnets.data import prepare_digits
from kafnets.training.run import train
from torch import nn
from torch.nn import functional
from training_cases import CPU, settings


class Based(nn.Module):
    """ELU, and a random KAF on top of it."""

    def __init__(self, channels):
        super().__init__()
        self.kaf = KAF(channels)

    def forward(self, x):
        return functional.elu(x) + self.kaf(x)


@pytest.fixture(autouse=True)
def elu_and_kaf(monkeypatch):
    entry = registry.Entry(f"{__name__}:Based", learns=True, per="channel")
    monkeypatch.setitem(registry.ACTIVATIONS, "elu_and_kaf", entry)


def natural_images(count, size):
    """Noise whose amplitude falls as the inverse of the frequency, as that of photographs does."""
    across, down = torch.fft.rfftfreq(size)[None], torch.fft.fftfreq(size)[:, None]
    spectrum = (across**2 + down**2).sqrt().clamp(min=1 / size)
    images = torch.fft.irfft2(torch.fft.rfft2(torch.randn(count, 3, size, size)) / spectrum)
    images = images - images.amin((1, 2, 3), keepdim=True)
    return images / images.amax((1, 2, 3), keepdim=True)


def stem_gradient(activation, block):
    torch.manual_seed(0)
    model = create_model("resnet56", activation, block=block).train()
    images, labels = natural_images(64, 16), torch.arange(64) % 10
    functional.cross_entropy(model(images), labels).backward()
    return next(model.stem.parameters()).grad.norm().item()


BASES = ["elu_and_kaf", *(name for name in registry.ACTIVATIONS if name.endswith("_base"))]


@pytest.mark.parametrize("block", ["thesis", "original", "preact"])
@pytest.mark.parametrize("activation", BASES)
def test_with_a_base_the_gradient_at_the_stem_is_as_in_networks_that_learn(activation, block):
    assert 0.05 < stem_gradient(activation, block) < 20


def test_without_one_it_explodes_unless_the_skip_is_left_alone():
    assert stem_gradient("kaf", "thesis") > 1e7 and stem_gradient("kaf", "original") > 1e9
    assert stem_gradient("kaf_relu", "thesis") > 200
    assert stem_gradient("kaf", "preact") < 1000


@pytest.mark.slow  # 2 x 70 seconds of a core
def test_a_resnet56_learns_with_a_base_and_not_without(tmp_path):
    digits = prepare_digits(name="digits8", size=8)
    accuracies = {}
    for activation in ("kaf_relu", "elu_and_kaf"):
        options = settings(
            adversary={"name": "fbf", "eps": "25.5/255", "step": "31.875/255"},
            epochs=4,
            batch_size=64,
            augmentation="none",
            momentum=0.0,
            l2={"conv": 0.0, "dense": 0.0},
            learning_rate=[1e-4, 0.1],
            tail={"epochs": 0, "learning_rate": 0.1, "halve_every": 1},
            averaging={"decay": 0, "batch_norm": "recalibrate"},
            monitor={"eps": "25.5/255", "examples": 8, "iterations": 1, "every": 4},
        )
        chosen = {**options, "architecture": "resnet56", "image_shape": [3, 8, 8], "activation": activation}
        model, _, _ = train(chosen, digits, CPU, tmp_path / activation)
        with torch.no_grad():
            answers = model.eval()(digits.test_images.float() / 255).argmax(1)
        accuracies[activation] = (answers == digits.test_labels).double().mean().item()
    assert accuracies["kaf_relu"] < 0.2 and accuracies["elu_and_kaf"] > 0.6, accuracies
