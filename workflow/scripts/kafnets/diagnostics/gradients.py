"""The gradient with respect to the pixels: whether it is there, where it leads, what it looks like."""

import torch
from torch.nn import functional

from ..attacks.base import frozen

GRID = 15  # points of a side of a landscape


def loss_gradients(model, images, labels, batch_size):
    """The gradient of the cross-entropy with respect to the pixels, (N, ...), and the loss, (N,)."""
    gradients, losses = [], []
    with frozen(model):
        for pixels, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            pixels = pixels.clone().requires_grad_()
            loss = functional.cross_entropy(model(pixels), targets, reduction="none")
            gradients.append(torch.autograd.grad(loss.sum(), pixels)[0])
            losses.append(loss.detach())
    return torch.cat(gradients), torch.cat(losses)


def losses(model, images, labels, batch_size):
    """The cross-entropy of each image, (N,)."""
    with frozen(model), torch.no_grad():
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return torch.cat([functional.cross_entropy(model(x), y, reduction="none") for x, y in parts])


def random_signs(images, seed):
    """-1 or 1 for every pixel and colour, (N, ...); the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, images.shape, generator=generator, dtype=torch.int8) * 2 - 1
    return signs.to(images)


def rising(model, images, labels, gradients, before, step, batch_size, seed=0):
    """(N,) bool: a step along the gradient's signs raises the loss, and more than one along random signs."""
    along = losses(model, (images + step * gradients.sign()).clamp(0, 1), labels, batch_size)
    aside = losses(model, (images + step * random_signs(images, seed)).clamp(0, 1), labels, batch_size)
    # without a gradient there is no step, and rounding alone may raise the loss
    return (along > before) & (along > aside) & (gradients != 0).flatten(1).any(1)


def alignments(model, images, batch_size):
    r"""How much the gradient looks like the image, (N,).

    .. math:: \alpha(x) = \frac{|\langle x, \nabla \Psi(x) \rangle|}{\|\nabla \Psi(x)\|}

    :math:`\Psi` is the largest logit. In the units of the image's own L2 norm, which it cannot exceed; 0
    where there is no gradient.

    Source: Etmann, Lunz, Maass & Schönlieb 2019, arXiv:1905.04172, definition 4.
    """
    found = []
    with frozen(model):
        for pixels in images.split(batch_size):
            pixels = pixels.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model(pixels).amax(1).sum(), pixels)
            product = (pixels.detach() * gradient).flatten(1).sum(1).abs()
            length = gradient.flatten(1).norm(dim=1)
            found.append(torch.where(length > 0, product / length, 0.0))
    return torch.cat(found)


def landscape(model, images, labels, gradients, eps, batch_size, seed=0):
    """The loss around each image, in the plane of the gradient's signs and of random signs.

    Returns:
        (N, GRID, GRID): the cross-entropy at x + a sign(gradient) + b random signs, clipped to [0, 1]; a from
        -eps to eps along the last dimension, b along the one before.
    """
    ticks = torch.linspace(-eps, eps, GRID, device=images.device).tolist()
    up, aside = gradients.sign(), random_signs(images, seed)
    rows = [
        [losses(model, (images + a * up + b * aside).clamp(0, 1), labels, batch_size) for a in ticks]
        for b in ticks
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
