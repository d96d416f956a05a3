"""What a training adds to its loss for the activations' sake: `training.penalties` of config.yaml.

A penalty takes the network's activation layers and returns a differentiable scalar: a sum over the layers
that it is about, of a mean over channels where these have their own. Parameters that layers share count once.
Of networks without such layers it is 0.
"""

import torch

from ..activations import is_elementwise


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
    return _sum(layers, "squared_norm", lambda layer: layer.squared_norm().mean())


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


def chi(layers):
    r"""All functions of one number: :math:`\chi - 1`, how much they let gradients grow with depth."""
    from ..activations.chi import chi as of_layer

    learned = [layer for layer in layers if is_elementwise(layer) and list(layer.parameters())]
    return _sum(learned, "forward", lambda layer: (of_layer(layer) - 1).mean().float())
