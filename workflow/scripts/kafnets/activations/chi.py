r"""How much an activation lets gradients grow between two normalisations.

Between a normalisation and the next one neither the scale of the weights nor that of the activation counts:
per layer, the energy of the gradient grows by chi. By Poincare's inequality for the normal distribution chi
is at least 1, and 1 for linear functions only; it is the mean degree of the function's Hermite series.

Source: the effect: G. Yang et al., ICLR 2019, arXiv:1902.08129.
"""

import functools
import math

import numpy
import torch

from . import is_elementwise

# Each panel is integrated by as many points of Gauss and Legendre. A panel ends where the input is 0, where
# most activations that have a kink have it; with kinks elsewhere chi is right to some 1e-3.
PANELS, POINTS = 200, 12
REACH = 10.0  # standard deviations; beyond lies a share of 1e-23


def chi(layer, std=1.0, mean=0.0):
    r""":math:`\chi = \mathrm{Var}(z)\,\mathrm{E} f'(z)^2 / \mathrm{Var} f(z)` with :math:`z \sim N(m, s^2)`.

    In closed form for Gaussian KAFs, by quadrature for every other elementwise activation; differentiable in
    the parameters either way.

    Args:
        layer (nn.Module): an activation layer, or any elementwise module.
        std, mean (float or Tensor): :math:`s` and :math:`m` of the inputs, shape :math:`()` or :math:`(C)`.

    Returns:
        Tensor: float64, :math:`(C)`; :math:`()` where all channels have the same parameters and inputs.
        Infinite or NaN where the function is constant.

    Raises:
        ValueError: for a layer that is no function of one number.
    """
    slope, variance = energies(layer, std, mean)
    return slope / variance


def pooled(layer, std, mean):
    """chi of a layer as a whole: the sums of both terms over its channels, so that dead ones do not count.

    Arguments as of :func:`chi`; a Tensor of shape ().
    """
    slope, variance = energies(layer, std, mean)
    return slope.sum() / variance.sum()


def energies(layer, std=1.0, mean=0.0):
    r"""The two terms of :func:`chi`: :math:`s^2\,\mathrm{E} f'(z)^2` and :math:`\mathrm{Var} f(z)`."""
    if not is_elementwise(layer):
        raise ValueError(f"layer: {type(layer).__name__} is no function of one number, and has no chi")
    if not isinstance(std, torch.Tensor) and not std > 0:
        raise ValueError(f"std: must be positive, got {std!r}")
    device = _device(layer)
    std, mean = (_float64(value, device) for value in (std, mean))
    if _is_gaussian_kaf(layer):
        found = of_kaf(*layer.mixture(), std, mean)
    else:
        found = by_quadrature(layer, std, mean)
    alike = not (std.dim() or mean.dim() or _channels(layer))
    return tuple(term.reshape(-1)[0] for term in found) if alike else found


def _float64(value, device):
    """A number as a tensor without a copy from the host, which a CUDA graph could not hold."""
    if isinstance(value, torch.Tensor):
        return value.to(device, torch.float64)
    return torch.full((), float(value), dtype=torch.float64, device=device)


def _device(layer):
    return next((tensor.device for tensor in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))


def _is_gaussian_kaf(layer):
    """Whether a layer is the sum of Gaussians and nothing else (told by its parts: see `kaf/layer.py`)."""
    if getattr(layer, "kernel", None) != "gaussian" or getattr(layer, "tails", "zero") != "zero":
        return False
    parts = {name for name, _ in layer.named_parameters()} | {name for name, _ in layer.named_buffers()}
    return parts == {"alpha", "dictionary", "bandwidth"}


