"""Randomised smoothing against what is known exactly: the binomial distribution, and linear classifiers."""

import math
from statistics import NormalDist

import numpy
import pytest
import torch
from kafnets.attacks import Expectation, pgd
from kafnets.certification.certify import certify
from kafnets.certification.entry import ABSTAINED
from kafnets.certification.smoothing import Smoothing, lower_bound
from scipy.stats import binom, binomtest
from torch import nn

NORMAL = NormalDist()
SHAPE = (3, 4, 4)


def at_least(hits, samples, probability):
    """The probability of so many hits or more, term by term with whole numbers and logarithms."""
    terms = [
        math.lgamma(samples + 1)
        - math.lgamma(k + 1)
        - math.lgamma(samples - k + 1)
        + k * math.log(probability)
        + (samples - k) * math.log1p(-probability)
        for k in range(hits, samples + 1)
    ]
    return math.fsum(map(math.exp, terms))


@pytest.mark.parametrize("samples", [1, 10, 1000])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_where_the_binomial_says(samples, alpha):
    for hits in {1, samples // 2, samples - 1, samples} - {0}:
        bound = lower_bound(hits, samples, alpha)
        # so many hits or more have exactly that probability there, and less of it below
        assert at_least(hits, samples, bound) == pytest.approx(alpha, rel=1e-8)
        assert at_least(hits, samples, 0.999 * bound) < alpha
        interval = binomtest(hits, samples, alternative="greater").proportion_ci(1 - alpha, "exact")
        assert bound == pytest.approx(interval.low, rel=1e-9)
    assert lower_bound(0, samples, alpha) == 0.0
    assert lower_bound(samples, samples, alpha) == pytest.approx(alpha ** (1 / samples), rel=1e-9)


def test_hits_that_cannot_be():
    for hits in (-1, 11):
        with pytest.raises(ValueError, match="hits: expected a number from 0 to 10"):
            lower_bound(hits, 10, 0.001)


@pytest.mark.parametrize("truth", [0.03, 0.5, 0.9, 0.999])
def test_the_bound_lies_above_the_truth_no_more_often_than_alpha(truth):
    """Not by sampling: the probabilities of all hits whose bound is too high add up."""
    for samples in (20, 300):
        missed = math.fsum(
            binom.pmf(hits, samples, truth)
            for hits in range(samples + 1)
            if lower_bound(hits, samples, 0.01) > truth
        )
        assert missed <= 0.01 + 1e-12
        # and it is no looser than it has to be: one hit less would break the promise
        last = max(hits for hits in range(samples + 1) if lower_bound(hits, samples, 0.01) <= truth)
        assert binom.sf(last - 1, samples, truth) > 0.01


# -- a linear classifier: its smoothed answer and radius are known


def linear(seed=0):
    """Two classes: the first where w x + b > 0. With Gaussian noise its answer stays that of w x + b."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 2))
    with torch.no_grad():
        model[1].weight[1] = 0
        model[1].bias.zero_()
    return model


def signed_distances(model, images):
    """Of the images from the decision boundary: the true certified radius where it is positive."""
    weight = model[1].weight[0].double()
    return (images.double().flatten(1) @ weight + model[1].bias[0].double()) / weight.norm()


def some(count=40):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return images, torch.zeros(count, dtype=torch.int64)


SETTINGS = {"sigma": 0.5, "selection_samples": 100, "samples": 2000, "alpha": 0.001}


def test_a_linear_classifier_is_certified_nearly_to_its_boundary():
    model, (images, labels) = linear(), some()
    figures, columns = certify(model, images, labels, "smoothing", SETTINGS, batch_size=256)
    truth = signed_distances(model, images.float() / 255)
    radii, predictions = columns["radius"], columns["prediction"]
    decided = predictions != ABSTAINED
    assert decided.sum() > 20
    assert (predictions[decided] == (truth[decided] < 0)).all()
    # but for a probability of alpha an image, 4 % in all; with these random numbers nowhere
    assert (radii <= truth.abs()).all()
    # as close as the sample allows: what the true probability minus four standard deviations would give
    for radius, distance in zip(radii.tolist(), truth.abs().tolist(), strict=True):
        chance = NORMAL.cdf(distance / 0.5)
        hits = 2000 * chance - 4 * math.sqrt(2000 * chance * (1 - chance))
        least = lower_bound(int(hits), 2000, 0.001)
        assert radius >= (0.5 * NORMAL.inv_cdf(least) if least > 0.5 else 0.0)
    # what the record says, counted again
    right = predictions == 0
    assert figures["examples"] == 40 and figures["norm"] == "l2"
    assert figures["abstained"] == (~decided).sum()
    assert figures["accuracy"] == pytest.approx(right.double().mean().item())
    assert figures["average_radius"] == pytest.approx((radii * right).mean().item())
    assert figures["clean_accuracy"] == pytest.approx((truth > 0).double().mean().item())
    largest = 0.5 * NORMAL.inv_cdf(0.001 ** (1 / 2000))
    assert figures["facts"]["largest_radius"] == pytest.approx(largest, rel=1e-6)
    assert radii.max() <= largest + 1e-9


def test_steps_of_the_certified_length_change_no_more_answers_than_alpha_allows():
    """The worst step of a linear classifier is known: along its weights."""
    images, labels = some()
    settings = {**SETTINGS, "samples": 500, "alpha": 0.01}
    moved = changed = 0
    for seed in range(5):
        model = linear(seed)
        _, columns = certify(model, images, labels, "smoothing", {**settings, "seed": seed}, batch_size=500)
        weight, kept = model[1].weight[0].double().view(SHAPE), columns["radius"] > 0
        side = 1 - 2 * columns["prediction"].view(-1, 1, 1, 1).double()
        step = columns["radius"].view(-1, 1, 1, 1) * side * weight / weight.norm()
        answers = (signed_distances(model, images.double() / 255 - step) < 0).long()
        moved += int(kept.sum())
        changed += int((answers != columns["prediction"])[kept].sum())
    assert moved > 100 and changed <= binom.isf(1e-4, moved, 0.01)


def test_an_independent_computation_gives_the_same():
    """The same noise, one image at a time, counted and bounded by other means."""
    model, (images, labels) = linear(5), some(6)
    certificate = Smoothing(model, SHAPE, 64, **SETTINGS)
    _, columns = certify(model, images, labels, "smoothing", SETTINGS, batch_size=64)
    weight, bias = (model[1].weight.detach().numpy(), model[1].bias.detach().numpy())
    for number in range(6):
        image = images[number].float() / 255
        counts = []
        for phase, total in (("selection", 100), ("estimation", 2000)):
            blocks = [certificate._noise(image, number, phase, block) for block in range(-(-total // 100))]
            noisy = (image + torch.cat(blocks)[:total]).flatten(1).numpy()
            counts.append(numpy.bincount((noisy @ weight.T + bias).argmax(1), minlength=2))
        chosen = counts[0].argmax()
        hits = int(counts[1][chosen])
        assert (columns["chosen"][number], columns["hits"][number]) == (chosen, hits)
        bound = binomtest(hits, 2000, alternative="greater").proportion_ci(0.999, "exact").low
        if bound > 0.5:
            assert columns["radius"][number].item() == pytest.approx(0.5 * NORMAL.inv_cdf(bound), rel=1e-6)
        else:
            assert columns["prediction"][number] == ABSTAINED and columns["radius"][number] == 0


def test_the_noise_is_normal_and_every_sample_another():
    certificate = Smoothing(linear(), SHAPE, 64, sigma=0.5)
    image = torch.zeros(SHAPE)
    blocks = {
        (number, phase, block): certificate._noise(image, number, phase, block)
        for number in (0, 1)
        for phase in ("selection", "estimation")
        for block in (0, 1, 2)
    }
    rows = torch.cat(list(blocks.values())).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == 1200
    assert rows.mean().abs() < 5 * 0.5 / math.sqrt(rows.numel())
    assert rows.std().item() == pytest.approx(0.5, rel=0.02)
    again = Smoothing(linear(), SHAPE, 64, sigma=0.5)._noise(image, 1, "estimation", 2)
    assert torch.equal(blocks[1, "estimation", 2], again)
    other = Smoothing(linear(), SHAPE, 64, sigma=0.5, seed=1)._noise(image, 1, "estimation", 2)
    assert not torch.equal(again, other)


class Coin(nn.Module):
    """Answers by the noise alone, evenly over two classes: nothing can be certified."""

    def forward(self, images):
        side = images.flatten(1)[:, 0] > 0.5
        return torch.stack([side, ~side], 1).float()


def test_choosing_by_the_samples_of_the_estimate_would_certify_a_coin(monkeypatch):
    """With samples of its own the choice says nothing about those of the bound, which holds; with the same
    ones it is the class that happened to be more frequent, and the bound is wrong twice as often."""
    images = torch.full((1, *SHAPE), 0.5)
    settings = {"sigma": 0.5, "selection_samples": 40, "samples": 40, "alpha": 0.2}

    def certified(certificate, count=300):
        found = certificate(
            images.expand(count, *SHAPE), torch.zeros(count, dtype=torch.int64), list(range(count))
        )
        return int((found.radii > 0).sum())

    separate = certified(Smoothing(Coin(), SHAPE, 100, **settings))
    # P(Binomial(40, 1/2) >= 24) = 0.134: 24 hits of 40 are the fewest whose bound is above 1/2
    expected = binom.sf(23, 40, 0.5)
    assert lower_bound(24, 40, 0.2) > 0.5 >= lower_bound(23, 40, 0.2)
    spread = math.sqrt(300 * expected * (1 - expected))
    assert abs(separate - 300 * expected) < 3 * spread
    own = Smoothing._noise

    def of_the_choice(self, image, number, phase, block):
        return own(self, image, number, "selection", block)

    monkeypatch.setattr(Smoothing, "_noise", of_the_choice)
    same = certified(Smoothing(Coin(), SHAPE, 100, **settings))
    assert abs(same - 300 * 2 * expected) < 3 * spread * math.sqrt(2)
    assert same > separate + 3 * spread


@pytest.mark.parametrize("batch_size", [1, 7, 100, 150, 5000])
def test_batches_make_no_difference(batch_size):
    model, (images, labels) = linear(1), some(3)
    settings = {**SETTINGS, "samples": 230, "selection_samples": 30}
    if batch_size == 1:
        settings |= {"samples": 23}
    _, one = certify(model, images, labels, "smoothing", settings, batch_size=batch_size)
    _, other = certify(model, images, labels, "smoothing", settings, batch_size=64)
    for name in ("chosen", "hits", "radius", "prediction"):
        assert torch.equal(one[name], other[name])


def test_an_image_alone_is_certified_as_among_others():
    model, (images, labels) = linear(1), some(4)
    certificate = Smoothing(model, SHAPE, 64, **SETTINGS)
    pixels = images.float() / 255
    together = certificate(pixels, labels, [0, 1, 2, 3])
    alone = certificate(pixels[2:3], labels[2:3], [2])
    assert together.radii[2] == alone.radii[0] and together.extra["hits"][2] == alone.extra["hits"][0]


def test_outputs_that_are_no_numbers_are_no_answer():
    class Sometimes(nn.Module):
        def forward(self, images):
            side = images.flatten(1)[:, 0]
            return torch.stack([side.where(side < 0.5, math.nan), torch.zeros_like(side)], 1)

    counts = Smoothing(Sometimes(), SHAPE, 64, **SETTINGS).counts(torch.full(SHAPE, 0.5), 0, "estimation")
    # half of the samples: the first class where 0 < x < 1/2, the second where x < 0
    below = NORMAL.cdf(-0.5 / 0.5)
    assert 2000 * 0.45 < counts.sum() < 2000 * 0.55
    assert counts[1].item() == pytest.approx(2000 * below, abs=5 * math.sqrt(2000 * below))


# -- a network that is not linear, under attack


class Noisy(nn.Module):
    """A network's answers to an image with noise, drawn anew in every pass."""

    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, images):
        return self.model(images + self.sigma * torch.randn_like(images))


