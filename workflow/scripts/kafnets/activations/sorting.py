"""Activations that are no function of one number: MaxMin and k-winners-take-all."""

import torch
from torch import nn

from .base import is_count, require, require_between


class MaxMin(nn.Module):
    r"""The larger and the smaller of two neighbouring channels (GroupSort with groups of 2).

    .. math:: (y_{2c}, y_{2c+1}) = (\max(x_{2c}, x_{2c+1}),\; \min(x_{2c}, x_{2c+1}))

    It has no parameters, leaves the width as it is, is 1-Lipschitz and keeps the norm of the gradient.

    Args:
        channels: an even number.

    Raises:
        ValueError: for an odd number of channels.

    Source: Anil, Lucas & Grosse 2019, arXiv:1811.05381.
    """

    elementwise = False

    def __init__(self, channels):
        super().__init__()
        require(is_count(channels, 2) and channels % 2 == 0, "channels", "a positive even integer", channels)
        self.channels = int(channels)

    def forward(self, x):
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise ValueError(f"x must be (N, {self.channels}, *), got {tuple(x.shape)}")
        first, second = x[:, ::2], x[:, 1::2]
        return torch.stack([torch.maximum(first, second), torch.minimum(first, second)], 2).flatten(1, 2)

    def extra_repr(self):
        return f"{self.channels}"


class KWinners(nn.Module):
    r"""k-winners-take-all: of all numbers of an example the k largest stay, the others become 0.

    :math:`k = \lfloor \gamma\, C H W \rfloor`, at least 1. It is discontinuous, which hides its gradient:
    what attacks by the gradient miss, attacks that estimate it find. Its networks are known not to be robust;
    an evaluation has to show it.

    Args:
        gamma: the share that stays, above 0 to 1. Default: 0.2

    Source: Xiao, Zhong & Zheng 2020, arXiv:1905.10510; broken by Tramer, Carlini, Brendel & Madry 2020,
    arXiv:2002.08347.
    """

    elementwise = False

    def __init__(self, gamma=0.2):
        super().__init__()
        require_between("gamma", gamma, 1e-9, 1)
        self.gamma = float(gamma)

    def forward(self, x):
        values = x.flatten(1)
        count = max(1, int(self.gamma * values.shape[1]))
        least = values.detach().topk(count, 1).values[:, -1]
        return torch.where(x >= least.view(-1, *[1] * (x.dim() - 1)), x, 0.0)

    def extra_repr(self):
        return f"gamma={self.gamma:g}"
