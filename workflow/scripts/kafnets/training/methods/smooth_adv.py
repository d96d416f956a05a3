"""SmoothAdv: adversarial training of the classifier that Gaussian noise makes of a network."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from ...attacks.balls import into_ball, lengths, per_image
from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Method):
    r"""The mean cross-entropy on :math:`x' + \epsilon_i`, over :math:`m` samples of noise for each image.

    :math:`x'` climbs :math:`-\log \frac{1}{m} \sum_i p_y(x' + \epsilon_i)` from :math:`x` in `iterations`
    steps of length :math:`2 r / \mathrm{iterations}` along the gradient, each brought back into the L2 ball
    of radius :math:`r` around :math:`x` and into [0, 1]; all steps and the update have the same
    :math:`\epsilon_i \sim N(0, \sigma^2 I)`. In the first epochs the radius grows in equal steps. An image
    without a gradient stays where it is (in the authors' code it moves at random).

    Args:
        sigma (float): of the noise, in units of the pixel range [0, 1].
        radius (float): :math:`r`, in the same units; the authors take 64/255 to 512/255, 0.25 to 2.
        noises (int): :math:`m`.
        iterations (int): steps.
        warm_up (int): epochs until the radius is reached.
        crafting_mode (str): of the network during the steps: "eval" (the authors' code) or "train".

    Source: H. Salman et al., NeurIPS 2019, arXiv:1906.04584, and the authors' code.
    """

    sigma: float
    radius: float
    noises: int = 2
    iterations: int = 10
    warm_up: int = 10
    crafting_mode: str = "eval"

    def initial_state(self, images):
        return {"radius": torch.zeros((), device=images.device)}

    def begin_epoch(self, epoch, state):
        state["radius"].fill_(self.radius * min(1.0, (epoch + 1) / max(self.warm_up, 1)))

    def craft(self, network, images, labels, state):
        """The perturbed images, and the noise, (m, N, C, H, W)."""
        noise = self.sigma * torch.randn(
            (self.noises, *images.shape), device=images.device, dtype=images.dtype
        )

        def loss(perturbed):
            return functional.nll_loss(self._smoothed(network(_noisy(perturbed, noise))), labels)

        perturbed, radius = images, state["radius"].to(images.dtype)
        with network.mode(self.crafting_mode):
            for _ in range(self.iterations):
                direction = _direction(network.input_gradient(loss, perturbed))
                moved = perturbed + 2 * radius / self.iterations * direction
                perturbed = into_ball(moved, images, radius, "l2")
        return perturbed, noise

    def objective(self, network, images, labels, crafted, state):
        perturbed, noise = crafted
        noisy = _noisy(perturbed, noise)
        logits = network(noisy)
        loss = functional.cross_entropy(logits, labels.repeat(self.noises))
        return Update(loss, self._smoothed(logits), noisy[: len(images)])

    def _smoothed(self, logits):
        """The logarithms of the mean probabilities, (N, classes), of logits (m N, classes)."""
        every = logits.log_softmax(1).unflatten(0, (self.noises, -1))
        return every.logsumexp(0) - math.log(self.noises)


def _noisy(images, noise):
    """Every image with every noise, (m N, C, H, W): first all images with the first noise."""
    return (images + noise).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _direction(gradient):
    """Of length 1, image by image; zero where the gradient is zero or no number."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    # by its largest entry first: gradients are as small as 1e-20, and their squares no numbers
    largest = gradient.abs().flatten(1).amax(1)
    gradient = gradient / per_image(torch.where(largest > 0, largest, 1.0), gradient)
    return gradient / lengths(gradient)
