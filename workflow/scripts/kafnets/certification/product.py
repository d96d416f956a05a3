r"""The Lipschitz constant of a network in the L2 norm, as a product over its steps.

The constant of a composition is at most the product of the constants, that of a sum at most their sum. What
is a factor for each channel is taken into the layer before it: of a normalisation its scale, of an activation
:math:`\sup |f_c'|`, since :math:`\|f(y) - f(y')\| \le \|\mathrm{diag}(\sup |f_c'|)\,(y - y')\|`.
"""

import math

import torch

from ..activations import is_elementwise
from ..activations.kaf import slopes
from ..activations.kaf.layer import KAF
from ..activations.kaf.one_lipschitz import LipschitzKAF, LipschitzKAFWithBase
from ..activations.kaf.with_base import KAFWithBase
from ..activations.sorting import MaxMin
from .activations import bounds_of
from .operations import (
    Activation,
    Addition,
    Averaging,
    Convolution,
    Dense,
    Dropping,
    MaxPooling,
    Reshaping,
    Scaling,
    Selection,
)
from .spectral import pair

_KNOWN = Convolution | Dense | Scaling | Addition | Dropping | MaxPooling | Reshaping | Selection


class Product:
    """The constants of a network's steps, as functions of its images.

    Args:
        network (Network): whose steps they are of.
        steepest (callable, optional): the steepest slopes of an activation layer. Default: :func:`proved`

    Raises:
        ValueError: for a step of which none is known, or a last layer that is not dense.
    """

    def __init__(self, network, steepest=None):
        self.steps, self.steepest = network.steps, steepest or proved
        self.readers = [0] * len(self.steps)
        for step in self.steps:
            for number in step.inputs:
                self.readers[number] += 1
        if not isinstance(self.steps[-1].operation, Dense):
            raise ValueError("model: its last layer must be dense, for a constant of each pair of logits")
        device = self.steps[-1].operation.weight.device
        # those that no training changes: a CUDA graph could not hold their way to the device
        self.fixed = {}
        for number, step in enumerate(self.steps[1:], 1):
            operation = step.operation
            if isinstance(operation, Activation):
                steepest = self.steepest(operation.layer).to(device)
                if not list(operation.layer.parameters()):
                    self.fixed[number] = steepest
            elif isinstance(operation, Averaging):
                self.fixed[number] = _averaging_norm(operation, self.steps[step.inputs[0]].shape)
            elif not isinstance(operation, _KNOWN):
                raise ValueError(f"model: no Lipschitz constant is known of {step.name}")

    def body(self, norm):
        """The constant of what the last layer is given.

        Args:
            norm (callable): called as norm(number, factor) with the number of a step that is a convolution or
                a dense layer; the spectral norm of its linear part, its outputs times `factor` (C) or None.
        """
        self.norm, self.found = norm, {}
        for number, readers in enumerate(self.readers):
            if readers > 1:  # needed anyway; from block to block the recursion would be deep
                self._of(number)
        return self._of(self.steps[-1].inputs[0])

    def _of(self, number, factor=None):
        """The constant of a step's result times a factor for each channel."""
        if factor is not None and self.readers[number] > 1:  # known for all readers, or soon
            return _largest(factor) * self._of(number)
        if factor is None and number in self.found:
            return self.found[number]
        constant = self._through(number, self.steps[number].operation, factor)
        if factor is None:
            self.found[number] = constant
        return constant

    def _through(self, number, operation, factor):
        inputs = self.steps[number].inputs
        if operation is None:
            return _largest(factor)
        if isinstance(operation, Convolution | Dense):
            return self.norm(number, factor) * self._of(inputs[0])
        if isinstance(operation, Scaling):
            return self._of(inputs[0], _times(factor, operation.factors()[0].abs()))
        if isinstance(operation, Activation):
            steepest = self.fixed[number] if number in self.fixed else self.steepest(operation.layer)
            if not is_elementwise(operation.layer):  # what is in a channel may come from another
                return _largest(factor) * _largest(steepest) * self._of(inputs[0])
            return self._of(inputs[0], _times(factor, steepest))
        if isinstance(operation, Addition):
            return sum(self._of(one, factor) for one in inputs)
        if isinstance(operation, Dropping):
            return self._of(inputs[0], factor)
        if isinstance(operation, MaxPooling):
            return _overlap(operation.layer) ** 0.5 * _largest(factor) * self._of(inputs[0])
        if isinstance(operation, Reshaping | Selection):  # numbers change places, and channels
            return _largest(factor) * self._of(inputs[0])
        return self.fixed[number] * self._of(inputs[0], factor)  # a mean, of each channel for itself


def proved(layer):
    r""":math:`\sup |f_c'|` of an activation layer, :math:`(C)` or :math:`(1)`, float64.

    Raises:
        ValueError: for a layer of which none is known, such as k-WTA, which is not continuous.
    """
    if isinstance(layer, MaxMin):
        return torch.ones(1, dtype=torch.float64)
    return bounds_of(layer).lipschitz()


def in_training(layer):
    """As :func:`proved`, but of KAFs differentiable and without waiting for the device."""
    if isinstance(layer, LipschitzKAF | LipschitzKAFWithBase):
        return torch.ones(1, dtype=torch.float64, device=layer.alpha.device)
    if isinstance(layer, KAFWithBase) and layer.tails == "zero":
        weight = layer.weight.expand(layer.channels)
        return slopes.steepest(*layer.mixture(), _points(layer), weight, layer.base)
    if type(layer) is KAF and layer.kernel == "gaussian":
        return slopes.steepest(*layer.mixture(), _points(layer))
    return proved(layer)


def _points(layer):
    return slopes.points_needed(layer.boundary, layer._gamma)


def _largest(factor):
    return 1.0 if factor is None else factor.amax()


def _times(factor, other):
    return other if factor is None else factor * other


def _overlap(layer):
    """In how many windows of a maximum pooling a number is, at most."""
    pairs = (pair(one) for one in (layer.kernel_size, layer.stride, layer.dilation))
    count = 1
    for size, stride, apart in zip(*pairs, strict=True):
        # those of a window's places that are in the number's own place for windows a stride apart
        count *= -(-size // (stride // math.gcd(stride, apart)))
    return count


def _averaging_norm(operation, shape):
    r"""Of a matrix without negative numbers: the root of the largest row sum times the largest column sum."""
    ones = torch.ones(1, *shape, dtype=torch.float64)
    means = operation.linear(ones)
    back = operation.transposed(torch.ones_like(means), shape)
    return float(means.max() * back.max()) ** 0.5
