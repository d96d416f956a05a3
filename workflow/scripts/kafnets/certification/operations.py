"""What a step of a network computes, in the forms that proofs need.

An affine step :math:`x \\mapsto W x + b` also applies :math:`W` alone, :math:`|W|` (to radii) and
:math:`W^\\top` (to the coefficients of linear bounds). Parameters are read when they are needed, so that a
network that is being trained can be walked, too. Images come first: :math:`(N, \\ldots)`.
"""

import functools
import math

import torch
from torch import nn
from torch.nn import functional

from ..activations.sorting import MaxMin
from .activations import bounds_of
from .spectral import pair


class Affine:
    r"""Base class of :math:`W x + b`.

    Attributes:
        terms (int): products that are added up for one output, at most, the offset among them; rounding grows
            with them. 0 where nothing is computed.
    """

    terms = 1

    def __call__(self, x):
        """:math:`W x + b`."""
        return self.linear(x) + self.offset()

    def linear(self, x):
        """:math:`W x`."""
        raise NotImplementedError

    def offset(self):
        """:math:`b`, in a shape that is added to the outputs; 0 where there is none."""
        return 0.0

    def spread(self, radius):
        """:math:`|W| r`, of radii that are not negative."""
        raise NotImplementedError

    def offset_size(self):
        """What the network itself adds up to the offset, in absolute values: rounding grows with it."""
        offset = self.offset()
        return offset.abs() if isinstance(offset, torch.Tensor) else offset

    def transposed(self, rows, shape):
        r""":math:`W^\top y`.

        Args:
            rows (Tensor): :math:`y`, in the shape of outputs.
            shape (sequence of int): of one input.
        """
        x = torch.zeros(len(rows), *shape, dtype=rows.dtype, device=rows.device, requires_grad=True)
        with torch.enable_grad():
            return torch.autograd.grad(self.linear(x), x, rows)[0]


class _Layered(Affine):
    """A layer with weights; its offset may be the sum of larger numbers, of a normalisation folded into it.

    Attributes:
        folded (Tensor): :math:`(C)`, these numbers' absolute values added up; None where nothing is folded.
    """

    folded = None

    def __init__(self, layer):
        self.layer = layer

    @property
    def weight(self):
        return self.layer.weight

    def shaped(self, values):
        """:math:`(C)` values in a shape that goes with outputs."""
        return values

    def offset(self):
        return 0.0 if self.layer.bias is None else self.shaped(self.layer.bias)

    def offset_size(self):
        return super().offset_size() if self.folded is None else self.shaped(self.folded)


class Convolution(_Layered):
    """A convolution, with the zeros around its input said for each side.

    Args:
        layer (nn.Conv2d): whose weight and bias it has.
        padding (tuple of 4 ints): zeros left, right, above and below the input.
    """

    def __init__(self, layer, padding):
        super().__init__(layer)
        self.padding, self.terms = padding, layer.weight[0].numel() + 1

    @property
    def stride(self):
        return self.layer.stride

    def linear(self, x):
        return self._convolved(x, self.weight)

    def spread(self, radius):
        return self._convolved(radius, self.weight.abs())

    def _convolved(self, x, weight):
        return functional.conv2d(functional.pad(x, self.padding), weight, None, **self._geometry())

    def _geometry(self):
        return {"stride": self.stride, "dilation": self.layer.dilation, "groups": self.layer.groups}

    def shaped(self, values):
        return values[:, None, None]

    def transposed(self, rows, shape):
        left, right, above, below = self.padding
        size = (len(rows), shape[0], shape[1] + above + below, shape[2] + left + right)
        padded = nn.grad.conv2d_input(size, self.weight, rows, **self._geometry())
        return functional.pad(padded, (-left, -right, -above, -below))


class Dense(_Layered):
    """A dense layer of vectors.

    Args:
        layer (nn.Linear): whose weight and bias it has.
    """

    def __init__(self, layer):
        super().__init__(layer)
        self.terms = layer.in_features + 1

    def linear(self, x):
        return functional.linear(x, self.weight)

    def spread(self, radius):
        return functional.linear(radius, self.weight.abs())

    def transposed(self, rows, shape):
        return rows @ self.weight


