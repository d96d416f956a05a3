"""TRADES: the loss on the images, and how far the answers move nearby."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from . import crafting
from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    r""":math:`\mathrm{CE}(f(x), y) + \beta\,\mathrm{KL}(p(x)\,\|\,p(x'))`, means over the batch.

    :math:`x'` climbs that divergence in `iterations` steps from :math:`x + 0.001\,N(0, 1)`, with
    :math:`p(x)` held fixed; in the update gradients flow through both. The running averages see both.

    Args:
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        step (float): of one step, in the same units.
        iterations (int): steps.
        beta (float): weight of the divergence; the reference takes 6 (and 1).
        crafting_mode (str): of the network during the steps: "eval" (the reference) or "train".

    Source: H. Zhang et al., ICML 2019, arXiv:1901.08573.
    """

    eps: float
    step: float
    iterations: int = 10
    beta: float = 6.0
    crafting_mode: str = "eval"

    def craft(self, network, images, labels, state):
        with network.mode(self.crafting_mode):
            with torch.no_grad():
                target = network(images)
            return crafting.ascend(
                network,
                images,
                lambda perturbed: crafting.divergence(network(perturbed), target).mean(),
                crafting.nearby(images),
                eps=self.eps,
                step=self.step,
                iterations=self.iterations,
            )

    def objective(self, network, images, labels, crafted, state):
        clean, moved = network(images), network(crafted)
        apart = crafting.divergence(moved, clean).mean()
        return Update(functional.cross_entropy(clean, labels) + self.beta * apart, moved, crafted)
