"""Adversarial weight perturbation, on top of any method."""

from dataclasses import dataclass

import torch
from torch import nn

from ...activations import layers_of
from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class AWP(Method):
    r"""The gradient of a method's loss at weights that were moved uphill.

    For what the method has crafted, each kernel :math:`w` moves along the gradient :math:`g` of the method's
    own loss by :math:`\gamma\,\|w\|\,g / \|g\|`; the update is computed there, and the optimiser takes it
    from where the weights were. The pass that finds :math:`g` leaves the running averages as they are.

    Kernels are the weights of convolutions and dense layers. Parameters of activations, biases and
    normalisations stay. (The authors' code takes every tensor of two dimensions and more named "weight",
    which is the same for their networks, and puts the weights back after the optimiser's step, so that weight
    decay counts at the moved ones: a difference of the order :math:`\gamma` times the decay.)

    Args:
        method (Method): whose loss it is.
        gamma (float): the size of the move, relative to the weights; the authors take 0.01, for TRADES 0.005.
        warm_up (int): epochs before it begins; the authors take 0, for SVHN 5, for TRADES 10.

    Source: D. Wu, S.-T. Xia and Y. Wang, NeurIPS 2020, arXiv:2004.05884.
    """

    method: Method
    gamma: float = 0.01
    warm_up: int = 0

    @property
    def updates_per_batch(self):
        return self.method.updates_per_batch

    @property
    def single_step(self):
        return self.method.single_step

    @property
    def twice_differentiated(self):
        return self.method.twice_differentiated

    def prepare(self, network, images):
        self.method.prepare(network, images)

    def initial_state(self, images):
        gamma = torch.zeros((), dtype=torch.float64, device=images.device)
        return {**self.method.initial_state(images), "gamma": gamma}

    def begin_epoch(self, epoch, state):
        self.method.begin_epoch(epoch, state)
        state["gamma"].fill_(self.gamma if epoch >= self.warm_up else 0.0)

    def craft(self, network, images, labels, state):
        return self.method.craft(network, images, labels, state)

    def objective(self, network, images, labels, crafted, state):
        weights = kernels(network.model)
        before = [weight.detach().clone() for weight in weights]
        buffers = list(network.model.buffers())
        averages = [buffer.clone() for buffer in buffers]
        loss = network.scale(self.method.objective(network, images, labels, crafted, state).loss)
        uphill = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for buffer, value in zip(buffers, averages, strict=True):
                buffer.copy_(value)
            for weight, gradient in zip(weights, uphill, strict=True):
                weight.copy_(_moved(weight, gradient, state["gamma"]))
        update = self.method.objective(network, images, labels, crafted, state)

        def put_back():
            update.after_backward()
            with torch.no_grad():
                for weight, value in zip(weights, before, strict=True):
                    weight.copy_(value)

        return Update(update.loss, update.logits, update.images, put_back)


def kernels(model):
    """The weights of the convolutions and dense layers of a network that are no activation's."""
    of_activations = {part for layer in layers_of(model).values() for part in layer.modules()}
    return [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and module not in of_activations
        and module.weight.requires_grad
    ]


def _moved(weight, gradient, gamma):
    """Where a weight goes; where it is if the gradient is zero, or overflowed in float16."""
    length = gradient.norm()
    moved = weight + gamma * weight.norm() / length * gradient
    return torch.where(length.isfinite() & (length > 0), moved, weight)
