"""Looking for perturbations by several steps within a training."""

import torch
from torch.nn import functional

MODES = ("train", "eval")
# The start of TRADES and MART: a standard deviation, in units of the pixel range; in a maximum's middle the
# divergence from the unperturbed image has no gradient.
NEARBY = 0.001


def ascend(network, images, loss, start, *, eps, step, iterations):
    r""":math:`x \leftarrow \mathrm{clip}(x + s\,\mathrm{sign}\,\nabla_x \ell(x))`, into the ball and [0, 1].

    Args:
        network (.base.Network): in the mode in which the gradients are to be computed.
        images (Tensor): the centres of the balls, in [0, 1].
        loss (callable): images to a scalar, which the steps increase.
        start (Tensor): where to begin.
        eps, step (float): radius and step, in units of the pixel range.
        iterations (int): steps.

    Returns:
        Tensor: detached.
    """
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    for _ in range(iterations):
        start = start + step * network.input_gradient(loss, start).sign()
        start = torch.minimum(torch.maximum(start, low), high)
    return start


def nearby(images):
    """The images with a little Gaussian noise."""
    return images + NEARBY * torch.randn_like(images)


def divergence(logits, target):
    r""":math:`\mathrm{KL}(\mathrm{softmax}(t)\,\|\,\mathrm{softmax}(z))` of each image, :math:`(N)`.

    Args:
        logits (Tensor): :math:`z`, :math:`(N, C)`.
        target (Tensor): :math:`t`, logits too; gradients flow into both.
    """
    pointwise = functional.kl_div(
        logits.log_softmax(1), target.log_softmax(1), reduction="none", log_target=True
    )
    return pointwise.sum(1)
