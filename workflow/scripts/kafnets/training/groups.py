"""The activations' parameters in a training: their weight decay, rate, clipped gradients and penalties."""

import torch

from ..activations import layers_of
from ..registry import ACTIVATIONS, PENALTIES, lookup

FACTOR = "rate_factor"  # of a group: its learning rate over the network's


def decays(model):
    """The weight decay that its entry says of each of the activations' parameters."""
    found = {}
    for layer in layers_of(model).values():
        entry = ACTIVATIONS.get(layer.activation_name)
        for parameter in layer.parameters():
            found[parameter] = entry.decay if entry else 0.0
    return found


def factor_of(options):
    """The factor of these settings of a training."""
    return float(options.get("activation_rate", 1.0))


class Rates:
    """Sets the learning rates of an optimiser's groups; on the device where an update is not to wait for it.

    Args:
        factor (float): of the activations' groups.
        device (torch.device, optional): where the rates lie; without, they are numbers.
    """

    def __init__(self, factor, device=None):
        self.factors = dict.fromkeys((1.0, factor))
        self.device = device
        self.values = {f: 0.0 if device is None else torch.zeros((), device=device) for f in self.factors}

    def give(self, optimizer):
        """Lets the groups have these rates."""
        for group in optimizer.param_groups:
            group["lr"] = self.values[group[FACTOR]]

    def set(self, optimizer, rate):
        """Sets the network's rate, and with it the activations'."""
        for factor, value in self.values.items():
            if self.device is None:
                self.values[factor] = rate * factor
            else:
                value.fill_(rate * factor)
        if self.device is None:
            self.give(optimizer)


def limits(model):
    """The parameters whose gradients are clipped, as (parameter, its largest absolute value)."""
    found = {}
    for layer in layers_of(model).values():
        for name, limit in getattr(layer, "gradient_limits", {}).items():
            if isinstance(getattr(layer, name, None), torch.nn.Parameter):
                found[getattr(layer, name)] = limit
    return list(found.items())


def clip(limited):
    """Clips the gradients of what :func:`limits` found."""
    for parameter, limit in limited:
        if parameter.grad is not None:
            parameter.grad.clamp_(-limit, limit)


class Penalised:
    """Adds penalties of a network's activations to a loss.

    Args:
        model (nn.Module): the network.
        weights (dict): of each penalty's name.
    """

    def __init__(self, model, weights):
        self.layers = list(layers_of(model).values())
        # by name: the code of the penalties belongs to the trainings that have them
        self.terms = [(weight, lookup(PENALTIES, name, "penalty").load()) for name, weight in weights.items()]

    def __call__(self, loss):
        """The loss and the penalties; the loss itself where there are none."""
        for weight, function in self.terms:
            loss = loss + weight * function(self.layers)
        return loss
