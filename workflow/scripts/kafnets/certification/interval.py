"""Interval bound propagation (IBP): which values each number of a network can take on a box of images."""

import torch
from torch.nn import functional

from .operations import Addition, Affine, Dense

# What a network computes in float32 is off by 2^-24 of the terms of a sum, for each term and in any order of
# adding up; a little more covers the float64 in which bounds are computed. (Algorithms that multiply other
# numbers than these, such as Winograd's, are not covered.)
_FLOAT32 = 1.01 * 2.0**-24
_FLOAT64 = 2.0**-50


def rounding(terms):
    """By which share of its terms' absolute values a computed sum may be wrong."""
    return _FLOAT32 * (terms + 8) if terms else 0.0


def box(images, eps):
    """The images within `eps` in the L-infinity norm, in [0, 1]: (lower, upper) in float64.

    Half the distance of two float32 pixels is added: attacks round there.

    Args:
        images (Tensor): :math:`(N, C, H, W)` in [0, 1].
        eps (float or Tensor): radius, in units of the pixel range; one number or :math:`(N)`.
    """
    eps = torch.as_tensor(eps, dtype=torch.float64, device=images.device).reshape(-1, 1, 1, 1) + 2.0**-24
    images = images.double()
    return (images - eps).clamp(min=0), (images + eps).clamp(max=1)


def intervals(network, lower, upper):
    """The bounds of all steps of a network, as (centre, radius); what it computes in float32 is in them, too.

    Args:
        network (kafnets.certification.network.Network): as of :func:`.network.network_of`.
        lower, upper (Tensor): of the images, float64 :math:`(N, C, H, W)`.

    Returns:
        list of (Tensor, Tensor): one for each step.
    """
    visit, found = Rounded(), [Rounded.between(lower, upper)]

    def noted(step, *inputs):
        found.append(visit(step, *inputs))
        return found[-1]

    network.walk(found[0], noted)
    return found


@torch.no_grad()
def margins(network, lower, upper, labels):
    """Lower bounds of how far the label's logit is above each other one; float64 :math:`(N, K)`, 0 at labels.

    The differences are bounded, not the logits: the last dense layer is one with their weights.

    Args:
        network, lower, upper: as of :func:`intervals`.
        labels (Tensor): int64 :math:`(N)`.
    """
    visit = Rounded()
    before = network.walk(Rounded.between(lower, upper), Before(network, visit))
    return visit.margins(network.steps[-1].operation, before, labels)


class Before:
    """Visits all steps but a dense one at the end, whose input is returned."""

    def __init__(self, network, visit):
        self.last, self.visit = network.steps[-1], visit

    def __call__(self, step, *inputs):
        last = step is self.last and isinstance(step.operation, Dense)
        return inputs[0] if last else self.visit(step, *inputs)


class Exact:
    r"""Takes intervals through steps, for :meth:`.network.Network.walk`, as if nothing were rounded.

    .. math:: c \mapsto W c + b, \quad r \mapsto |W| r

    It is differentiable; an interval is a pair (centre, radius).
    """

    def __call__(self, step, *inputs):
        operation = step.operation
        if isinstance(operation, Affine):
            return self.affine(operation, *inputs[0])
        if isinstance(operation, Addition):
            return self.added(*inputs)
        lower, upper = self.ends(*inputs[0])
        if operation.rises:
            return self.between(operation(lower), operation(upper))
        try:
            return self.between(*self.range(operation, lower, upper))
        except ValueError as error:
            raise ValueError(f"model: {step.name}: {error}") from None

    def affine(self, operation, center, radius):
        return operation(center), operation.spread(radius)

    def added(self, one, other):
        return one[0] + other[0], one[1] + other[1]

    def ends(self, center, radius):
        """The interval as (lower, upper)."""
        return center - radius, center + radius

    @staticmethod
    def between(lower, upper):
        """The interval of (lower, upper)."""
        return (lower + upper) / 2, (upper - lower) / 2

    def range(self, operation, lower, upper):
        """The values of an activation on an interval, as (lower, upper)."""
        return operation.bounds.range(lower, upper)

    def margins(self, operation, before, labels):
        """What :func:`margins` returns, given what :class:`Before` does."""
        center, radius = before
        if not isinstance(operation, Dense):
            lower, upper = self.ends(center, radius)
            found = lower.gather(1, labels[:, None]) - upper
        else:
            differences = operation.weight[labels][:, None] - operation.weight
            found = torch.einsum("nkf,nf->nk", differences, center)
            found = found - torch.einsum("nkf,nf->nk", differences.abs(), radius)
            found = found + self._offsets(operation, labels) - self.doubt(operation, before, labels)
        return found.masked_fill(functional.one_hot(labels, found.shape[1]).bool(), 0.0)

    def _offsets(self, operation, labels):
        bias = operation.layer.bias
        return 0.0 if bias is None else bias[labels][:, None] - bias

    def doubt(self, operation, before, labels):
        """What rounding may do to the differences of a dense layer's outputs, :math:`(N, K)`."""
        return 0.0


class Rounded(Exact):
    """As :class:`Exact`, with radii that cover the rounding of the network's float32 and of their own."""

    def affine(self, operation, center, radius):
        share = rounding(operation.terms)
        radius = operation.spread(radius + share * (center.abs() + radius))
        return operation(center), radius + share * operation.offset_size()

    def added(self, one, other):
        (center, radius), (other_center, other_radius) = one, other
        size = center.abs() + other_center.abs() + radius + other_radius
        return center + other_center, radius + other_radius + rounding(2) * size

    def ends(self, center, radius):
        radius = radius + _FLOAT64 * (center.abs() + radius)
        return center - radius, center + radius

    @staticmethod
    def between(lower, upper):
        center = (lower + upper) / 2
        return center, torch.maximum(upper - center, center - lower) * (1 + _FLOAT64)

    def doubt(self, operation, before, labels):
        center, radius = before
        sizes = functional.linear(center.abs() + radius, operation.weight.abs()) + operation.offset_size()
        return rounding(operation.terms) * (sizes.gather(1, labels[:, None]) + sizes)
