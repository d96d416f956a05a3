"""Training on noisy images, and SmoothAdv, against their formulas written out, in float64."""

import pytest
import torch
from kafnets.training.methods.base import Network, create_method
from kafnets.training.methods.gaussian import Gaussian
from kafnets.training.methods.smooth_adv import SmoothAdv
from method_cases import Plain, agree, counted, normalised, some, updated
from torch.nn import functional


def test_gaussian():
    update, model, oracle, images, labels = updated(Gaussian(sigma=0.5))
    noisy = images + 0.5 * torch.randn_like(images)
    assert torch.equal(update.images, noisy) and noisy.min() < 0 and noisy.max() > 1  # not clipped
    agree(update, functional.cross_entropy(oracle(noisy), labels), model, oracle)
    assert counted(model) == 1


def loop(oracle, image, label, noise, radius, steps):
    """SmoothAdv's search for one image: the probability of its label, averaged over the noise, goes down."""
    found = image.clone()
    for _ in range(steps):
        given = found.clone().requires_grad_()
        mean = sum(oracle((given + one)[None]).softmax(1)[0, label] for one in noise) / len(noise)
        (gradient,) = torch.autograd.grad(-mean.log(), given)
        found = found + 2 * radius / steps * gradient / gradient.square().sum().sqrt()
        offset = found - image
        length = offset.square().sum().sqrt()
        found = (image + offset * min(1.0, radius / length.item())).clamp(0, 1)
    return found


def test_smooth_adv():
    method = SmoothAdv(sigma=0.3, radius=0.8, noises=3, iterations=4, warm_up=4)
    state = {"radius": torch.zeros((), dtype=torch.float64)}
    method.begin_epoch(1, state)  # the second of four: half the radius
    update, model, oracle, images, labels = updated(method, state=state)
    noise = 0.3 * torch.randn(3, *images.shape, dtype=images.dtype)
    oracle.eval()
    rows = zip(images, labels.tolist(), noise.transpose(0, 1), strict=True)
    found = torch.stack([loop(oracle, *row, radius=0.4, steps=4) for row in rows])
    noisy = torch.cat([found + one for one in noise])
    torch.testing.assert_close(update.images, noisy[:5], rtol=0, atol=1e-12)
    oracle.train()
    logits = oracle(noisy)
    agree(update, functional.cross_entropy(logits, torch.cat([labels] * 3)), model, oracle)
    mean = sum(logits.softmax(1).split(5)) / 3
    torch.testing.assert_close(update.logits.exp(), mean, rtol=1e-10, atol=0)
    assert counted(model) == 1


def test_smooth_adv_stays_in_the_ball_and_its_radius_grows():
    method = create_method({"name": "smooth_adv", "sigma": 0.25, "radius": 2.0, "iterations": 3})
    (images, labels), state = some(), {}
    images = images.round()  # half of the pixels cannot go further
    state = method.initial_state(images)
    for epoch, radius in ((0, 0.2), (4, 1.0), (9, 2.0), (30, 2.0)):
        method.begin_epoch(epoch, state)
        assert state["radius"].item() == pytest.approx(radius)
        perturbed, _ = method.craft(Network(Plain(normalised())), images, labels, state)
        lengths = (perturbed - images).flatten(1).norm(dim=1)
        assert (lengths <= radius + 1e-6).all() and (lengths > 0).all()
        assert perturbed.min() >= 0 and perturbed.max() <= 1


def test_smooth_adv_without_a_gradient_leaves_the_images():
    method = SmoothAdv(sigma=0.25, radius=1.0, iterations=2, warm_up=0)
    images, labels = some()
    state = method.initial_state(images)
    method.begin_epoch(0, state)
    model = normalised()
    torch.nn.init.zeros_(model[4].weight)
    perturbed, _ = method.craft(Network(Plain(model)), images, labels, state)
    assert torch.equal(perturbed, images)


def test_a_tiny_gradient_has_a_direction():
    """1e-25 in float32: its square is no number."""
    from kafnets.training.methods.smooth_adv import _direction

    gradient = torch.randn(2, 3, 4, 4)
    expected = gradient / gradient.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    torch.testing.assert_close(_direction(1e-25 * gradient), expected)
