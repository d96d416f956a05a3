"""Certificates in the L-infinity norm: by intervals (IBP) and by linear bounds (CROWN)."""

import torch

from . import crown, interval
from .entry import Certificate, Certified
from .network import network_of
from .operations import Activation


class IntervalBounds(Certificate):
    r"""Radii within which no other logit can reach the label's, by interval bound propagation.

    Every image is tried at `eps`, and where that fails between 0 and `eps`: the interval that holds the
    largest certified radius is halved `steps` times, and its lower end taken. The bounds cover what the
    network computes in float32, as long as it multiplies and adds up what its formulas say, in any order.

    Args:
        network, image_shape, batch_size: see :class:`.entry.Certificate`.
        eps (float): the largest radius, in units of the pixel range [0, 1].
        steps (int): halvings. Default: 10

    Raises:
        ValueError: for a network with layers whose bounds are not known.

    Source: S. Gowal et al. 2018, arXiv:1810.12715.
    """

    def __init__(self, network, image_shape, batch_size, *, eps, steps=10):
        super().__init__(network, image_shape, batch_size)
        self.steps_of_network = network_of(network, image_shape)
        for step in self.steps_of_network.steps:
            if isinstance(step.operation, Activation) and not self._needs_no_bounds(step.operation):
                _check_bounds(step)
        self.eps, self.steps = eps, steps

    @staticmethod
    def _needs_no_bounds(activation):
        return activation.rises

    def __call__(self, images, labels, numbers):
        with torch.no_grad():
            predictions = self.network(images).argmax(1)
        right = (predictions == labels).nonzero()[:, 0]
        radii = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        radii[right] = largest_radii(self.certified, images[right], labels[right], self.eps, self.steps)
        return Certified(predictions.cpu(), radii.cpu())

    def certified(self, images, labels, eps):
        """(N,) bool: which images are certified at their radius.

        Args:
            images (Tensor): float (N, C, H, W) in [0, 1].
            labels (Tensor): (N,) int64.
            eps (Tensor): (N,) float64.
        """
        margins = self.margins(*interval.box(images, eps), labels)
        is_label = torch.nn.functional.one_hot(labels, margins.shape[1]).bool()
        return ((margins > 0) | is_label).all(1)

    def margins(self, lower, upper, labels):
        """Lower bounds of the margins on boxes of images, (N, K)."""
        return interval.margins(self.steps_of_network, lower, upper, labels)


class Crown(IntervalBounds):
    r"""As :class:`IntervalBounds`, by linear bounds taken backwards through the network.

    Args:
        network, image_shape, batch_size, eps, steps: see :class:`IntervalBounds`.
        intermediate (str): bounds of the activations' inputs: "crown": linear bounds of each of them, which
            takes a backward pass a number; "interval": intervals, much faster and looser. Default: "crown"

    Raises:
        ValueError: for a network with layers whose bounds are not known.

    Source: H. Zhang et al., NeurIPS 2018, arXiv:1811.00866.
    """

    def __init__(self, network, image_shape, batch_size, *, eps, steps=10, intermediate="crown"):
        super().__init__(network, image_shape, batch_size, eps=eps, steps=steps)
        self.intermediate = intermediate

    @staticmethod
    def _needs_no_bounds(activation):
        return False  # also what rises needs lines

    def margins(self, lower, upper, labels):
        """Lower bounds of the margins on boxes of images, (N, K)."""
        return crown.margins(self.steps_of_network, lower, upper, labels, self.intermediate)


def _check_bounds(step):
    """Asks for an activation's bounds, which stay with it, before the first image does."""
    try:
        _ = step.operation.bounds
    except ValueError as error:
        raise ValueError(f"model: {step.name}: {error}") from None


def largest_radii(certified, images, labels, eps, steps):
    """The largest radius of each image that is certified, of those that halving tries; float64 (N,).

    Args:
        certified (callable): (images, labels, radii) to (N,) bool.
        images, labels (Tensor): N of them.
        eps (float): the largest radius.
        steps (int): halvings of (0, eps), where eps itself is not certified.
    """
    lower = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    upper = torch.full_like(lower, eps)
    tried = upper
    for _ in range(steps + 1):
        open_ = (lower < upper).nonzero()[:, 0]
        if not len(open_):
            break
        is_certified = certified(images[open_], labels[open_], tried[open_])
        lower[open_] = torch.where(is_certified, tried[open_], lower[open_])
        upper = upper.clone()
        upper[open_] = torch.where(is_certified, upper[open_], tried[open_])
        tried = (lower + upper) / 2
    return lower
