r"""The steepest slope of a KAF in each channel, proved in every pass of a training.

As a certificate's (:mod:`kafnets.certification.activations`), a little less tight, and on a grid with a
fixed number of points: nothing waits for the device. On that, h apart, :math:`f'` deviates between two
points from their chord by at most :math:`\frac{h^2}{8} \sup |f^{(3)}|`, which the norm in the kernels'
space bounds. Beyond the grid, a distance R from every point of the dictionary,
:math:`|f'| \le \sum_i |\alpha_i|\, 2 \gamma R\, e^{-\gamma R^2}`, since :math:`R \ge 1/\sqrt{2\gamma}`.
"""

import math

import torch

from . import lipschitz

# In units of 1 / sqrt(gamma): how far the grid goes beyond the dictionary (the kernels' slopes are 1e-10
# there), and how far its points lie apart (the bound is then some 1.005 times the truth).
REACH, SPACING = 5.0, 1 / 16
# Slopes of the bases, at 0 the right one, and bounds of their third derivatives on either side.
_SLOPES = {
    "identity": torch.ones_like,
    "relu": lambda x: (x >= 0).to(x),
    "elu": lambda x: x.clamp(max=0).exp(),
    "silu": lambda x: x.sigmoid() * (1 + x * (-x).sigmoid()),
}
_THIRD = {"identity": 0.0, "relu": 0.0, "elu": 1.0, "silu": 0.31}  # at most so large
# SiLU's slope, at most 1.1 anywhere, rises from -2.4 to 2.3 and falls to 1 from 2.5 on.
_SILU_RISES, _SILU_FALLS = 2.3, 2.5


def points_needed(boundary, gamma):
    """How many points a grid has that reaches from end to end of the dictionary, and beyond."""
    return 1 + math.ceil(2 * (boundary * math.sqrt(gamma) + REACH) / SPACING)


def steepest(alpha, dictionary, bandwidth, points, weight=None, base=None):
    r"""A bound of :math:`\sup_x |f'(x)|`, also once coefficients are divided by it and rounded.

    Args:
        alpha (Tensor): :math:`(C, D)`, of Gaussian kernels.
        dictionary (Tensor): :math:`(D)` or :math:`(C, D)`.
        bandwidth (Tensor): :math:`\gamma`, :math:`()` or :math:`(C)`.
        points (int): of the grid.
        weight (Tensor, optional): :math:`w`, :math:`(C)`: :math:`f` is the kernels' sum and :math:`w\,b`.
        base (str, optional): :math:`b`, a name of :data:`.bases.BASES`.

    Returns:
        Tensor: float64, :math:`(C)`.
    """
    alpha, centres, gamma = (one.double() for one in (alpha, dictionary, bandwidth))
    gamma = gamma[..., None]
    reach = REACH / gamma.sqrt()
    low, high = centres.amin(-1, keepdim=True) - reach, centres.amax(-1, keepdim=True) + reach
    unit = torch.linspace(0, 1, points, dtype=torch.float64, device=alpha.device)
    x, spacing = low + (high - low) * unit, (high - low) / (points - 1)
    if base is not None:  # a point where the base may have its kink, so that no cell has one inside
        x = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
    offsets = x[..., :, None] - centres[..., None, :]
    wide = gamma[..., None]
    slopes = (alpha[:, None] @ (-2 * wide * offsets * torch.exp(-wide * offsets**2)).mT)[:, 0]
    norm = lipschitz.rkhs_norm(alpha, dictionary, bandwidth)
    third = lipschitz.derivative_bound(norm, bandwidth.reshape(-1), 3)[:, None]
    sizes = alpha.abs().sum(-1, keepdim=True)
    beyond = sizes * 2 * gamma.sqrt() * REACH * math.exp(-(REACH**2))
    if base is not None:
        weight = weight.double()[:, None]
        kernels, slopes = slopes, slopes + weight * _SLOPES[base](x)
        third = third + _THIRD[base] * weight.abs()
        beyond = beyond + weight.abs() * _beyond(base, low, high)
        if base == "relu":
            slopes = torch.cat([slopes, kernels[:, -1:]], 1)
        # a base has a rounding, too
        sizes = sizes + weight.abs()
    found = slopes.abs().amax(1, keepdim=True) + spacing**2 / 8 * third
    rounding = torch.finfo(torch.float32).eps * sizes * (1 + (2 * gamma / math.e).sqrt())
    return (torch.maximum(found, beyond) + rounding)[:, 0]


def _beyond(base, low, high):
    """How steep the base is beyond a grid from `low` to `high`, which a learned dictionary may move."""
    if base != "silu":
        return 1.0
    slope = _SLOPES[base]
    right = torch.where(high > _SILU_FALLS, slope(high), 1.1)  # 1 at least: more than -0.1, on the left
    return torch.maximum(right, torch.where(low < _SILU_RISES, slope(low), 1.1))
