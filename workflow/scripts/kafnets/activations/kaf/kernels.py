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
    """A kernel kappa(u; gamma) and its two partial derivatives, all elementwise."""

    value: Callable
    by_offset: Callable
    by_bandwidth: Callable | None  # None: the kernel has no bandwidth


def _gaussian(u, gamma):
    return torch.exp(-gamma * (u * u))  # the CPU's square() of float16 is ten times slower


def _gaussian_by_offset(u, gamma):
    u = u.clamp(-FAR, FAR)  # 0 rather than inf * 0 where x is infinite
    return _gaussian(u, gamma) * u * (-2 * gamma)


def _gaussian_by_bandwidth(u, gamma):
    u = u.clamp(-FAR, FAR)
    return -_gaussian(u, gamma) * u.square()


def _step(u, gamma):
    return torch.where(u <= 0, 0.0, 1.0).to(u.dtype)


KERNELS = {
    "gaussian": Kernel(_gaussian, _gaussian_by_offset, _gaussian_by_bandwidth),
    "relu": Kernel(lambda u, gamma: F.relu(u), _step, None),
    "softplus": Kernel(lambda u, gamma: F.softplus(u), lambda u, gamma: torch.sigmoid(u), None),
}
