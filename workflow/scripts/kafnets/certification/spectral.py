"""Spectral norms of linear layers: proofs, and the power iteration that trains with them."""

import torch


def matrix_norm(weight):
    """The largest singular value of a matrix, rounded upwards.

    Args:
        weight (Tensor): (out, in).

    Returns:
        float
    """
    singular = torch.linalg.matrix_norm(weight.detach().double(), 2).item()
    return singular * (1 + 1e-12 * max(weight.shape))


def convolution_norm(weight, stride=1, padding=0, input_size=None):
    """An upper bound of the spectral norm of a convolution with zero padding, a proof.

    Args:
        weight (Tensor): (out, in, k, k).
        stride (int or (int, int)): Default: 1
        padding (int, (int, int), (left, right, top, bottom) or "same"): Default: 0
        input_size (int or (int, int)): rows and columns of the input.

    Returns:
        float
    """
    raise NotImplementedError
