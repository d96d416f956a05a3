"""MART: misclassification-aware adversarial training."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from . import crafting
from .base import Method, Update

# Of the reference: keeps the logarithm of what the other classes leave finite.
_MARGIN = 1.0001


@dataclass(frozen=True, kw_only=True)
class MART(Method):
    r"""The boosted cross-entropy of the attacked image, and a divergence that counts where the image is hard.

    .. math::
        \mathrm{CE}(f(x'), y) - \log(1.0001 - \max_{j \ne y} p_j(x'))
        + \beta\,(1 - p_y(x))\,\mathrm{KL}(p(x)\,\|\,p(x'))

    means over the batch; :math:`x'` climbs the cross-entropy in `iterations` steps from
    :math:`x + 0.001\,N(0, 1)`. The running averages see both images.

    Args:
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        step (float): of one step, in the same units.
        iterations (int): steps.
        beta (float): weight of the divergence; the reference's script takes 5, its function 6.
        crafting_mode (str): of the network during the steps: "eval" (the reference) or "train".

    Source: Y. Wang et al., ICLR 2020; the authors' code.
    """

    eps: float
    step: float
    iterations: int = 10
    beta: float = 5.0
    crafting_mode: str = "eval"

    def craft(self, network, images, labels, state):
        def loss(perturbed):
            return functional.cross_entropy(network(perturbed), labels)

        start = crafting.nearby(images)
        with network.mode(self.crafting_mode):
            return crafting.ascend(
                network, images, loss, start, eps=self.eps, step=self.step, iterations=self.iterations
            )

    def objective(self, network, images, labels, crafted, state):
        clean, moved = network(images), network(crafted)
        is_label = functional.one_hot(labels, moved.shape[1]).bool()
        rival = moved.softmax(1).masked_fill(is_label, 0).amax(1)
        boosted = functional.cross_entropy(moved, labels) - torch.log(_MARGIN - rival).mean()
        unsure = 1 - clean.softmax(1).gather(1, labels[:, None])[:, 0]
        weighted = (crafting.divergence(moved, clean) * unsure).mean()
        return Update(boosted + self.beta * weighted, moved, crafted)
