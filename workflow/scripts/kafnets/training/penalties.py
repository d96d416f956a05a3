"""What a training adds to its loss for the activations' sake: `training.penalties` of config.yaml.

A penalty takes the network's activation layers and returns a differentiable scalar: a sum over the layers
that it is about, of a mean over channels where these have their own. Parameters that layers share count once.
Of networks without such layers it is 0.
"""

import torch

from ..activations import layers_of
from ..registry import PENALTIES, lookup


class Penalty:
    """The weighted sum of some penalties of a network.

    Args:
        model (nn.Module): the network.
        weights (dict): of each penalty's name.
    """

    def __init__(self, model, weights):
        self.layers = list(layers_of(model).values())
        entries = {name: lookup(PENALTIES, name, "penalty") for name in weights}
        self.terms = [(weight, entries[name].load()) for name, weight in weights.items()]

    def __call__(self, loss):
        """The loss and the penalties; the loss itself where there are none."""
        for weight, function in self.terms:
            loss = loss + weight * function(self.layers)
        return loss


def _sum(layers, name, function):
    """The sum of `function` over the layers that have the parameter or method `name`, once for each set."""
    chosen = {}
    for layer in layers:
        if hasattr(layer, name):
            chosen.setdefault(next(iter(layer.parameters())), layer)
    terms = [function(layer) for layer in chosen.values()]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def slope(layers):
    r"""KAFs: :math:`\alpha^\top K \alpha`, the squared norm of the kernels' sum, which bounds its slope."""
    return _sum(layers, "mixture", _squared_norm)


def _squared_norm(layer):
    from ..activations.kaf.kernels import KERNELS  # only where there are KAFs

    alpha, dictionary, gamma = layer.mixture()
    differences = dictionary.unsqueeze(-1) - dictionary.unsqueeze(-2)
    kernels = KERNELS[layer.kernel].value(differences, gamma.reshape(-1, 1, 1))
    return torch.einsum("ci,cij,cj->c", alpha, kernels.expand(len(alpha), -1, -1), alpha).mean()


def tv2(layers):
    """Linear splines: the sum of the absolute changes of slope."""
    return _sum(layers, "total_variation", lambda layer: layer.total_variation().mean())


def saf_start(layers):
    """Cubic splines: the squared distance of the control points from those that they started with."""
    return _sum(layers, "distance_from_start", lambda layer: layer.distance_from_start().mean())


def pssilu_b(layers):
    """PSSiLU: the absolute value of b; of weight 10 in the source."""
    of_pssilu = [layer for layer in layers if getattr(layer, "learn_b", False)]
    return _sum(of_pssilu, "b", lambda layer: layer.b.abs().mean())


def l2(layers):
    """All: the sum of squares of their parameters."""
    parameters = dict.fromkeys(p for layer in layers for p in layer.parameters())
    terms = [parameter.square().sum() for parameter in parameters]
    return torch.stack(terms).sum() if terms else torch.zeros(())
