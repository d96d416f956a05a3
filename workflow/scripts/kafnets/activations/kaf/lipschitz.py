r"""How steep a Gaussian KAF can be, proved: its derivatives, their bounds, and two Lipschitz constants.

.. math:: f(x) = \sum_i \alpha_i \exp(-\gamma (x - d_i)^2)

is a member of the Gaussian kernel's Hilbert space, with the norm :math:`N = \sqrt{\alpha^\top K \alpha}`. By
the reproducing property of derivatives :math:`|f^{(m)}(x)| \le N \sqrt{(2m)!/m!\;\gamma^m}` everywhere.
"""

import math

import torch

# gamma u^2 at which a kernel is down to 2e-16
FAR = 36.0
_PER_WIDTH = 50  # points of the grid to a standard deviation of the kernel, at most
MOST_POINTS = 16384  # of the grid


def rkhs_norm(alpha, dictionary, bandwidth):
    r""":math:`\sqrt{\alpha^\top K \alpha}` of each channel, rounded upwards.

    Args:
        alpha (Tensor): :math:`(C, D)`.
        dictionary (Tensor): :math:`(D)` or :math:`(C, D)`.
        bandwidth (Tensor): :math:`()` or :math:`(C)`, positive.

    Returns:
        Tensor: float64, :math:`(C)`, differentiable.
    """
    alpha, dictionary, gamma = _columns(alpha, dictionary, bandwidth)
    gram = torch.exp(-gamma[..., None] * (dictionary[..., :, None] - dictionary[..., None, :]).square())
    form = ((alpha[:, None] @ gram)[:, 0] * alpha).sum(1)
    # coefficients of a ridge start cancel: what rounding leaves of that counts as well
    rounded = 1e-15 * alpha.shape[1] * alpha.detach().abs().sum(1).square()
    return (form.clamp(min=0) + rounded + 1e-300).sqrt()


def derivative_bound(norm, bandwidth, order):
    r""":math:`N \sqrt{(2m)!/m!\;\gamma^m}`: the absolute value of the derivative of this order, anywhere."""
    factor = math.factorial(2 * order) / math.factorial(order)
    return norm * (factor * bandwidth.double() ** order).sqrt()


def rkhs_lipschitz(alpha, dictionary, bandwidth):
    r"""The Lipschitz constant :math:`\sqrt{2 \gamma\, \alpha^\top K \alpha}` of each channel.

    In closed form and differentiable: for penalties. Of a ridge start it is twice the true constant, see
    :func:`certified_lipschitz`.

    Args:
        alpha, dictionary, bandwidth: as of :func:`rkhs_norm`.

    Returns:
        Tensor: float64, :math:`(C)`.
    """
    return derivative_bound(rkhs_norm(alpha, dictionary, bandwidth), bandwidth, 1)


def derivatives(x, alpha, dictionary, bandwidth, orders):
    r"""Derivatives of f by the Hermite polynomials, in float64.

    Args:
        x (Tensor): places, :math:`(R, U)`; R is :math:`C`, or 1: the same places in all channels.
        alpha, dictionary, bandwidth: as of :func:`rkhs_norm`.
        orders (iterable of int): which.

    Returns:
        list of Tensor: :math:`(C, U)`.
    """
    alpha, dictionary, gamma = _columns(alpha, dictionary, bandwidth)
    root = (2 * gamma).sqrt()
    sums = [0] * len(orders)
    for i in range(alpha.shape[1]):
        v = root * (x - dictionary[:, i : i + 1]).clamp(-1e18, 1e18)
        kernel, hermite = torch.exp(-v * v / 2), [1, v]
        for m in range(1, max(orders)):
            hermite.append(v * hermite[m] - m * hermite[m - 1])
        for k, order in enumerate(orders):
            sums[k] = sums[k] + alpha[:, i : i + 1] * (kernel * hermite[order])
    return [(-root) ** order * one for order, one in zip(orders, sums, strict=True)]


def grid(dictionary, bandwidth, reach=(0.0, 0.0)):
    """Evenly spaced places, `MOST_POINTS` at most, which go so far that nothing is left of the kernels.

    Returns:
        Tensor: float64, (R, P), R = 1 where all channels have the same dictionary and bandwidth.
    """
    _, dictionary, gamma = _columns(None, dictionary.detach(), bandwidth.detach())
    rest = (FAR / gamma[:, 0]).sqrt()
    low = (dictionary.amin(1) - rest).clamp(max=reach[0])
    high = (dictionary.amax(1) + rest).clamp(min=reach[1])
    points = ((high - low) * (2 * gamma[:, 0]).sqrt()).max().item() * _PER_WIDTH
    points = min(MOST_POINTS, max(64, math.ceil(points) + 1))
    along = torch.linspace(0, 1, points, dtype=torch.float64, device=dictionary.device)
    return low[:, None] + (high - low)[:, None] * along


def certified_lipschitz(alpha, dictionary, bandwidth):
    r"""sup |f'| of each channel, not below the truth; within 1.001 of it unless the grid is capped.

    On a grid of step h, with what the next derivatives allow between its points:

    .. math:: \max_k |f'(x_k)| + \frac{h^2}{8} \Big(\max_{k}|f'''(x_k)| + \frac{h^2}{8} M_5\Big)

    cell by cell, :math:`M_5` of :func:`derivative_bound`; beyond the grid less than 1e-14 of the
    coefficients is left. Differentiable: the gradient is that at the steepest place.

    Args:
        alpha, dictionary, bandwidth: as of :func:`rkhs_norm`.

    Returns:
        Tensor: float64, :math:`(C)`.
    """
    x = grid(dictionary, bandwidth)
    first, third = derivatives(x, alpha, dictionary, bandwidth, (1, 3))
    norm = rkhs_norm(alpha, dictionary, bandwidth)
    fifth = derivative_bound(norm, bandwidth, 5).detach()[:, None]
    eighth = (x[:, 1:2] - x[:, :1]).square() / 8
    slack = eighth * (_of_cells(third.detach().abs()) + eighth * fifth)
    # of kernels that are narrower than cells the closed form knows more
    inside = (_of_cells(first.abs()) + slack).amax(1).minimum(derivative_bound(norm, bandwidth, 1))
    return torch.maximum(inside, outside_slope(alpha, bandwidth)) + rounding_of_slope(alpha, bandwidth)


def outside_slope(alpha, bandwidth):
    """How steep the kernels' sum can be beyond the grid, (C,)."""
    return (
        alpha.detach().double().abs().sum(1) * 2 * (FAR * bandwidth.detach().double()).sqrt() * math.exp(-FAR)
    )


def rounding_of_slope(alpha, bandwidth):
    """What rounding in float64 can make of f', (C,)."""
    return 1e-15 * alpha.shape[1] * alpha.detach().double().abs().sum(1) * bandwidth.detach().double().sqrt()


def _of_cells(values):
    return torch.maximum(values[:, :-1], values[:, 1:])


def _columns(alpha, dictionary, bandwidth):
    """In float64: alpha (C, D), dictionary (R, D), bandwidth (R, 1), where R is C or 1 of each."""
    dictionary, gamma = dictionary.double(), bandwidth.double().reshape(-1, 1)
    return None if alpha is None else alpha.double(), dictionary.reshape(-1, dictionary.shape[-1]), gamma
