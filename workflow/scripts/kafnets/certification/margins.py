"""Certificates by Lipschitz constants: how far an answer's lead lasts."""

import math

import torch

from .entry import Certificate, Certified
from .network import network_of
from .operations import Convolution
from .product import Product
from .spectral import convolution_norm, matrix_norm

# Allowed for what rounding in float64 does to logits, relative to the largest, and to a product of constants.
_ROUNDING = 1e-9


class LipschitzMargin(Certificate):
    r"""Within a distance of r in the L2 norm the answer is y:

    .. math:: r = \min_{j \ne y} \frac{f_y - f_j}{L\,\|w_y - w_j\|}

    with :math:`L` the Lipschitz constant of all that precedes the last layer, whose rows are :math:`w`. It is
    a product over the layers, see :mod:`.product`: of spectral norms of the convolutions on inputs of their
    true size (:func:`.spectral.convolution_norm`), with the normalisations of the evaluation folded in, and
    of the steepest slopes of the activations. In the L-infinity norm on d numbers the radius is
    :math:`r / \sqrt d`.

    It is a proof of the function that the stored weights define, but for roundings. Constants and leads are
    computed in float64, whose rounding is allowed for by 1e-9 of the largest logit and of the constant (an
    allowance far above it, not derived); that of the network in float32 is not part of the function.

    Args:
        network, image_shape, batch_size: see :class:`.entry.Certificate`.
        norm (str): of the radii, "l2" or "linf".

    Raises:
        ValueError: for a layer of which no constant is known, or a last layer that is not dense.

    Source: the lead over the constant: Y. Tsuzuku, I. Sato and M. Sugiyama, NeurIPS 2018, arXiv:1802.04034.
    """

    def __init__(self, network, image_shape, batch_size, *, norm="l2"):
        super().__init__(network, image_shape, batch_size)
        self.norm = norm
        self.steps = network_of(network, image_shape)
        self.constant = lipschitz_constant(self.steps)
        self.apart = distances(self.steps.steps[-1].operation.weight) * (1 + _ROUNDING)

    @property
    def facts(self):
        return {"lipschitz_constant": self.constant}

    def __call__(self, images, labels, numbers):
        predictions = self.network(images).argmax(1)
        logits = self.steps(images.double())
        own = predictions[:, None]
        leads = logits.gather(1, own) - logits - _ROUNDING * logits.abs().amax(1, keepdim=True)
        leads = leads.scatter(1, own, math.inf)
        radii = (leads / (self.constant * self.apart[predictions]).scatter(1, own, 1.0)).amin(1)
        # 0 / 0: two logits that are the same function; and no two images are farther apart than that
        widest = math.sqrt(math.prod(self.image_shape))
        radii = radii.nan_to_num(0.0, widest, 0.0).clamp(0, widest)
        if self.norm == "linf":
            radii = radii / widest
        return Certified(predictions.cpu(), radii.cpu(), {"lead": leads.amin(1).cpu()})


def lipschitz_constant(network):
    """The L2 Lipschitz constant of what the last layer of a network is given, a proof.

    Args:
        network (Network): of :func:`.network.network_of`.

    Returns:
        float
    """
    with torch.no_grad():
        return float(Product(network).body(lambda *of: _norm(network.steps, *of))) * (1 + _ROUNDING)


def _norm(steps, number, factor):
    """A bound of the spectral norm of a step, its outputs times a factor for each channel."""
    operation = steps[number].operation
    weight = operation.weight
    if factor is not None:
        weight = weight * factor.to(weight).reshape(-1, *[1] * (weight.dim() - 1))
    if not isinstance(operation, Convolution):
        return matrix_norm(weight)
    size = steps[steps[number].inputs[0]].shape[1:]
    layer = operation.layer
    return convolution_norm(
        weight, operation.stride, operation.padding, size, dilation=layer.dilation, groups=layer.groups
    )


def distances(weight):
    r""":math:`\|w_i - w_j\|` of all pairs of rows, differentiable also where two rows are the same."""
    squares = (weight[:, None] - weight).square().sum(-1)
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0)
