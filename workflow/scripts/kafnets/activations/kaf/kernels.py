"""The one-dimensional kernels of a KAF, each a function of the offset u = x - d.

A kernel is written once here, with its derivatives, for `functional.kaf_plain` and the portable backend.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

# A finite stand-in for infinity: its square still fits float32, and no Gaussian is left there.
FAR = 1e18


class Kernel(NamedTuple):
    """A kernel kappa(u; gamma), its two partial derivatives and the second one by u, all elementwise."""

    value: Callable
    by_offset: Callable
    by_bandwidth: Callable | None  # None: the kernel has no bandwidth
    by_offset_twice: Callable


def _gaussian(u, gamma):
    return torch.exp(-gamma * (u * u))  # the CPU's square() of float16 is ten times slower


def _gaussian_by_offset(u, gamma):
    u = u.clamp(-FAR, FAR)  # 0 rather than inf * 0 where x is infinite
    return _gaussian(u, gamma) * u * (-2 * gamma)


def _gaussian_by_offset_twice(u, gamma):
    u = u.clamp(-FAR, FAR)
    square = gamma * (u * u)
    return torch.exp(-square) * (4 * square - 2) * gamma


def _gaussian_by_bandwidth(u, gamma):
    u = u.clamp(-FAR, FAR)
    return -_gaussian(u, gamma) * u.square()


def _softplus_by_offset_twice(u, gamma):
    slope = torch.sigmoid(u)
    return slope * (1 - slope)


def _step(u, gamma):
    return torch.where(u <= 0, 0.0, 1.0).to(u.dtype)


KERNELS = {
    "gaussian": Kernel(_gaussian, _gaussian_by_offset, _gaussian_by_bandwidth, _gaussian_by_offset_twice),
    "relu": Kernel(lambda u, gamma: F.relu(u), _step, None, lambda u, gamma: torch.zeros_like(u)),
    "softplus": Kernel(
        lambda u, gamma: F.softplus(u),
        lambda u, gamma: torch.sigmoid(u),
        None,
        _softplus_by_offset_twice,
    ),
}
