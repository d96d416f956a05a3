"""GradAlign: one FGSM step, and a penalty for a gradient that turns within the ball."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class GradAlign(Method):
    r"""The mean cross-entropy after one FGSM step from the image itself, and a penalty.

    .. math::
        \lambda\,(1 - \cos(\nabla \ell(x), \nabla \ell(x + \eta))), \quad \eta \sim U(-\epsilon, \epsilon)

    The cosine is the mean over the images both of whose gradients are not zero. Only the second gradient is
    differentiated, as in the authors' code; the first is that of the FGSM step. All passes are in training
    mode.

    Args:
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        step (float, optional): of the FGSM step, in the same units; what leaves the ball is clipped.
            Default: 1.25 eps, the whole radius
        weight (float, optional): :math:`\lambda`. Default: the authors' fit,
            :math:`0.02 \cdot 10^{\epsilon / (8/255)}`, 0.2 at 8/255

    Source: M. Andriushchenko and N. Flammarion, NeurIPS 2020, arXiv:2007.02617.
    """

    eps: float
    step: float | None = None
    weight: float | None = None
    single_step = True
    twice_differentiated = True

    def craft(self, network, images, labels, state):
        """The perturbed images, and the gradient at the unperturbed ones."""
        gradient = network.input_gradient(
            lambda given: functional.cross_entropy(network(given), labels), images
        )
        step = min(1.25 * self.eps if self.step is None else self.step, self.eps)
        return (images + step * gradient.sign()).clamp_(0, 1), gradient

    def objective(self, network, images, labels, crafted, state):
        perturbed, gradient = crafted
        logits = network(perturbed)
        near = images + torch.empty_like(images).uniform_(-self.eps, self.eps)
        near.requires_grad_()
        loss = network.scale(functional.cross_entropy(network(near), labels))
        (other,) = torch.autograd.grad(loss, near, create_graph=True)
        turned = 1 - _mean_cosine(gradient.flatten(1), other.flatten(1))
        loss = functional.cross_entropy(logits, labels) + self._weight() * turned
        return Update(loss, logits, perturbed)

    def _weight(self):
        if self.weight is not None:
            return self.weight
        return 0.02 * math.exp(self.eps * 255 / 8 * math.log(10))


def _mean_cosine(one, other):
    """The mean cosine of the rows, :math:`(N, K)`, of which neither is zero; 1 where there are none."""
    # divided by their largest entries first: gradients are as small as 1e-20, and their squares no numbers
    one, other = (_scaled(rows) for rows in (one, other))
    lengths = [(rows.detach() != 0).any(1) for rows in (one, other)]
    both = lengths[0] & lengths[1]
    safe = [torch.where(both[:, None], rows, torch.ones_like(rows)) for rows in (one, other)]
    cosines = (safe[0] * safe[1]).sum(1) / (safe[0].norm(dim=1) * safe[1].norm(dim=1))
    counted = both.sum()
    mean = torch.where(both, cosines, 0).sum() / counted.clamp(min=1)
    return torch.where(counted > 0, mean, 1.0)


def _scaled(rows):
    largest = rows.detach().abs().amax(1, keepdim=True)
    return rows / torch.where(largest > 0, largest, 1.0)
