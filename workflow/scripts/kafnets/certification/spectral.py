r"""Spectral norms of linear layers, sound ones for certificates.

A convolution with zero padding is part of the circular convolution on a torus large enough for nothing to
wrap around: n + k - 1 for an input of size n and a kernel of size k. That one's norm is the largest over
the torus' frequencies. A stride s takes a sample of its output: a frequency of that is the sum of the s x s
frequencies of the input that the sampling confuses, as in the polyphase form. How much is padded on which
side only shifts the input, which changes no norm. Everything is computed in float64, and what rounding can
do there is added; what is certified is the layer in exact arithmetic with the weights that it has.
"""

import torch
from torch import nn

_ROUNDING = 1e-11  # relative; a Fourier transform and a Gram matrix in float64 are right to 1e-13
_AT_ONCE = 1 << 23  # complex numbers of a stack of matrices


def matrix_norm(weight):
    """The largest singular value of a matrix, rounded upwards.

    Args:
        weight (Tensor): (out, in).

    Returns:
        float
    """
    return torch.linalg.matrix_norm(weight.detach().double(), 2).item() * (1 + _ROUNDING)


@torch.no_grad()
def convolution_norm(weight, stride=1, padding=0, input_size=None, dilation=1, groups=1):
    """An upper bound of the spectral norm of a convolution with zero padding; a proof.

    It is exact but for the borders: the smaller the input, the more it is above the norm, some per cent.

    Args:
        weight (Tensor): (out, in / groups, k, k).
        stride, dilation (int or (int, int)): Default: 1
        padding: zeros around the input: any, as the bound is the same for all.
        input_size (int or (int, int)): rows and columns of the input.
        groups (int): Default: 1

    Returns:
        float

    Raises:
        ValueError: for a weight or an input size that is none.

    Source: H. Sedghi, V. Gupta & P. M. Long, ICLR 2019, arXiv:1805.10408, for circular convolutions.
    """
    if weight.dim() != 4 or weight.shape[0] % groups:
        raise ValueError(
            f"weight must be (out, in / groups, k, k), out a multiple of groups, got {tuple(weight.shape)}"
        )
    sizes = pair(input_size)
    if sizes is None or min(sizes) < 1:
        raise ValueError(f"input_size must be the rows and columns of the input, got {input_size!r}")
    stride, kernel = pair(stride), _dilated(weight.double(), pair(dilation))
    torus = [
        -(-(size + k - 1) // step) * step
        for size, k, step in zip(sizes, kernel.shape[2:], stride, strict=True)
    ]
    groups = kernel.chunk(groups)
    return max(_on_torus(one, torus, stride) for one in groups) * (1 + _ROUNDING)


def _on_torus(kernel, torus, stride):
    """The norm of a circular convolution, of which every stride-th output is taken."""
    rows, columns = stride
    high, wide = torus[0] // rows, torus[1] // columns
    spectrum = torch.fft.fft2(kernel, s=torus)  # (out, in, ...)
    # aliases: frequencies that differ by multiples of high and wide
    spectrum = spectrum.unflatten(3, (columns, wide)).unflatten(2, (rows, high))
    blocks = spectrum.permute(3, 5, 0, 1, 2, 4).flatten(3).flatten(0, 1)  # (frequencies, out, in * aliases)
    blocks = blocks[: (high // 2 + 1) * wide]  # a real kernel's others are conjugates of these
    largest = 0.0
    for some in blocks.split(max(1, _AT_ONCE // blocks[0].numel())):
        if some.shape[1] > some.shape[2]:
            some = some.mT
        gram = some @ some.mH
        largest = max(largest, torch.linalg.eigvalsh(gram)[:, -1].max().item())
    return (max(largest, 0.0) / (rows * columns)) ** 0.5


def _dilated(kernel, dilation):
    """The kernel with zeros between its elements."""
    if dilation == (1, 1):
        return kernel
    sizes = [(size - 1) * d + 1 for size, d in zip(kernel.shape[2:], dilation, strict=True)]
    spread = kernel.new_zeros(*kernel.shape[:2], *sizes)
    spread[:, :, :: dilation[0], :: dilation[1]] = kernel
    return spread


def pair(value):
    """(rows, columns) of an integer or of two."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, (tuple, list, torch.Size)) else (value, value)


def layer_norm(layer, input_size=None):
    """An upper bound of the spectral norm of a layer, a proof.

    Args:
        layer (nn.Linear or nn.Conv2d)
        input_size (int or (int, int), optional): rows and columns of a convolution's input.

    Returns:
        float

    Raises:
        ValueError: for another layer, or a convolution that does not pad with zeros.
    """
    if isinstance(layer, nn.Linear):
        return matrix_norm(layer.weight)
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"layer must be an nn.Linear or an nn.Conv2d, got {type(layer).__name__}")
    if layer.padding_mode != "zeros":
        raise ValueError(f"layer must pad with zeros, got the padding mode {layer.padding_mode!r}")
    return convolution_norm(
        layer.weight, layer.stride, layer.padding, input_size, layer.dilation, layer.groups
    )
