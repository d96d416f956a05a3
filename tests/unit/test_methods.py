import math
from dataclasses import dataclass

import pytest
import torch
from kafnets import registry
from kafnets.runtime.errors import UserError
from kafnets.runtime.interruption import Interrupted
from kafnets.training.methods.base import Method, Network, Update
from kafnets.training.methods.fbf import FBF
from kafnets.training.methods.standard import Standard
from kafnets.training.run import train
from kafnets.training.training import Training, initial_model
from torch import nn
from torch.nn import functional
from training_cases import CPU, NOISE, StopAt, first_batch, same, settings, weights

EPS, STEP = 0.1, 0.125


def linear(classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))


def gradient_at(model, images, labels):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(model(images), labels), images)[0]


def test_fbf_takes_the_step_of_the_paper():
    model, images, labels = linear(), torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(5)
    update = FBF(eps=EPS, step=STEP).update(Network(model), images, labels, {})
    torch.manual_seed(5)
    start = torch.empty_like(images).uniform_(-EPS, EPS)
    moved = start + STEP * gradient_at(model, images + start, labels).sign()
    expected = (images + moved.clamp(-EPS, EPS)).clamp(0, 1)
    assert torch.allclose(update.images, expected) and not update.images.requires_grad
    assert torch.equal(update.logits, model(update.images))
    assert torch.equal(update.loss, functional.cross_entropy(update.logits, labels))


def test_fbf_stays_in_the_ball_and_in_the_pixel_range():
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 3
    perturbed = FBF(eps=0.03, step=0.0375).perturb(Network(linear()), images, labels)
    assert (perturbed - images).abs().max() <= 0.03 + 1e-6
    assert perturbed.min() >= 0 and perturbed.max() <= 1


def test_both_passes_update_the_running_averages():
    training = Training(settings(), NOISE, CPU)
    counter = training.model.stem.bn.num_batches_tracked
    training.step(first_batch(training), 0.01)
    assert counter.item() == 2 and training.model.training


def test_the_gradient_at_the_inputs_asks_for_none_of_the_parameters():
    model, images, seen = linear(), torch.rand(2, 3, 8, 8), []
    model[1].bias.requires_grad_(False)

    def loss(images):
        seen.append([parameter.requires_grad for parameter in model.parameters()])
        return model(images).square().mean()

    gradient = Network(model, scale=lambda loss: 8 * loss).input_gradient(loss, images)
    assert seen == [[False, False]]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False]
    given = images.clone().requires_grad_()
    expected = torch.autograd.grad(loss(given), given)[0]
    assert torch.allclose(gradient, 8 * expected) and not images.requires_grad


def test_standard_training_takes_the_images_as_they_are():
    model, images, labels = linear(), torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    update = Standard().update(Network(model), images, labels, {})
    assert update.images is images
    assert torch.equal(update.loss, functional.cross_entropy(model(images), labels))


def test_in_float16_a_large_loss_scale_leaves_the_adversary_its_gradient():
    training = Training(settings(augmentation="none"), NOISE, CPU, deferred=True)
    network = training.network
    network.precision, network.scale = torch.float16, torch.amp.GradScaler("cpu", init_scale=2.0**17).scale
    images, labels = training.batches.take(torch.arange(8))
    perturbed = training.method.perturb(network, images, labels)
    eps = 8 / 255
    inner = (images > eps) & (images < 1 - eps)
    # from a start within eps a step of 1.25 eps ends at least eps / 4 away
    assert ((perturbed - images).abs()[inner] > 0.24 * eps).double().mean() > 0.99


# -- methods of one's own: the loops of the literature, each through the interface and the registry


def divergence(logits, target):
    """KL(target || logits), the mean over the batch."""
    return functional.kl_div(
        logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True
    )


@dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """H. Zhang et al., ICML 2019: clean cross-entropy, and beta times how far the logits move nearby."""

    eps: float
    step: float
    iterations: int
    beta: float

    def update(self, network, images, labels, state):
        clean = network(images)
        target = clean.detach()
        perturbed = images + 0.001 * torch.randn_like(images)
        for _ in range(self.iterations):
            gradient = network.input_gradient(lambda x: divergence(network(x), target), perturbed)
            perturbed = perturbed + self.step * gradient.sign()
            perturbed = perturbed.clamp(images - self.eps, images + self.eps).clamp(0, 1)
        moved = network(perturbed)
        loss = functional.cross_entropy(clean, labels) + self.beta * divergence(moved, clean)
        return Update(loss, moved, perturbed)


@dataclass(frozen=True, kw_only=True)
class Free(Method):
    """A. Shafahi et al., NeurIPS 2019: one backward pass moves the weights and the perturbation."""

    eps: float
    updates_per_batch: int = 3

    def initial_state(self, images):
        return {"delta": torch.zeros_like(images)}

    def update(self, network, images, labels, state):
        delta = state["delta"][: len(images)]
        moving = delta.clone().requires_grad_()
        perturbed = (images + moving).clamp(0, 1)
        logits = network(perturbed)

        def move():
            delta.add_(self.eps * moving.grad.sign()).clamp_(-self.eps, self.eps)

        return Update(functional.cross_entropy(logits, labels), logits, perturbed, move)


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(Method):
    """D. Wu et al., NeurIPS 2020: the gradient is that of weights which were moved uphill."""

    eps: float
    step: float
    gamma: float

    def update(self, network, images, labels, state):
        inner = FBF(eps=self.eps, step=self.step)
        perturbed = inner.perturb(network, images, labels)
        weights = [weight for weight in network.model.parameters() if weight.dim() > 1]
        before = [weight.detach().clone() for weight in weights]
        uphill = torch.autograd.grad(functional.cross_entropy(network(perturbed), labels), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, uphill, strict=True):
                weight.add_(self.gamma * weight.norm() / (gradient.norm() + 1e-12) * gradient)
        logits = network(perturbed)

        def put_back():
            with torch.no_grad():
                for weight, value in zip(weights, before, strict=True):
                    weight.copy_(value)

        return Update(functional.cross_entropy(logits, labels), logits, perturbed, put_back)


@dataclass(frozen=True, kw_only=True)
class GradAlign(FBF):
    """M. Andriushchenko and N. Flammarion, NeurIPS 2020: FBF, and the input gradient may not turn nearby."""

    weight: float

    def update(self, network, images, labels, state):
        update = super().update(network, images, labels, state)
        near = images + torch.empty_like(images).uniform_(-self.eps, self.eps)
        first, second = (self._gradient(network, given, labels) for given in (images, near))
        turned = 1 - functional.cosine_similarity(first.flatten(1), second.flatten(1)).mean()
        return Update(update.loss + self.weight * turned, update.logits, update.images)

    def _gradient(self, network, images, labels):
        images = images.detach().requires_grad_()
        loss = functional.cross_entropy(network(images), labels)
        return torch.autograd.grad(loss, images, create_graph=True)[0]


RADIUS = {"eps": "8/255", "step": "10/255"}
OWN = {
    "trades": (Trades, {"eps": "8/255", "step": "2/255", "iterations": 2, "beta": 6.0}),
    "free": (Free, {"eps": "8/255"}),
    "awp": (WeightPerturbation, {**RADIUS, "gamma": 0.01}),
    "grad_align": (GradAlign, {**RADIUS, "weight": 0.2}),
}


@pytest.fixture
def own(monkeypatch):
    """The settings of a training by one of the methods above, which the registry knows now."""
    for name, (method, _) in OWN.items():
        entry = registry.Entry(f"{__name__}:{method.__name__}")
        monkeypatch.setitem(registry.ADVERSARIES, name, entry)
    return lambda name, **changes: settings(adversary={"name": name, **OWN[name][1]}, **changes)


@pytest.mark.parametrize("name", OWN)
def test_a_method_of_ones_own_trains_and_resumes_with_the_same_bits(own, tmp_path, monkeypatch, name):
    chosen = own(name, epochs=1)
    whole, history, _ = train(chosen, NOISE, CPU, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.run.progress.bar", StopAt(5))
        with pytest.raises(Interrupted):
            train(chosen, NOISE, CPU, tmp_path / "stopped")
    torch.manual_seed(99)
    resumed, _, _ = train(chosen, NOISE, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed))
    assert len(history) == 2 and all(math.isfinite(row["loss"]) for row in history)


