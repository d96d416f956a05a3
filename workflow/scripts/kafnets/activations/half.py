r"""KAF in the arithmetic of a mixed-precision training: every step of the formula rounded to float16.

The input, the parameters, :math:`(x - d)^2`, the exponential, its product with :math:`\alpha` and the sum
are float16 numbers. There are only 65,536 of those, so the function of a channel is a table, and this module
looks it up: on any device the same values, at a price that does not depend on D.
"""

import torch

from . import functional
from .kernels import KERNELS

_ALL = 1 << 16


def tabulate(alpha, dictionary, bandwidth, kernel="gaussian"):
    """The KAF of every float16 number, (C, 65536) float16 in the order of their bit patterns.

    The D products of a number are added in order, and every partial sum is rounded.
    """
    x = torch.arange(_ALL, dtype=torch.int32, device=alpha.device).to(torch.int16).view(torch.float16)
    alpha, dictionary, bandwidth = alpha.half(), dictionary.half(), bandwidth.half()
    total = torch.zeros(len(alpha), _ALL, dtype=torch.float16, device=alpha.device)
    for i in range(alpha.shape[1]):
        u = x - dictionary[..., i, None]
        total += alpha[:, i, None] * KERNELS[kernel].value(u, bandwidth[..., None])
    return total


def kaf(x, table, alpha, dictionary, bandwidth, kernel="gaussian", backend=None):
    """KAF of `x` by its `table` of :func:`tabulate`, in the dtype of `x`.

    What rounding does to the value has no useful derivative; the derivatives are those of the exact function,
    :func:`kafnets.activations.functional.kaf`, whose arguments these are.
    """
    exact = functional.kaf(x, alpha, dictionary, bandwidth, kernel, backend)
    return _Instead.apply(exact, _look_up(x, table))


@torch.no_grad()
def _look_up(x, table):
    first = torch.arange(len(table), dtype=torch.int32, device=x.device) * _ALL
    pattern = x.half().view(torch.int16).to(torch.int32).bitwise_and_(_ALL - 1)
    pattern += first.view(1, -1, *[1] * (x.dim() - 2))
    # in memory order, so that a channels-last input stays one
    order = sorted(range(x.dim()), key=pattern.stride, reverse=True)
    found = table.view(-1).index_select(0, pattern.permute(order).reshape(-1))
    shape = [x.shape[d] for d in order]
    return found.to(x.dtype).view(shape).permute([order.index(d) for d in range(x.dim())])


class _Instead(torch.autograd.Function):
    """The second argument, with the derivatives of the first."""

    @staticmethod
    def forward(ctx, exact, rounded):
        return rounded

    @staticmethod
    def backward(ctx, grad):
        return grad, None
