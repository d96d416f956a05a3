import math

import pytest
import torch
from kafnets.models import create_model
from kafnets.runtime.errors import UserError
from kafnets.training import nonfinite
from kafnets.training.training import Training, initial_model, parameter_groups
from torch import nn
from torch.nn import functional
from training_cases import CPU, NOISE, first_batch, same, settings, weights


def test_a_step_is_plain_sgd_with_the_penalty_on_kernels_only():
    """One step against the update written out: w -= lr (grad + 2 l2 w), l2 = 0 but for kernels."""
    options = settings(adversary={"name": "none"}, momentum=0.0, augmentation="none")
    training = Training(options, NOISE, CPU)
    reference = initial_model(options).train()
    rows = first_batch(training)
    images, labels = training.batches.take(rows)
    functional.cross_entropy(reference(images), labels).backward()
    penalty = {}
    for name, module in reference.named_modules():
        if isinstance(module, nn.Conv2d):
            penalty[f"{name}.weight"] = 0.0005
        if isinstance(module, nn.Linear):
            penalty[f"{name}.weight"] = 0.001
    training.step(rows, 0.05)
    for name, parameter in reference.named_parameters():
        update = parameter.grad + 2 * penalty.get(name, 0.0) * parameter
        updated = training.model.get_parameter(name)
        assert torch.allclose(updated, parameter - 0.05 * update, atol=1e-6), name


def test_kafs_biases_and_normalisations_are_not_penalised():
    model = create_model("resnet8", "kaf_free")
    groups = parameter_groups(model, {"conv": 0.0005, "dense": 0.001})
    assert [group["weight_decay"] for group in groups] == [0.001, 0.002, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(parameter.dim() == 4 for parameter in groups[0]["params"])
    assert [tuple(parameter.shape) for parameter in groups[1]["params"]] == [(10, 64)]


def test_deferred_an_update_that_is_not_finite_is_left_out_and_told_of_later():
    training = Training(settings(), NOISE, CPU, deferred=True)
    first, second, third, _ = training.batches.epoch(0)
    training.step(first, 0.01)
    with torch.no_grad():
        training.model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    before = weights(training.model)
    training.step(second, 0.01)
    training.step(third, 0.01)
    after = {name: parameter for name, parameter in training.model.named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in after if "layer2.0.conv2" not in name)
    with pytest.raises(UserError, match=r"epoch 1, step 2 of 4: the output of layer layer2.0.conv2 is not"):
        training.check()


def test_a_capture_that_fails_leaves_the_step_as_it_was(monkeypatch):
    """The control around a CUDA graph, where there is none: ordinary steps, one attempt, ordinary steps."""
    training, plain = (Training(settings(), NOISE, CPU, deferred=True) for _ in range(2))
    attempts = []

    def fail(rows):
        attempts.append(len(rows))
        training._step(rows)  # half done: what it changed must be put back
        raise RuntimeError("operation not permitted when stream is capturing")

    training.replayed.usable = True
    monkeypatch.setattr(training.replayed, "_capture", fail)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    for one in (training, plain):
        torch.manual_seed(1)
        for epoch in range(3):
            for rows in one.batches.epoch(epoch):
                one.step(rows, 0.05)
    assert attempts == [8] and not training.replayed.usable
    assert same(weights(training.model), weights(plain.model))


@pytest.mark.parametrize("forgotten", [None, "update", "averages"])
def test_a_graph_must_do_to_the_weights_and_averages_what_the_step_does(monkeypatch, forgotten):
    """The trial of a CUDA graph, where there is none: in its place the step, or all but a part of it."""
    training = Training(settings(), NOISE, CPU, deferred=True)
    left_alone = {
        None: [],
        "update": list(training.model.parameters()),
        "averages": [value for name, value in training.model.named_buffers() if "running" in name],
    }[forgotten]

    def replay(rows):
        before = [tensor.detach().clone() for tensor in left_alone]
        result = training._step(rows)
        with torch.no_grad():
            for tensor, value in zip(left_alone, before, strict=True):
                tensor.copy_(value)
        return result

    training.replayed.usable = True
    monkeypatch.setattr(training.replayed, "_capture", lambda rows: None)
    monkeypatch.setattr(training.replayed, "_replay", replay)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    first, second, third, _ = training.batches.epoch(0)
    for rows in (first, second, third, first):
        training.step(rows, 0.05)
    assert training.replayed.usable == (forgotten is None)


def test_deferred_momentum_begins_at_zero_when_the_first_update_is_left_out():
    training = Training(settings(), NOISE, CPU, deferred=True)
    with torch.no_grad():
        training.model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    training.step(first_batch(training), 0.01)
    buffers = [training.optimizer.state[p]["momentum_buffer"] for p in training.model.parameters()]
    assert all((buffer == 0).all() for buffer in buffers)


def test_the_first_layer_with_a_nonfinite_output_is_found():
    model = create_model("resnet8", "relu")
    with torch.no_grad():
        model.layer2[0].conv2.weight[0, 0, 0, 0] = math.nan
    assert (
        nonfinite.describe(model, torch.rand(2, 3, 32, 32))
        == "the output of layer layer2.0.conv2 is not finite"
    )


def test_a_nonfinite_gradient_is_found_at_the_loss_end():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad[0, 0] = math.inf
    assert nonfinite.describe(model, torch.zeros(1, 2)) == "the gradient of 0.weight is not finite"
