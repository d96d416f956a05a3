"""Training on images with Gaussian noise, for randomised smoothing."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class Gaussian(Method):
    r"""The mean cross-entropy on :math:`x + \epsilon`, :math:`\epsilon \sim N(0, \sigma^2 I)`, not clipped.

    Args:
        sigma (float): in units of the pixel range [0, 1].

    Source: J. Cohen, E. Rosenfeld and J. Z. Kolter, ICML 2019, arXiv:1902.02918.
    """

    sigma: float

    def craft(self, network, images, labels, state):
        return images + self.sigma * torch.randn_like(images)

    def objective(self, network, images, labels, crafted, state):
        logits = network(crafted)
        return Update(functional.cross_entropy(logits, labels), logits, crafted)