@pytest.mark.parametrize("name", OWN)
def test_what_a_method_changes_can_be_put_back_for_the_trial_of_a_graph(own, monkeypatch, name):
    """As in the capture on a GPU, which fails here: the step that it tried has left nothing behind."""
    training, plain = (Training(own(name), NOISE, CPU, deferred=True) for _ in range(2))

    def fail(rows):
        training._step(rows)
        raise RuntimeError("operation not permitted when stream is capturing")

    training.replayed.usable = True
    monkeypatch.setattr(training.replayed, "_capture", fail)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    for one in (training, plain):
        torch.manual_seed(1)
        for epoch in range(2):
            for rows in one.batches.epoch(epoch):
                one.step(rows, 0.05)
    assert not training.replayed.usable
    assert same(weights(training.model), weights(plain.model))
    assert same(training.method_state, plain.method_state)


def test_trades_takes_the_update_written_out(own):
    chosen = own("trades", momentum=0.0, augmentation="none", l2={"conv": 0.0, "dense": 0.0})
    training, reference = Training(chosen, NOISE, CPU), initial_model(chosen).train()
    images, labels = training.batches.take(first_batch(training))
    torch.manual_seed(7)
    clean, eps = reference(images), 8 / 255
    perturbed = images + 0.001 * torch.randn_like(images)
    for _ in range(2):
        given = perturbed.clone().requires_grad_()
        loss = divergence(reference(given), clean.detach())  # to the bit: a sign decides
        moved = perturbed + 2 / 255 * torch.autograd.grad(loss, given)[0].sign()
        perturbed = torch.min(torch.max(moved, images - eps), images + eps).clamp(0, 1)
    probabilities = clean.softmax(1)
    apart = (probabilities * (probabilities.log() - reference(perturbed).log_softmax(1))).sum(1).mean()
    (functional.cross_entropy(clean, labels) + 6 * apart).backward()
    torch.manual_seed(7)
    training.step(first_batch(training), 0.05)
    for name, parameter in reference.named_parameters():
        expected = parameter - 0.05 * parameter.grad
        assert torch.allclose(training.model.get_parameter(name), expected, atol=1e-5), name


def test_free_training_replays_a_batch_and_carries_its_perturbation_on(own):
    training = Training(own("free"), NOISE, CPU)
    rows = first_batch(training)
    seen, *_ = training.step(rows, 0.01).tolist()
    delta = training.method_state["delta"].clone()
    assert seen == 3 * len(rows) and training.model.stem.bn.num_batches_tracked == 3
    assert 0 < delta.abs().max() <= 8 / 255 + 1e-6
    training.step(rows[:4], 0.01)  # the last batch of an epoch
    assert torch.equal(training.method_state["delta"][4:], delta[4:])
    assert not torch.equal(training.method_state["delta"][:4], delta[:4])
    with torch.no_grad():
        training.model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="epoch 1, step 3 of 4"):
        training.step(rows, 0.01)


def test_perturbed_weights_come_back_before_the_update(own):
    training = Training(own("awp", momentum=0.0), NOISE, CPU)
    before = weights(training.model)
    training.step(first_batch(training), 0.0)
    assert all(torch.equal(before[name], value) for name, value in training.model.named_parameters())
    assert training.model.stem.bn.num_batches_tracked == 3


def test_a_penalty_on_input_gradients_reaches_the_weights(own):
    """Through two backward passes, the KAF's own too."""
    training = Training(own("grad_align"), NOISE, CPU)
    images, labels = training.batches.take(first_batch(training))
    gradients = []
    for weight in (0.0, 5.0):
        method = GradAlign(eps=EPS, step=STEP, weight=weight)
        torch.manual_seed(3)
        loss = method.update(training.network, images, labels, {}).loss
        gradients.append(torch.autograd.grad(loss, training.model.stem.conv.weight)[0])
    assert not torch.allclose(*gradients, rtol=0.1)
