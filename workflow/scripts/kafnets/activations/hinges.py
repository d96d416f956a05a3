"""Sums of hinges: adaptive piecewise linear units (APL), SPLASH and Maxout."""

from numbers import Real

import torch
from torch import nn

from .base import Learned, is_count, require


class APL(Learned):
    r"""Adaptive piecewise linear unit.

    .. math:: f(x) = \max(0, x) + \sum_{s=1}^{S} a_s \max(0, b_s - x)

    In the original each neuron (channel and place) has its own; here each channel does. Its weight decay is
    the authors', 0.001.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"channel"``
        hinges: :math:`S`, 1 to 100. At the start :math:`a_s \sim U(-1/2S, 1/2S)`,
            :math:`b_s \sim N(0, 1/4)`. Default: 5

    Source: Agostinelli, Hoffman, Sadowski & Baldi 2014, arXiv:1412.6830.
    """

    def __init__(self, channels, share="channel", hinges=5):
        super().__init__(channels, share)
        require(is_count(hinges, 1, 100), "hinges", "an integer from 1 to 100", hinges)
        self.hinges = int(hinges)
        self.hold("a", self.hinges)
        self.hold("b", self.hinges)
        self.reset_parameters()

    def reset_parameters(self):
        """Draws slopes and places anew."""
        nn.init.uniform_(self.a, -0.5 / self.hinges, 0.5 / self.hinges)
        nn.init.normal_(self.b, std=0.5)

    def curve(self, x, a, b):
        y = x.relu()
        for s in range(self.hinges):
            y = y + a[..., s] * (b[..., s] - x).relu()
        return y

    def extra_repr(self):
        return f"{super().extra_repr()}, hinges={self.hinges}"


class SPLASH(Learned):
    r"""Piecewise linear with fixed, symmetric hinges.

    .. math:: f(x) = \sum_s a^+_s \max(0, x - b_s) + a^-_s \max(0, -x - b_s)

    It starts as ReLU and needs inputs of unit scale, as behind a batch normalisation.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"layer"``
        hinges: the :math:`b_s`, growing from 0. Default: (0, 1, 2, 2.5)

    Source: Tavakoli, Agostinelli & Baldi 2021, arXiv:2006.08947.
    """

    def __init__(self, channels, share="layer", hinges=(0.0, 1.0, 2.0, 2.5)):
        super().__init__(channels, share)
        numbers = isinstance(hinges, list | tuple) and all(
            isinstance(b, Real) and not isinstance(b, bool) for b in hinges
        )
        grow = numbers and len(hinges) > 0 and hinges[0] == 0 and sorted(set(hinges)) == list(hinges)
        require(grow and hinges[-1] < 1e6, "hinges", "numbers that grow from 0 to less than 1e6", hinges)
        self.hinges = tuple(float(b) for b in hinges)
        self.hold("right", len(self.hinges))
        self.hold("left", len(self.hinges))
        self.reset_parameters()

    def reset_parameters(self):
        """Starts as ReLU."""
        nn.init.zeros_(self.left)
        nn.init.zeros_(self.right)
        with torch.no_grad():
            self.right[:, 0] = 1

    def curve(self, x, right, left):
        y = 0
        for s, b in enumerate(self.hinges):
            y = y + right[..., s] * (x - b).relu() + left[..., s] * (-x - b).relu()
        return y

    def extra_repr(self):
        return f"{super().extra_repr()}, hinges={self.hinges}"


class Maxout(Learned):
    r"""The largest of some affine functions of a channel's value.

    .. math:: f(x) = \max_{j \le k}\; a_j x + b_j

    The original's linear maps are of all channels, so that every convolution becomes k times as wide. An
    activation that leaves the network's widths as they are can have maps of its own channel only: 2k numbers
    a channel, convex in each. It starts as ReLU, :math:`a_j` evenly from 0 to 1.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"channel"``
        pieces: :math:`k`, 2 to 100. Default: 2

    Source: Goodfellow, Warde-Farley, Mirza, Courville & Bengio 2013, arXiv:1302.4389.
    """

    def __init__(self, channels, share="channel", pieces=2):
        super().__init__(channels, share)
        require(is_count(pieces, 2, 100), "pieces", "an integer from 2 to 100", pieces)
        self.pieces = int(pieces)
        self.hold("slope", self.pieces)
        self.hold("offset", self.pieces)
        self.reset_parameters()

    def reset_parameters(self):
        """Starts as ReLU."""
        nn.init.zeros_(self.offset)
        with torch.no_grad():
            self.slope.copy_(torch.linspace(0, 1, self.pieces).expand_as(self.slope))

    def curve(self, x, slope, offset):
        y = slope[..., 0] * x + offset[..., 0]
        for j in range(1, self.pieces):
            other = slope[..., j] * x + offset[..., j]
            y = torch.where(other > y, other, y)
        return y

    def extra_repr(self):
        return f"{super().extra_repr()}, pieces={self.pieces}"
