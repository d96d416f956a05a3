"""How the images of a training step are perturbed.

Every adversary is called as `adversary(loss, images, **settings)`, where `loss(images)` is the batch's mean
loss (times a loss scale) as a differentiable scalar, and returns the images of the weight update.
"""

import torch


def no_adversary(loss, images):
    """Standard training: the images as they are."""
    return images


def fbf(loss, images, *, eps, step):
    r"""One FGSM step from a random start ("fast is better than free").

    :math:`\delta \sim U(-\epsilon, \epsilon)`, then
    :math:`\delta \leftarrow \mathrm{clip}(\delta + \alpha\,\mathrm{sign}\,\nabla_\delta \ell(x + \delta),
    -\epsilon, \epsilon)`. The network is left in the mode it is in (training mode: batch statistics, and the
    running averages are updated by this pass too).

    Args:
        loss (callable): images to a positive multiple of the batch's summed loss, a scalar.
        images (Tensor): in [0, 1].
        eps (float): the radius of the L-infinity ball, in units of the pixel range [0, 1].
        step (float): the step :math:`\alpha` in the same units; the reference takes 1.25 eps.

    Returns:
        Tensor: :math:`\mathrm{clip}(x + \delta, 0, 1)`, detached.

    Source: E. Wong, L. Rice and J. Z. Kolter, ICLR 2020, algorithm 3.
    """
    delta = torch.empty_like(images).uniform_(-eps, eps).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(images + delta), delta)
    delta = (delta.detach() + step * gradient.sign()).clamp_(-eps, eps)
    return (images + delta).clamp_(0, 1)
