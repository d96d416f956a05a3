"""KAF in plain torch operations, one dictionary point at a time.

Runs on every device and dtype and needs no compiler. Nothing of size D times the input is ever held.
"""

import torch

from .kernels import KERNELS


def compute_dtype(x):
    """The dtype in which a KAF of `x` is evaluated: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def per_channel(parameter, x):
    """A (C,) or () parameter, shaped to broadcast against `x` with its channels at dim 1."""
    parameter = parameter.to(compute_dtype(x))
    return parameter if parameter.dim() == 0 else parameter.reshape(1, -1, *[1] * (x.dim() - 2))


def reduce_to_channels(values):
    """Sum of `values` over all dimensions but the channels' (dim 1)."""
    return values.sum([d for d in range(values.dim()) if d != 1])


def forward(x, alpha, dictionary, bandwidth, kernel):
    """y = sum_i alpha_i kappa(x - d_i)."""
    kappa = KERNELS[kernel].value
    gamma = per_channel(bandwidth, x)
    values = x.to(compute_dtype(x))
    y = torch.zeros_like(values)
    for i in range(alpha.shape[1]):
        y += per_channel(alpha[:, i], x) * kappa(values - per_channel(dictionary[..., i], x), gamma)
    return torch.empty_like(x).copy_(y)


def backward(grad, x, alpha, dictionary, bandwidth, kernel, needs):
    """Gradients of x, alpha, dictionary and bandwidth; `needs` holds four booleans, the rest are None."""
    needs_x, needs_alpha, needs_dictionary, needs_bandwidth = needs
    kappa = KERNELS[kernel]
    gamma = per_channel(bandwidth, x)
    values, grad = x.to(compute_dtype(x)), grad.to(compute_dtype(x))
    slope = torch.zeros_like(values) if needs_x else None
    by_bandwidth = torch.zeros_like(values) if needs_bandwidth and kappa.by_bandwidth else None
    grad_alpha, grad_dictionary = [], []
    for i in range(alpha.shape[1]):
        a = per_channel(alpha[:, i], x)
        u = values - per_channel(dictionary[..., i], x)
        if needs_alpha:
            grad_alpha.append(reduce_to_channels(grad * kappa.value(u, gamma)))
        if needs_x or needs_dictionary:
            by_offset = a * kappa.by_offset(u, gamma)
        if needs_x:
            slope += by_offset
        if needs_dictionary:
            grad_dictionary.append(-reduce_to_channels(grad * by_offset))
        if by_bandwidth is not None:
            by_bandwidth += a * kappa.by_bandwidth(u, gamma)
    return (
        torch.empty_like(x).copy_(grad * slope) if needs_x else None,
        torch.stack(grad_alpha, 1).to(alpha.dtype) if needs_alpha else None,
        like(torch.stack(grad_dictionary, 1), dictionary) if needs_dictionary else None,
        _grad_bandwidth(grad, by_bandwidth, bandwidth) if needs_bandwidth else None,
    )


def second(cotangent, grad, x, alpha, dictionary, bandwidth, kernel):
    """The derivatives of the sum of `cotangent` times the gradient of x by grad, x and alpha."""
    kappa, gamma = KERNELS[kernel], per_channel(bandwidth, x)
    values, by_slope = x.to(compute_dtype(x)), cotangent.to(compute_dtype(x))
    both = by_slope * grad.to(compute_dtype(x))
    slope, curvature, grad_alpha = torch.zeros_like(values), torch.zeros_like(values), []
    for i in range(alpha.shape[1]):
        a = per_channel(alpha[:, i], x)
        u = values - per_channel(dictionary[..., i], x)
        by_offset = kappa.by_offset(u, gamma)
        grad_alpha.append(reduce_to_channels(both * by_offset))
        slope += a * by_offset
        curvature += a * kappa.by_offset_twice(u, gamma)
    return (
        (by_slope * slope).to(grad.dtype),
        (both * curvature).to(x.dtype),
        torch.stack(grad_alpha, 1).to(alpha.dtype),
    )


def _grad_bandwidth(grad, by_bandwidth, bandwidth):
    if by_bandwidth is None:
        return torch.zeros_like(bandwidth)
    return like(reduce_to_channels(grad * by_bandwidth), bandwidth)


def like(grad, parameter):
    """A per-channel gradient summed over the channels where the parameter is shared by them."""
    return (grad if grad.dim() == parameter.dim() else grad.sum(0)).to(parameter.dtype)
