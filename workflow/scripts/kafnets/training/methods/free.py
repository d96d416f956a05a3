"""Free adversarial training: one backward pass moves the weights and the perturbation."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class Free(Method):
    r"""The mean cross-entropy under a perturbation that is carried on from update to update.

    Each batch is replayed `replays` times. A replay updates the weights on
    :math:`\mathrm{clip}(x + \delta, 0, 1)`, and
    :math:`\delta \leftarrow \mathrm{clip}(\delta + \epsilon\,\mathrm{sign}\,\nabla_\delta \ell, -\epsilon,
    \epsilon)` with the gradient of the same pass, so that :math:`x + \delta` stays in [0, 1]. The next batch
    begins with the :math:`\delta` of the last. All replays of a batch have one learning rate.

    Args:
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        replays (int): updates of the weights by one batch; a training needs as many times fewer epochs.

    Sources: A. Shafahi et al., NeurIPS 2019, arXiv:1904.12843; the clipping: the code of E. Wong et al.
    """

    eps: float
    replays: int = 8
    single_step = True

    @property
    def updates_per_batch(self):
        return self.replays

    def initial_state(self, images):
        return {"delta": torch.zeros_like(images)}

    def craft(self, network, images, labels, state):
        return (images + state["delta"][: len(images)]).clamp_(0, 1)

    def objective(self, network, images, labels, crafted, state):
        perturbed = crafted.detach().requires_grad_()
        logits = network(perturbed)

        def move():
            delta = state["delta"][: len(images)]
            delta.add_(self.eps * perturbed.grad.sign()).clamp_(-self.eps, self.eps)
            delta.copy_((images + delta).clamp_(0, 1) - images)

        return Update(functional.cross_entropy(logits, labels), logits, crafted, move)
