import copy
import math

import pytest
import torch
from kafnets import registry
from kafnets.runtime.errors import UserError
from kafnets.runtime.interruption import Interrupted
from kafnets.training.methods.awp import AWP
from kafnets.training.methods.base import Network, create_method
from kafnets.training.methods.fbf import FBF
from kafnets.training.methods.grad_align import GradAlign
from kafnets.training.methods.mart import MART
from kafnets.training.methods.n_fgsm import NFGSM
from kafnets.training.methods.pgd_at import PGDTraining
from kafnets.training.methods.standard import Standard
from kafnets.training.methods.trades import TRADES
from kafnets.training.run import train
from kafnets.training.training import Training
from method_cases import Plain, agree, counted, normalised, some, updated
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
    perturbed = FBF(eps=0.03, step=0.0375).craft(Network(linear()), images, labels, {})
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
    perturbed = training.method.craft(network, images, labels, {})
    eps = 8 / 255
    inner = (images > eps) & (images < 1 - eps)
    # from a start within eps a step of 1.25 eps ends at least eps / 4 away
    assert ((perturbed - images).abs()[inner] > 0.24 * eps).double().mean() > 0.99


# -- the methods of the literature, each against its loop and its loss written out, in float64


def climbed(model, images, loss, start, steps=3):
    for _ in range(steps):
        given = start.clone().requires_grad_()
        moved = start + STEP * torch.autograd.grad(loss(model(given)), given)[0].sign()
        start = torch.min(torch.max(moved, images - EPS), images + EPS).clamp(0, 1)
    return start


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_pgd_training(mode):
    method = PGDTraining(eps=EPS, step=STEP, iterations=3, crafting_mode=mode)
    update, model, oracle, images, labels = updated(method)
    start = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    oracle.train(mode == "train")
    found = climbed(oracle, images, lambda logits: functional.cross_entropy(logits, labels), start)
    assert torch.equal(update.images, found)
    agree(update, functional.cross_entropy(oracle.train()(found), labels), model, oracle)
    assert counted(model) == (4 if mode == "train" else 1)


def test_trades():
    update, model, oracle, images, labels = updated(TRADES(eps=EPS, step=STEP, iterations=3, beta=2.5))
    start = images + 0.001 * torch.randn_like(images)
    oracle.eval()
    target = oracle(images).softmax(1).detach()
    found = climbed(oracle, images, lambda z: (target * (target.log() - z.log_softmax(1))).sum(), start)
    assert torch.equal(update.images, found)
    oracle.train()
    clean, moved = oracle(images), oracle(found)
    apart = functional.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")
    agree(update, functional.cross_entropy(clean, labels) + 2.5 * apart, model, oracle)
    assert counted(model) == 2 and torch.equal(update.logits, moved)


def test_mart():
    update, model, oracle, images, labels = updated(MART(eps=EPS, step=STEP, iterations=3, beta=5.0))
    start = images + 0.001 * torch.randn_like(images)
    oracle.eval()
    found = climbed(oracle, images, lambda logits: functional.cross_entropy(logits, labels), start)
    assert torch.equal(update.images, found)
    oracle.train()
    clean, moved = oracle(images).softmax(1), oracle(found).softmax(1)
    total = 0
    for p, q, label in zip(clean, moved, labels.tolist(), strict=True):
        rival = max((q[j] for j in range(3) if j != label), key=torch.Tensor.item)
        total += -q[label].log() - (1.0001 - rival).log()
        total += 5 * (1 - p[label]) * sum(p[j] * (p[j] / q[j]).log() for j in range(3))
    agree(update, total / 5, model, oracle)
    assert counted(model) == 2


def test_n_fgsm_leaves_the_ball():
    update, model, oracle, images, labels = updated(NFGSM(eps=EPS, noise=2.0))
    noisy = (images + torch.empty_like(images).uniform_(-2 * EPS, 2 * EPS)).clamp(0, 1)
    given = noisy.clone().requires_grad_()
    gradient = torch.autograd.grad(functional.cross_entropy(oracle(given), labels), given)[0]
    found = (noisy + EPS * gradient.sign()).clamp(0, 1)
    assert torch.equal(update.images, found) and (found - images).abs().max() > 2 * EPS
    agree(update, functional.cross_entropy(oracle(found), labels), model, oracle)