class Scaling(Affine):
    """A scale and a shift for each channel (dimension 1).

    Args:
        dimensions (int): of one input: 1 for vectors, 3 for images.
    """

    terms = 2

    def __init__(self, dimensions):
        self.ones = (1,) * (dimensions - 1)

    def factors(self):
        """The scale and the shift, :math:`(C)` each."""
        raise NotImplementedError

    def shaped(self, values):
        """:math:`(C)` values in a shape that goes with inputs."""
        return values.reshape(-1, *self.ones)

    def linear(self, x):
        return self.shaped(self.factors()[0]) * x

    def spread(self, radius):
        return self.shaped(self.factors()[0].abs()) * radius

    def offset(self):
        return self.shaped(self.factors()[1])

    def offset_size(self):
        return self.shaped(self.shift_size())

    def shift_size(self):
        """:math:`(C)`: the absolute values of the numbers that the shift is the sum of, added up."""
        return self.factors()[1].abs()

    def transposed(self, rows, shape):
        return self.linear(rows)


class Normalisation(Scaling):
    r"""A batch normalisation with its running statistics.

    .. math:: \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}}\,(x - \mu) + \beta

    Args:
        layer (nn.BatchNorm1d or nn.BatchNorm2d): with running statistics.
        dimensions (int): of one input.
    """

    def __init__(self, layer, dimensions):
        super().__init__(dimensions)
        self.layer = layer

    def factors(self, mean=None, variance=None):
        """As of :class:`Scaling`; with other statistics where they are given."""
        layer = self.layer
        mean = layer.running_mean if mean is None else mean
        scale = ((layer.running_var if variance is None else variance) + layer.eps).rsqrt()
        if layer.weight is not None:
            scale = scale * layer.weight
        shift = -mean * scale
        return scale, shift if layer.bias is None else shift + layer.bias

    def shift_size(self):
        size = (self.layer.running_mean * self.factors()[0]).abs()
        return size if self.layer.bias is None else size + self.layer.bias.abs()


class Standardisation(Scaling):
    """(x - mean) / std of the images' channels.

    Args:
        layer (kafnets.models.resnet.Normalize)
        dimensions (int): of one input.
    """

    def __init__(self, layer, dimensions):
        super().__init__(dimensions)
        self.layer = layer

    def factors(self):
        scale = 1 / self.layer.std.flatten()
        return scale, -self.layer.mean.flatten() * scale


class Nonnegative(Affine):
    """A linear function without negative weights and without an offset, so that :math:`|W| = W`."""

    def spread(self, radius):
        return self.linear(radius)


class Averaging(Nonnegative):
    """Means over rows and columns, of all or of windows.

    Args:
        function (callable): computes them.
        terms (int): numbers that one mean is of, at most.
    """

    def __init__(self, function, terms):
        self.linear, self.terms = function, terms


class Selection(Nonnegative):
    """Every output is one of the inputs, or zero; none is taken twice.

    Args:
        function (callable): computes it.
    """

    terms = 0

    def __init__(self, function):
        self.linear = function


class Reshaping(Nonnegative):
    """The same numbers in another shape.

    Args:
        shape (sequence of int): of one output.
    """

    terms = 0

    def __init__(self, shape):
        self.shape = tuple(shape)

    def linear(self, x):
        return x.reshape(len(x), *self.shape)

    def transposed(self, rows, shape):
        return rows.reshape(len(rows), *shape)


class Addition:
    """The sum of the results of two steps, or of one with itself."""

    def __call__(self, x, y):
        return x + y


class MaxPooling:
    """The largest number of each window.

    Args:
        layer (nn.MaxPool2d): which does not return indices.
    """

    def __init__(self, layer):
        self.layer = layer

    # no output falls where an input rises
    rises = True

    def __call__(self, x):
        return self.layer(x)

    def windows(self, x):
        r"""What each maximum is of, :math:`(N, C, H', W', K)`; padding is :math:`-\infty`."""
        layer = self.layer
        (rows, columns), (down, right), (above, left), (apart, beside) = (
            pair(value) for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )
        x = functional.pad(x, (left, left, above, above), value=-math.inf)
        below, beyond = apart * (rows - 1) + 1, beside * (columns - 1) + 1
        x = x.unfold(2, below, down).unfold(3, beyond, right)
        return x[..., ::apart, ::beside].flatten(-2)


class Activation:
    """An activation layer, elementwise or not.

    Args:
        layer (nn.Module): the layer itself.
    """

    def __init__(self, layer):
        self.layer = layer

    @functools.cached_property
    def bounds(self):
        """Its bounds with the parameters that it has when they are first asked for."""
        return bounds_of(self.layer)

    @property
    def rises(self):
        """Whether no output falls where an input rises: then the ends of intervals are mapped to the ends."""
        return isinstance(self.layer, MaxMin)

    def __call__(self, x):
        return self.layer(x)


class Dropping:
    """A dropout of a network in training mode; one that is only evaluated has none.

    Args:
        layer (nn.Module): the layer itself.
    """

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)