def trained_with_noise(sigma):
    """A network of three classes, images of them, and the images' labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 32), nn.ReLU(), nn.Linear(32, 3))
    centres, labels = torch.rand(3, *SHAPE), torch.arange(300) % 3
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(centres[labels] + sigma * torch.randn(300, *SHAPE)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = (centres[labels[:15]] + 0.2 * torch.randn(15, *SHAPE)).clamp(0, 1)
    return model, (images * 255).round().to(torch.uint8), labels[:15]


def test_no_attack_on_the_smoothed_classifier_succeeds_within_the_radius():
    """PGD along its expected gradient; what it answers there is counted over many further samples."""
    sigma = 0.5
    model, images, labels = trained_with_noise(sigma)
    settings = {**SETTINGS, "sigma": sigma, "samples": 1000}
    _, columns = certify(model, images, labels, "smoothing", settings, batch_size=1000)
    radii, predictions = columns["radius"].tolist(), columns["prediction"]
    assert min(radii) > 0.3 * sigma and torch.equal(predictions, labels)
    expected = Expectation(Noisy(model, sigma).eval(), 32)

    def broken(times):
        """How many answers change within so many times the radius."""
        count = 0
        for number, radius in enumerate(radii):
            image, label = images[number : number + 1].float() / 255, labels[number : number + 1]
            eps = times * radius
            attacked = pgd(expected, image, label, eps=eps, step=eps / 4, iterations=10, norm="l2")
            distance = (attacked.adversarial - image).norm()
            assert distance <= eps * (1 + 1e-5)
            with torch.no_grad():
                votes = model(attacked.adversarial + sigma * torch.randn(4000, *SHAPE)).argmax(1).bincount()
            count += int(votes.argmax() != label)
        return count

    assert broken(1) == 0
    assert broken(1.5) > 7  # the attack is one: not much further away it breaks most of them
