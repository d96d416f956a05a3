"""Training for interval bounds: its loss against one written out, its schedule, and what it is good for."""

import copy

import pytest
import torch
from kafnets.activations import create_activation
from kafnets.certification import interval
from kafnets.certification.activations import bounds_of
from kafnets.certification.network import live_network_of, network_of
from kafnets.runtime.errors import UserError
from kafnets.training.methods.base import Network, create_method
from kafnets.training.methods.ibp import IBP, activation_range, bounded
from kafnets.training.methods.standard import Standard
from kafnets.training.training import Training
from torch import nn
from torch.nn import functional
from training_cases import CPU, NOISE, first_batch, settings

EPS = 0.05


def normalised():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(256, 3)
    return nn.Sequential(*layers).double()


def some():
    torch.manual_seed(1)
    return torch.rand(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


def state_of(method, images, epoch):
    state = method.initial_state(images)
    method.begin_epoch(epoch, state)
    return state


def silu_range(low, high):
    """From the values at the ends and, where it lies between, at the minimum."""
    ends = torch.stack([functional.silu(low), functional.silu(high)])
    least = -0.27846454276107379510935873
    inside = (low < -1.2784645427610738) & (high > -1.2784645427610738)
    return torch.where(inside, least, ends.amin(0)), ends.amax(0)


def worst_logits(model, images, labels, eps):
    """The worst logits, by positive and negative weights, class by class; statistics are the batch's."""
    conv, norm, _, _, dense = model
    clean = conv(images)
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    positive, negative = conv.weight.clamp(min=0), conv.weight.clamp(max=0)

    def convolved(one, other):
        return functional.conv2d(one, positive, conv.bias, padding=1) + functional.conv2d(
            other, negative, padding=1
        )

    low, high = convolved(low, high), convolved(high, low)
    variance, mean = clean.var((0, 2, 3), correction=0), clean.mean((0, 2, 3))
    scale = norm.weight / (variance + norm.eps).sqrt()
    ends = [(end - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) for end in (low, high)]
    ends = [end + norm.bias.view(1, -1, 1, 1) for end in ends]
    low, high = silu_range(torch.minimum(*ends), torch.maximum(*ends))
    low, high = low.flatten(1), high.flatten(1)
    rows = []
    for n, label in enumerate(labels):
        row = []
        for j in range(3):
            weight = dense.weight[j] - dense.weight[label]
            most = (weight.clamp(min=0) * high[n] + weight.clamp(max=0) * low[n]).sum()
            row.append(most + dense.bias[j] - dense.bias[label])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_the_loss_written_out():
    model, (images, labels) = normalised(), some()
    nn.init.uniform_(model[1].weight, -1.5, 1.5)  # a negative scale turns intervals over
    oracle = copy.deepcopy(model)
    method = IBP(eps=EPS, warm_up=2, ramp=4, kappa=0.4)
    state = state_of(method, images, 4)  # three quarters of the way
    update = method.update(Network(model), images, labels, state)
    worst = worst_logits(oracle, images, labels, 0.75 * EPS)
    kappa = 1 - 0.75 * 0.6
    loss = kappa * functional.cross_entropy(oracle(images), labels)
    loss = loss + (1 - kappa) * functional.cross_entropy(worst, labels)
    torch.testing.assert_close(update.loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(update.logits, worst, rtol=1e-10, atol=1e-12)
    update.loss.backward()
    loss.backward()
    for one, other in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-11)
    # the averages have seen the images once
    for one, other in zip(model.buffers(), oracle.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_radius_it_is_the_cross_entropy():
    model, (images, labels) = normalised(), some()
    expected = functional.cross_entropy(copy.deepcopy(model)(images), labels)
    for method, epoch in ((IBP(eps=0.0, ramp=1), 3), (IBP(eps=0.1, warm_up=2), 1)):
        update = method.update(Network(model), images, labels, state_of(method, images, epoch))
        torch.testing.assert_close(update.loss, expected, rtol=1e-12, atol=0)


def test_the_ramp():
    method, images = create_method({"name": "ibp", "eps": "51/255", "warm_up": 2, "ramp": 4}), some()[0]
    found = [state_of(method, images, epoch) for epoch in range(8)]
    eps, kappa = ([one[name].item() for one in found] for name in ("eps", "kappa"))
    assert eps == pytest.approx([0, 0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    assert kappa == pytest.approx([1, 1, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5])


def test_dropouts_drop_the_same_in_all_passes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 3
    steps = live_network_of(model, (3, 8, 8))
    logits, margins = bounded(steps, images, torch.tensor(0.0), labels)
    expected = logits.gather(1, labels[:, None]) - logits
    torch.testing.assert_close(margins, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits, model.eval()(images))


@pytest.mark.parametrize("name", ["relu", "swish", "elu", "prelu", "kaf", "kaf_silu_base"])
def test_ranges_of_activations_have_the_values_and_the_gradients(name):
    torch.manual_seed(0)
    layer = create_activation(name, 4)
    lower = 2 * torch.randn(3, 4, 5)
    upper = lower + 2 * torch.rand(3, 4, 5)
    lower, upper = lower.requires_grad_(), upper.requires_grad_()
    low, high = activation_range(layer, lower, upper)
    share = torch.linspace(0, 1, 501).view(-1, 1, 1, 1)
    values = layer((lower + (upper - lower) * share).flatten(0, 1)).view(501, 3, 4, 5).detach()
    assert (low - values.amin(0)).abs().max() < 1e-3 and (high - values.amax(0)).abs().max() < 1e-3
    low_sound, high_sound = bounds_of(layer).range(lower.detach(), upper.detach())
    assert (low_sound <= low + 1e-5).all() and (high <= high_sound + 1e-5).all()
    gradients = torch.autograd.grad(low.sum() + 2 * high.sum(), [lower, upper, *layer.parameters()])
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)
    slopes = torch.autograd.grad(activation_range(layer, lower, upper)[1].sum(), upper)[0]
    with torch.no_grad():
        grown = (activation_range(layer, lower, upper + 1e-2)[1] - high) / 1e-2
    steepest = slopes.abs().max()
    assert ((grown - slopes).abs() < 0.1 * steepest).double().mean() > 0.9 and steepest > 0.01


@pytest.mark.parametrize("activation", ["kaf_elu_base", "relu"])
def test_a_step_of_a_residual_network(activation):
    adversary = {"name": "ibp", "eps": "2/255", "ramp": 1}
    given = {**settings(adversary=adversary), "activation": activation}
    training = Training(given, NOISE, CPU)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    figures = training.step(first_batch(training), 0.01)
    assert figures.isfinite().all() and training.model.stem.bn.num_batches_tracked.item() == 1
    moved = [not torch.equal(*pair) for pair in zip(before, training.model.parameters(), strict=True)]
    names = [name for name, _ in training.model.named_parameters()]
    still = {name for name, has_moved in zip(names, moved, strict=True) if not has_moved}
    # of a bias that a normalisation takes away the gradient is rounding at most
    assert not {name for name in still if "bias" not in name}, still


def toy(count, generator):
    """Two classes: four pixels that a step of 0.1 cannot turn over, and twelve that it can."""
    labels = torch.randint(2, (count,), generator=generator)
    images = 0.5 + 0.02 * torch.randn(count, 1, 4, 4, generator=generator)
    sign = (2.0 * labels - 1).view(-1, 1, 1)
    images[:, 0, :1] += 0.13 * sign
    images[:, 0, 1:] += 0.08 * sign
    return images.clamp(0, 1), labels


@pytest.mark.parametrize("activation", ["kaf_silu_base", "relu"])
def test_it_raises_the_certified_accuracy(activation):
    """The same network from the same start, with the cross-entropy alone and with the bounds'."""
    generator = torch.Generator().manual_seed(0)
    images, labels = toy(256, generator)
    tests = toy(200, generator)
    certified = {}
    for name, method in (("standard", Standard()), ("ibp", IBP(eps=0.1, warm_up=2, ramp=10))):
        torch.manual_seed(0)
        layers = nn.Linear(16, 16), create_activation(activation, 16), nn.Linear(16, 2)
        model = nn.Sequential(nn.Flatten(), *layers)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        state = method.initial_state(images)
        for epoch in range(20):
            method.begin_epoch(epoch, state)
            for rows in torch.randperm(256, generator=torch.Generator().manual_seed(epoch)).split(64):
                optimizer.zero_grad()
                method.update(Network(model), images[rows], labels[rows], state).loss.backward()
                optimizer.step()
        margins = interval.margins(network_of(model, (1, 4, 4)), *interval.box(tests[0], 0.1), tests[1])
        certified[name] = (margins.sum(1) > 0).double().mean().item()  # of two, one margin is the label's
    assert certified["ibp"] > 0.8 and certified["standard"] < certified["ibp"] - 0.3, certified


def test_what_has_no_ranges_is_refused_before_it_is_trained():
    for activation in ("relu", "maxmin", "kaf_elu", "prelu", "swish"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), create_activation(activation, 16))
        IBP(eps=0.1).prepare(Network(model), torch.zeros(2, 1, 4, 4))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), create_activation("kwta", 16))
    with pytest.raises(UserError, match=r"adversary ibp: model: 2: .*KWinners"):
        IBP(eps=0.1).prepare(Network(model), torch.zeros(2, 1, 4, 4))