def of_kaf(alpha, dictionary, bandwidth, std=1.0, mean=0.0):
    r"""The terms of :func:`energies` for :math:`f(z) = \sum_i \alpha_{c,i} \exp(-\gamma_c (z - d_{c,i})^2)`.

    :math:`\mathrm{E} f`, :math:`\mathrm{E} f^2` and :math:`\mathrm{E} f'^2` are forms of :math:`\alpha`: the
    product of two Gaussians and the density is a Gaussian again.

    Args:
        alpha (Tensor): :math:`(C, D)`.
        dictionary (Tensor): :math:`(D)` or :math:`(C, D)`.
        bandwidth (Tensor): :math:`()` or :math:`(C)`.
        std, mean (float or Tensor): of the inputs, :math:`()` or :math:`(C)`.

    Returns:
        (Tensor, Tensor): float64, :math:`(C)`.
    """
    std, mean, alpha, points, gamma = (
        _float64(value, alpha.device) for value in (std, mean, alpha, dictionary, bandwidth)
    )
    # in units in which the inputs are standard normal: points (..., D), gamma (..., 1)
    std, mean = std[..., None], mean[..., None]
    points, gamma = (points - mean) / std, gamma[..., None] * std**2
    means = (1 + 2 * gamma).rsqrt() * (-gamma * points**2 / (1 + 2 * gamma)).exp()
    one, other, gamma = points[..., :, None], points[..., None, :], gamma[..., None]
    wide = 1 + 4 * gamma
    exponent = 2 * gamma**2 * (one + other) ** 2 / wide - gamma * (one**2 + other**2)
    products = wide.rsqrt() * exponent.exp()
    centre = 2 * gamma * (one + other) / wide
    slopes = 4 * gamma**2 * products * (1 / wide + (centre - one) * (centre - other))
    variance = _form(alpha, products) - (means * alpha).sum(-1) ** 2
    return _form(alpha, slopes), variance.clamp(min=0)


def _form(alpha, matrix):
    """alpha' M alpha for each channel; M is that of all channels, (D, D), or (C, D, D)."""
    return ((alpha[:, None] @ matrix)[:, 0] * alpha).sum(-1)


def by_quadrature(function, std, mean):
    """The terms of :func:`energies` for any elementwise function, by composite Gauss-Legendre quadrature.

    Args:
        function (nn.Module): channels at dim 1.
        std, mean (Tensor): float64, of the inputs; () or (C,).

    Returns:
        (Tensor, Tensor): float64, (C,), or (1,) where all channels are alike.
    """
    nodes, weights, width = _rule(std.device)
    channels = max(_channels(function), std.numel(), mean.numel())
    zero = (-mean / std).clamp(-REACH, REACH).expand(channels).detach()
    z = nodes[:, None] + (zero - width * (zero / width).round())
    weights = weights[:, None] * torch.exp(-z.square() / 2)
    x = (mean + std * z).detach().requires_grad_()
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        values = _in_float64(function, x)
        (slopes,) = torch.autograd.grad(values.sum(), x, create_graph=differentiable)
    variance = (weights * (values - (weights * values).sum(0)) ** 2).sum(0)
    return std**2 * (weights * slopes**2).sum(0), variance


def _in_float64(function, x):
    """The function with its parameters as float64 numbers; gradients reach them."""
    tensors = dict(function.named_parameters()) | dict(function.named_buffers())
    wide = {name: one.double() if one.is_floating_point() else one for name, one in tensors.items()}
    return torch.func.functional_call(function, wide, (x,))


def _channels(layer):
    """The number of channels that a layer has parameters of its own for; 0 where all channels are alike."""
    sizes = {parameter.shape[0] for parameter in layer.parameters() if parameter.dim()}
    return max(sizes) if sizes - {1} else 0


@functools.cache
def _rule(device):
    """Nodes on the axis of a normal variable, their weights (less exp(-z^2 / 2)), and a panel's width."""
    nodes, weights = numpy.polynomial.legendre.leggauss(POINTS)
    width = 2 * REACH / PANELS
    centres = -REACH + width * (numpy.arange(PANELS) + 0.5)
    nodes = (centres[:, None] + width / 2 * nodes).ravel()
    weights = numpy.tile(width / 2 * weights, PANELS) / math.sqrt(2 * math.pi)
    return torch.from_numpy(nodes).to(device), torch.from_numpy(weights).to(device), width
