"""A network's passes with its layers computed several at a time, against the network itself."""

import copy

import pytest
import torch
from kafnets import create_model
from kafnets.activations import create_activation
from kafnets.models.fused import cpu, operators
from kafnets.models.fused.rewriting import Fused, Unfusable, _Rewriting, fused
from kafnets.training import fusing
from kafnets.training.methods.base import Network
from kafnets.training.run import run_fingerprint
from kafnets.training.training import Training
from torch import nn
from torch.nn import functional
from training_cases import CPU, NOISE, same, settings, weights

from benchmarks import kernels

# -- one pass


class PreAct(nn.Module):
    """Normalisation and activation come first, one of a sum that others read too; a layer is called twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8, momentum=None) for _ in range(3))
        self.acts = nn.ModuleList(create_activation("swish", 8) for _ in range(2))
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding=1)
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.gain = nn.Parameter(torch.ones(8, 1, 1))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        h = self.conv1(self.acts[0](self.norms[0](x)))
        h = self.conv2(self.acts[1](self.norms[1](h))) + x
        h = functional.relu(self.norms[2](self.circular(h)) + self.conv2(h) * self.gain)
        return self.fc(h.mean((2, 3)))


NETWORKS = {
    "thesis": lambda: create_model("resnet8", "kaf"),
    "original": lambda: create_model("resnet8", "elu", block="original"),
    "projection": lambda: create_model("resnet8", "relu", block="original", shortcut="projection"),
    "vgg": lambda: create_model("vgg", "kaf", dropout=[0.0] * 4),
    "preact": PreAct,
}
SITES = {"thesis": 7, "original": 7, "projection": 9, "vgg": 6, "preact": 3}


def network(name):
    """Biases and normalisations are not at their start, where a mistake would not show."""
    torch.manual_seed(1)
    model = NETWORKS[name]().train()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.3)
    return model.to(memory_format=torch.channels_last)


def one_pass(model, call, images, labels):
    images = images.clone().requires_grad_()
    logits = call(images)
    gradients = torch.autograd.grad(
        functional.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, labels),
        [images, *model.parameters()],
    )
    names = ["images", *(name for name, _ in model.named_parameters())]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return logits.detach(), dict(zip(names, gradients, strict=True)), buffers


def batch(dtype=torch.float32, count=4):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(count, 3, 32, 32, generator=generator, dtype=dtype)
    return images.contiguous(memory_format=torch.channels_last), torch.arange(count)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_pass_is_the_networks_own(name, monkeypatch):
    calls = []
    monkeypatch.setattr(
        operators,
        "normalise_activate",
        lambda *args, **kwargs: calls.append(args[1]) or operators.plain(*args, **kwargs),
    )
    model = network(name).double()
    own = copy.deepcopy(model)
    call = fused(model)
    images, labels = batch(torch.float64)
    for _ in range(2):  # the second: counters and running averages go on
        logits, gradients, buffers = one_pass(model, call, images, labels)
        expected, own_gradients, own_buffers = one_pass(own, own, images, labels)
        assert torch.allclose(logits, expected, rtol=1e-9, atol=1e-10)
        for key, gradient in own_gradients.items():
            assert torch.allclose(gradients[key], gradient, rtol=1e-7, atol=1e-10), key
        for key, buffer in own_buffers.items():
            assert torch.allclose(buffers[key].double(), buffer.double(), rtol=1e-9, atol=1e-12), key
    assert len(calls) == 2 * SITES[name] == 2 * len(set(calls))


@pytest.mark.parametrize(("name", "count"), [("thesis", 9), ("vgg", 6), ("preact", 1)])
def test_a_bias_in_front_of_a_normalisation_has_no_gradient(name, count):
    """Layer by layer it is rounding noise, and in twice as many digits twice as small; fused it is zero."""
    images, labels = batch()
    model = network(name)
    _, gradients, _ = one_pass(model, fused(model), images, labels)
    zero = [key for key, gradient in gradients.items() if not gradient.any()]
    assert len(zero) == count and all(key.endswith("bias") for key in zero)
    own = network(name)
    _, single, _ = one_pass(own, own, images, labels)
    _, double, _ = one_pass(own.double(), own, images.double(), labels)
    largest = max(gradient.abs().max() for gradient in single.values())
    for key in zero:
        assert single[key].abs().max() < 1e-4 * largest, key
        assert double[key].abs().max() < 1e-12 * largest, key


@pytest.fixture
def same_order(monkeypatch):
    """The gradient of the mean as torch lays it out, which decides the order in which a CPU adds it up."""
    monkeypatch.setattr(_Rewriting, "replace_means", lambda self: None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_cast_at_once_are_those_that_autocast_makes(dtype, same_order):
    images, labels = batch()
    results = []
    for is_fused in (False, True):
        model = network("original")
        results.append(
            one_pass(model, Network(model, dtype, passes=fused(model) if is_fused else None), images, labels)
        )
    (logits, gradients, buffers), (expected, own_gradients, own_buffers) = results
    assert torch.equal(logits, expected) and same(buffers, own_buffers)
    assert same(gradients, own_gradients)
    assert all(gradient.dtype is torch.float32 for gradient in gradients.values())


def test_two_passes_at_other_weights_before_one_backward_pass(same_order):
    """As TRADES calls the network twice, and adversarial weight perturbation moves the weights between."""
    images, labels = batch()
    found = []
    for is_fused in (True, False):
        model = network("original")
        call = Network(model, torch.bfloat16, passes=fused(model) if is_fused else None)
        first = call(images)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(1.5)
        loss = functional.cross_entropy(first, labels) + 2 * functional.cross_entropy(call(images), labels)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


# -- where the network itself is called


def test_outside_training_mode_and_with_hooks_the_network_itself_is_called(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("fused")

    monkeypatch.setattr(operators, "normalise_activate", fail)
    model = network("thesis")
    call, (images, _) = fused(model), batch()
    model.layer2[0].bn1.eval()
    assert torch.equal(call(images), copy.deepcopy(model)(images))
    model.eval()
    assert torch.equal(call(images), model(images))
    model.train()
    seen = []
    hook = model.layer2[0].bn1.register_forward_hook(lambda *_: seen.append(1))
    call(images)
    assert seen == [1]
    hook.remove()
    with pytest.raises(AssertionError, match="fused"):
        call(images)


class Odd(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.norm, self.fc, self.computed = nn.BatchNorm2d(3), nn.Linear(3, 10), forward

    def forward(self, x):
        return self.fc(self.computed(self.norm(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x: x if x.sum() > 0 else -x, "cannot be recorded"),
        (lambda x: x * torch.rand(1).item(), "differ from pass to pass"),
        (lambda x: x + torch.randn(3, 1, 1), "makes a tensor"),
    ],
)
def test_what_cannot_be_recorded_is_said(forward, reason, capsys):
    model = Odd(forward)
    state = torch.get_rng_state()
    with pytest.raises(Unfusable, match=reason):
        fused(model)
    assert fusing.passes(model, CPU, True) is model
    assert torch.equal(torch.get_rng_state(), state)
    assert reason in capsys.readouterr().err
    model.fc.register_forward_hook(lambda *_: None)
    with pytest.raises(Unfusable, match="hooks"):
        fused(model)


# -- in a training


def steps(training, count=3):
    torch.manual_seed(5)
    figures = [
        training.step(rows, 0.05) for rows, _ in zip(training.batches.epoch(0), range(count), strict=False)
    ]
    return torch.stack(figures)


def test_a_training_is_the_same_fused():
    """But for rounding; without an adversary: a sign of FBF that turns over would be more than that."""
    chosen = settings(adversary={"name": "none"}, augmentation="none")
    own, training = (Training(chosen, NOISE, CPU, fused=is_fused) for is_fused in (False, True))
    assert isinstance(training.network.passes, Fused) and own.network.passes is own.model
    assert torch.allclose(steps(training), steps(own), rtol=1e-4)
    for name, value in weights(own.model).items():
        assert torch.allclose(training.model.state_dict()[name], value, rtol=1e-3, atol=1e-4), name
    assert isinstance(training.network.passes, Fused)
    assert training.model.stem.bn.num_batches_tracked == 3
    assert training.optimizer.state_dict().keys() == own.optimizer.state_dict().keys()
    assert not training.model.stem.conv.bias.any()  # where it began


def test_a_fused_training_goes_on_from_its_state_with_the_same_bits():
    whole = Training(settings(), NOISE, CPU, deferred=True, fused=True)
    first, second, third, _ = whole.batches.epoch(0)
    whole.step(first, 0.05)
    state = copy.deepcopy(whole.state())
    whole.step(second, 0.05)
    whole.step(third, 0.05)
    resumed = Training(settings(), NOISE, CPU, deferred=True, fused=True)
    resumed.restore(state)
    resumed.step(second, 0.05)
    resumed.step(third, 0.05)
    assert same(weights(whole.model), weights(resumed.model))


def wrong(x, norm, activation, **arguments):
    return operators.plain(1.05 * x.roll(1, 0), norm, activation, **arguments)


def failing(x, norm, activation, **arguments):
    if x.shape[1] == 64:  # after others have counted
        raise RuntimeError("no compiler")
    return operators.plain(x, norm, activation, **arguments)


@pytest.mark.parametrize(("wrong", "reason"), [(wrong, "their results differ"), (failing, "no compiler")])
def test_a_pass_that_differs_is_not_used(wrong, reason, monkeypatch, capsys):
    monkeypatch.setattr(operators, "normalise_activate", wrong)
    training, own = (Training(settings(), NOISE, CPU, fused=is_fused) for is_fused in (True, False))
    assert torch.equal(steps(training, 2), steps(own, 2))  # the trial has left nothing behind
    assert training.network.passes is training.model
    assert same(weights(training.model), weights(own.model))
    assert capsys.readouterr().err.count(f"layers are not fused ({reason})") == 1


def test_on_a_cpu_layers_are_fused_where_that_is_compiled_and_nothing_is_differentiated_twice(monkeypatch):
    monkeypatch.setattr(cpu, "available", lambda: True)
    assert isinstance(Training(settings(), NOISE, CPU).network.passes, Fused)
    names = {run_fingerprint(settings(), NOISE, CPU)}
    monkeypatch.setattr(cpu, "available", lambda: False)
    training = Training(settings(), NOISE, CPU)
    assert training.network.passes is training.model
    names.add(run_fingerprint(settings(), NOISE, CPU))
    assert len(names) == 2  # their weights differ in the last digits
    monkeypatch.setattr("kafnets.training.methods.fbf.FBF.twice_differentiated", True)
    training = Training(settings(), NOISE, CPU, fused=True)
    assert training.network.passes is training.model


# -- how many kernels a step is


SEEN_ON_A_GPU = {"relu": 905, "kaf": 934}  # layer by layer, by the profiler of an H200
REMOVED_SINCE = 32  # of the step itself: augmentation, watch, norm


@pytest.mark.parametrize("activation", SEEN_ON_A_GPU)
def test_a_step_is_a_few_hundred_kernels(activation):
    own = kernels.count(activation, fused=False)
    seen = SEEN_ON_A_GPU[activation]
    assert 0.9 * seen < own.total() + REMOVED_SINCE <= seen  # it does not see what libraries fill with zeros
    # what the profiler listed by name
    assert own["normalisations"] == 38 * 7 and own["biases of convolutions"] == 42 + 21
    step = kernels.count(activation, fused=True)
    assert step.total() <= 350
    assert step["fused operators"] == 2 * 19 * 4
    left = ("normalisations", "activations", "biases of convolutions", "copies for fused operators")
    assert not any(step[kind] for kind in left)
