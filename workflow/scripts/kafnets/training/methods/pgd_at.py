"""Adversarial training with projected gradient descent."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from . import crafting
from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Method):
    r"""The mean cross-entropy after several steps of PGD from a random start.

    :math:`x_0 = \mathrm{clip}(x + U(-\epsilon, \epsilon), 0, 1)`, then `iterations` steps
    :math:`x_{k+1} = \Pi(x_k + s\,\mathrm{sign}\,\nabla \ell(x_k))` into the ball and [0, 1].

    Args:
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        step (float): of one step, in the same units.
        iterations (int): steps.
        crafting_mode (str): of the network during these steps: "train" (the code of Rice et al.) or "eval"
            (T. Pang et al., ICLR 2021, section 3.7, find it a little better).

    Sources: A. Madry et al., ICLR 2018, arXiv:1706.06083; the recipe: L. Rice, E. Wong and J. Z. Kolter,
    ICML 2020, arXiv:2002.11569.
    """

    eps: float
    step: float
    iterations: int = 10
    crafting_mode: str = "train"

    def craft(self, network, images, labels, state):
        start = (images + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp_(0, 1)

        def loss(perturbed):
            return functional.cross_entropy(network(perturbed), labels)

        with network.mode(self.crafting_mode):
            return crafting.ascend(
                network, images, loss, start, eps=self.eps, step=self.step, iterations=self.iterations
            )

    def objective(self, network, images, labels, crafted, state):
        logits = network(crafted)
        return Update(functional.cross_entropy(logits, labels), logits, crafted)
