"""Scaling the logits changes no class, so it may change no verdict: robustness is no vanished gradient."""

import pytest
import torch
from kafnets.attacks.losses import LOSSES, most_margin, unsaturated
from kafnets.evaluation.judge import evaluate
from torch import nn
from torch.nn import functional

BALL = {"eps": "12/255"}
STEPS = {"step": "3/255", "iterations": 8, "restarts": 1}
METHODS = {
    "fgsm": {},
    "pgd": STEPS,
    "pgd, l2": {**STEPS, "norm": "l2", "eps": "120/255", "step": "30/255"},
    "pgd, momentum": {**STEPS, "momentum": 1.0},
    "thesis_pgd": STEPS,
    "adaptive_pgd": {**STEPS, "restarts": 3},
    "apgd_ce": {"iterations": 15},
}


class Scaled(nn.Module):
    """Nearest class means, which the gradient of any loss can lead away from; its logits times a factor."""

    def __init__(self, factor, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.means = nn.Parameter(torch.rand(10, 3, 8, 8, generator=generator).flatten(1).to(dtype))
        self.hidden, self.factor = nn.ReLU(), factor

    def forward(self, x):
        return self.factor * self.hidden(4 - (x.flatten(1)[:, None] - self.means).pow(2).mean(2) * 8)


def some_images():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 10
    means = Scaled(1).means.detach()[labels].view(-1, 3, 8, 8)
    other = Scaled(1).means.detach()[(labels + 1) % 10].view(-1, 3, 8, 8)
    share = torch.linspace(0.2, 0.49, 60)[:, None, None, None]
    pixels = means * (1 - share) + other * share + 0.05 * torch.randn(60, 3, 8, 8, generator=generator)
    return (pixels.clamp(0, 1) * 255).to(torch.uint8), labels


@pytest.mark.parametrize("method", METHODS)
def test_scaled_logits_have_the_same_verdicts(method):
    images, labels = some_images()
    settings = {"method": method.partition(",")[0], **BALL, **METHODS[method]}
    plain, _ = evaluate(Scaled(1), images, labels, settings)
    assert 0.1 < plain["accuracy"] < 0.9 and not plain["warnings"] and plain["saturated_fraction"] == 0
    for factor in (1e2, 1e4, 1e20):
        scaled, _ = evaluate(Scaled(factor), images, labels, settings)
        assert scaled["clean_accuracy"] == plain["clean_accuracy"]
        # a larger factor makes the softmax sharper, which decides single images
        assert abs(scaled["correct"] - plain["correct"]) <= 3, factor
    assert scaled["zero_gradient_fraction"] > 0.5 and scaled["saturated_fraction"] > 0.5
    assert "no gradient" in scaled["warnings"][0]


class Clamped(nn.Module):
    """No gradient where the mean pixel is above one half."""

    def forward(self, x):
        score = x.flatten(1).mean(1).clamp(max=0.5)
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("dead, warned", [(1, False), (2, True)])
def test_one_image_without_a_gradient_is_no_warning(dead, warned):
    images = torch.full((30, 3, 4, 4), 50, dtype=torch.uint8)
    images[:dead] = 200
    figures, _ = evaluate(Clamped(), images, torch.zeros(30, dtype=torch.long), {"method": "clean"})
    assert figures["zero_gradient_fraction"] == dead / 30 and bool(figures["warnings"]) == warned


def gradient_of(loss, logits, *arguments):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, *arguments), logits)[0]


def test_ordinary_logits_are_climbed_as_ever_to_the_bit():
    torch.manual_seed(0)
    logits = torch.randn(50, 10) * 4
    labels = torch.where(torch.arange(50) < 40, logits.argmax(1), torch.randint(10, (50,)))
    limit = most_margin(torch.float32)
    lead = logits.gather(1, labels[:, None])[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert (lead < limit).all() and (lead > limit / 2).any()
    expected = gradient_of(lambda z: functional.cross_entropy(z, labels, reduction="sum"), logits)
    assert torch.equal(gradient_of(LOSSES["cross_entropy"], logits, labels, None), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_gradient_keeps_its_direction_however_large_the_margin(dtype):
    """In exact arithmetic the gradient is p - y; its direction, computed in `dtype`, against float64's."""
    labels = torch.zeros(6, dtype=torch.long)
    lead = torch.tensor([0.5, 0.99, 1.5, 4, 16, 64]) * most_margin(dtype)
    logits = torch.zeros(6, 5, dtype=torch.float64)
    logits[:, 0], logits[:, 2:] = lead, -torch.tensor([0.5, 1, 2])
    found = gradient_of(LOSSES["cross_entropy"], logits.to(dtype), labels, None).double()
    assert found.isfinite().all() and (found.abs().sum(1) > 0).all()
    exact = unsaturated(logits.to(dtype), labels).double()
    expected = exact.softmax(1)
    expected[:, 0] = -expected[:, 1:].sum(1)
    directions = torch.cosine_similarity(
        *(one / one.abs().amax(1, keepdim=True) for one in (found, expected))
    )
    assert (directions > 0.999).all()
    # and the label's own part is not lost: the parts sum to nothing, as they must
    assert (found.sum(1).abs() / found.abs().sum(1) < 0.02).all()
