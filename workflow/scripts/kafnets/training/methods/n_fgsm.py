"""N-FGSM: one step from more noise than the ball holds, without a projection."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from .fbf import FBF


@dataclass(frozen=True, kw_only=True)
class NFGSM(FBF):
    r"""The mean cross-entropy after one FGSM step from noisy images.

    :math:`z = \mathrm{clip}(x + U(-k\epsilon, k\epsilon), 0, 1)`, and the update is made on
    :math:`\mathrm{clip}(z + \alpha\,\mathrm{sign}\,\nabla \ell(z), 0, 1)`, which is not projected onto the
    ball: it may lie :math:`k\epsilon + \alpha` away. Both passes are in training mode.

    Args:
        eps (float): the radius to be robust in, in units of the pixel range [0, 1].
        step (float, optional): :math:`\alpha` in the same units. Default: eps
        noise (float): :math:`k`.

    Source: P. de Jorge et al., NeurIPS 2022, arXiv:2202.01181.
    """

    step: float | None = None
    noise: float = 2.0

    def craft(self, network, images, labels, state):
        most = self.noise * self.eps
        noisy = (images + torch.empty_like(images).uniform_(-most, most)).clamp_(0, 1)
        gradient = network.input_gradient(
            lambda perturbed: functional.cross_entropy(network(perturbed), labels), noisy
        )
        step = self.eps if self.step is None else self.step
        return (noisy + step * gradient.sign()).clamp_(0, 1)
