"""Fast adversarial training ("fast is better than free")."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class FBF(Method):
    r"""The mean cross-entropy after one FGSM step from a random start.

    :math:`\delta \sim U(-\epsilon, \epsilon)`, then
    :math:`\delta \leftarrow \mathrm{clip}(\delta + \alpha\,\mathrm{sign}\,\nabla_\delta \ell(x + \delta),
    -\epsilon, \epsilon)`; the update is made on :math:`\mathrm{clip}(x + \delta, 0, 1)`. Both passes are in
    training mode: batch statistics, and the running averages are updated by each.

    Args:
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        step (float): the step :math:`\alpha` in the same units; the reference takes 1.25 eps.

    Source: E. Wong, L. Rice and J. Z. Kolter, ICLR 2020, algorithm 3.
    """

    eps: float
    step: float
    single_step = True

    def craft(self, network, images, labels, state):
        delta = torch.empty_like(images).uniform_(-self.eps, self.eps)
        gradient = network.input_gradient(
            lambda perturbed: functional.cross_entropy(network(perturbed), labels), images + delta
        )
        delta = delta.add_(gradient.sign(), alpha=self.step).clamp_(-self.eps, self.eps)
        return (images + delta).clamp_(0, 1)

    def objective(self, network, images, labels, crafted, state):
        logits = network(crafted)
        return Update(functional.cross_entropy(logits, labels), logits, crafted)