def test_grad_align():
    """The penalty by the definition; its gradient by differences, of a few weights."""
    update, model, oracle, images, labels = updated(GradAlign(eps=EPS, weight=3.0))

    def gradient(at, **options):
        at = at.clone().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(oracle(at), labels), at, **options)[0]

    first = gradient(images)
    found = (images + EPS * first.sign()).clamp(0, 1)
    assert torch.equal(update.images, found)
    near = images + torch.empty_like(images).uniform_(-EPS, EPS)

    def loss():
        cosines = [(a * b).sum() / (a.norm() * b.norm()) for a, b in zip(first, gradient(near), strict=True)]
        return functional.cross_entropy(oracle(found), labels) + 3 * (1 - sum(cosines) / 5)

    torch.testing.assert_close(update.loss, loss(), rtol=1e-12, atol=0)
    update.loss.backward()
    weight, by_hand = oracle[0].weight.data, []
    for place in ((0, 0, 0, 0), (3, 2, 1, 2)):
        either = []
        for move in (1e-5, -1e-5):
            weight[place] += move
            either.append(loss().item())
            weight[place] -= move
        by_hand.append((either[0] - either[1]) / 2e-5)
    found = [model[0].weight.grad[place].item() for place in ((0, 0, 0, 0), (3, 2, 1, 2))]
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_images_without_a_gradient_do_not_count_in_the_alignment():
    from kafnets.training.methods.grad_align import _mean_cosine

    one = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[6.0, 8.0], [1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    cosine = _mean_cosine(one, other)
    assert cosine.item() == pytest.approx(1.0)
    cosine.backward()
    assert other.grad.isfinite().all()
    assert _mean_cosine(one[1:2], other[1:2]).item() == 1.0


@pytest.mark.parametrize("eps, weight", [(8 / 255, 0.2), (16 / 255, 2.0)])
def test_the_weight_of_the_alignment_is_the_authors_fit(eps, weight):
    assert GradAlign(eps=eps)._weight() == pytest.approx(weight)


@pytest.mark.parametrize("inner", [PGDTraining(eps=EPS, step=STEP, iterations=2), TRADES(eps=EPS, step=STEP)])
def test_awp_updates_at_the_weights_uphill(inner):
    """As in the authors' code: a proxy takes a step of SGD up the method's loss, and lends its direction."""
    method, state = AWP(method=inner, gamma=0.05, warm_up=1), {"gamma": torch.zeros((), dtype=torch.float64)}
    method.begin_epoch(1, state)
    update, model, oracle, images, labels = updated(method, state=state)
    crafted = inner.craft(Network(Plain(oracle)), images, labels, {})
    proxy = copy.deepcopy(oracle)

    def loss(model):
        return inner.objective(Network(Plain(model)), images, labels, crafted, {}).loss

    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    optimizer.step()
    before = copy.deepcopy(oracle)
    with torch.no_grad():
        for number in (0, 4):  # convolution and dense layer; no bias, no normalisation
            weight, moved = oracle[number].weight, proxy[number].weight - oracle[number].weight
            weight.add_(0.05 * weight.norm() / moved.norm() * moved)
    expected = loss(oracle)
    agree(update, expected, model, oracle)
    assert not torch.allclose(expected, loss(before), rtol=1e-3)
    update.after_backward()
    assert same(dict(before.named_parameters()), dict(model.named_parameters()))


def test_awp_begins_after_its_warm_up():
    method, state = AWP(method=Standard(), gamma=0.05, warm_up=2), {"gamma": torch.ones(())}
    losses = []
    for epoch in (0, 1, 2):
        method.begin_epoch(epoch, state)
        losses.append(updated(method, state=state)[0].loss.item())
    plain = updated(Standard())[0].loss.item()
    assert losses[:2] == [plain, plain] and losses[2] > plain


def test_awp_with_a_gradient_that_overflows_leaves_the_weights():
    method, state = AWP(method=Standard(), gamma=0.05), {"gamma": torch.ones(())}
    model, (images, labels) = normalised(), some()
    network = Network(Plain(model), scale=lambda loss: loss * math.inf)
    update = method.update(network, images, labels, state)
    assert update.loss.isfinite()


# -- each through the registry and the training


RADIUS = {"eps": "8/255", "step": "4/255"}
METHODS = {
    "none": {},
    "fbf": {},
    "n_fgsm": {"adversary": {"eps": "8/255"}},
    "free": {"adversary": {"eps": "8/255", "replays": 3}},
    "pgd_at": {"adversary": {"iterations": 2}},
    "trades": {"adversary": {"iterations": 2}, "awp": {"gamma": 0.01, "warm_up": 1}},
    "mart": {"adversary": {"iterations": 2}, "averaging": {"decay": 0.9, "start": 1}},
    "grad_align": {"adversary": {"eps": "8/255"}},
    "gaussian": {"adversary": {"sigma": 0.25}},
    "smooth_adv": {"adversary": {"sigma": 0.25, "radius": 0.5, "iterations": 2}},
    "ibp": {"adversary": {"eps": "2/255", "ramp": 1}},
    "lmt": {"adversary": {"c": 0.1, "warm_up": 1}},
    "offset": {},
}


def chosen(name, **changes):
    given = dict(METHODS[name])
    needs = RADIUS if "step" in registry.ADVERSARIES[name].required else {}
    adversary = {"name": name, **needs, **given.pop("adversary", {})}
    options = settings(adversary=adversary, **{**given, **changes})
    return {**options, "activation": "kaf" if name == "pgd_at" else "relu"}


def test_every_method_of_the_registry_is_tested():
    assert METHODS.keys() == registry.ADVERSARIES.keys()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fbf"])
def test_a_method_trains_and_resumes_with_the_same_bits(tmp_path, monkeypatch, name):
    options = chosen(name, epochs=1)
    whole, history, facts = train(options, NOISE, CPU, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.run.progress.bar", StopAt(6))
        with pytest.raises(Interrupted):
            train(options, NOISE, CPU, tmp_path / "stopped")
    torch.manual_seed(99)
    resumed, _, _ = train(options, NOISE, CPU, tmp_path / "stopped")
    assert same(weights(whole), weights(resumed))
    assert len(history) == 2 and all(math.isfinite(row["loss"]) for row in history)
    assert facts["single_step"] == (name in ("fbf", "n_fgsm", "free", "grad_align"))


@pytest.mark.parametrize("name", ["free", "trades", "mart", "grad_align", "smooth_adv"])
def test_what_a_method_changes_can_be_put_back_for_the_trial_of_a_graph(monkeypatch, name):
    """As in the capture on a GPU, which fails here: the step that it tried has left nothing behind."""
    training, plain = (Training(chosen(name), NOISE, CPU, deferred=True) for _ in range(2))

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
            one.begin_epoch(epoch)
            for rows in one.batches.epoch(epoch):
                one.step(rows, 0.05)
    assert not training.replayed.usable
    assert same(weights(training.model), weights(plain.model))
    assert same(training.method_state, plain.method_state)
    if training.averaged is not None:
        assert all(map(torch.equal, training.averaged.tensors, plain.averaged.tensors))


def test_no_method_asks_the_device_for_a_number():
    """What a step does is captured as a CUDA graph: nothing in it may depend on a value."""

    class Asked(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            forbidden = (torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.tolist, torch.nonzero)
            assert function not in forbidden, function
            return function(*args, **(kwargs or {}))

    for name in METHODS:
        own = {**chosen(name), "activation": "elu"}
        training = Training(own, NOISE, CPU, deferred=True, fused=False)
        rows = first_batch(training)
        with Asked():
            training.step(rows, 0.05)


def test_free_training_replays_a_batch_and_carries_its_perturbation_on():
    training = Training(chosen("free", augmentation="none"), NOISE, CPU)
    rows = first_batch(training)
    seen, *_ = training.step(rows, 0.01).tolist()
    delta = training.method_state["delta"].clone()
    assert seen == 3 * len(rows) and training.model.stem.bn.num_batches_tracked == 3
    assert 0 < delta.abs().max() <= 8 / 255 + 1e-6
    moved = training.batches.take(rows)[0] + delta
    assert moved.min() > -1e-6 and moved.max() < 1 + 1e-6
    training.step(rows[:4], 0.01)  # the last batch of an epoch
    assert torch.equal(training.method_state["delta"][4:], delta[4:])
    assert not torch.equal(training.method_state["delta"][:4], delta[:4])
    with torch.no_grad():
        training.model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="epoch 1, step 3 of 4"):
        training.step(rows, 0.01)


def test_free_moves_the_perturbation_by_the_gradient_of_the_update():
    method = create_method({"name": "free", "eps": "16/255", "replays": 2})
    model, (images, labels) = normalised(), some()
    state, eps = method.initial_state(images), 16 / 255
    for _ in range(2):
        before = state["delta"].clone()
        update = method.update(Network(Plain(model)), images, labels, state)
        update.loss.backward()
        given = (images + before).clamp(0, 1).requires_grad_()
        gradient = torch.autograd.grad(functional.cross_entropy(model(given), labels), given)[0]
        update.after_backward()
        moved = (before + eps * gradient.sign()).clamp(-eps, eps)
        torch.testing.assert_close(state["delta"], torch.max(torch.min(moved, 1 - images), -images))


def test_a_penalty_on_input_gradients_reaches_the_weights():
    """Through two backward passes, the KAF's own too."""
    training = Training({**chosen("grad_align"), "activation": "kaf"}, NOISE, CPU)
    images, labels = training.batches.take(first_batch(training))
    gradients = []
    for weight in (0.0, 5.0):
        method = GradAlign(eps=EPS, weight=weight)
        torch.manual_seed(3)
        loss = method.update(training.network, images, labels, {}).loss
        gradients.append(torch.autograd.grad(loss, training.model.stem.conv.weight)[0])
    assert not torch.allclose(*gradients, rtol=0.1)
