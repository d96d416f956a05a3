"""What the update of a training method is compared with: a network in the same state, in float64."""

import copy

import torch
from kafnets.training.methods.base import Network
from torch import nn


def normalised():
    """A network whose answers depend on the mode that it is in."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(256, 3)
    model = nn.Sequential(*layers).double()
    model(torch.rand(8, 3, 8, 8, dtype=torch.float64))  # running averages that are not the next batch's
    return model


def some():
    torch.manual_seed(1)
    return torch.rand(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


def updated(method, seed=7, state=None):
    """The update of a method on a network, that network, and one in the same state for the oracle."""
    model, (images, labels) = normalised(), some()
    oracle = copy.deepcopy(model)
    torch.manual_seed(seed)
    update = method.update(Network(Plain(model)), images, labels, {} if state is None else state)
    torch.manual_seed(seed)
    return update, model, oracle, images, labels


class Plain(nn.Module):
    """Its logits as they are: `Network` makes them float32, which would hide small differences."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return _Float64(self.model(images))


class _Float64(torch.Tensor):
    def __new__(cls, tensor):
        return tensor.as_subclass(cls)

    def float(self):
        return self.as_subclass(torch.Tensor)


def counted(model):
    return model[1].num_batches_tracked.item() - 1  # `normalised` has made a pass


def agree(update, oracle_loss, model, oracle):
    """The same loss, the same gradients of all weights, and the same running averages."""
    torch.testing.assert_close(update.loss, oracle_loss, rtol=1e-12, atol=0)
    update.loss.backward()
    oracle_loss.backward()
    for one, other in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
    for one, other in zip(model.buffers(), oracle.buffers(), strict=True):
        torch.testing.assert_close(one, other)
