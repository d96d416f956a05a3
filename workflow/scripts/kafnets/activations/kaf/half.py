r"""KAF in the arithmetic of a mixed-precision training: every step of the formula rounded to float16.

The input, the parameters, :math:`(x - d)^2`, the exponential, its product with :math:`\alpha` and the sum
are float16 numbers. There are only 65,536 of those, so the function of a channel is a table, and this module
looks it up: on any device the same values, at a price that does not depend on D. Inside the transforms of
torch.func, and where a network is exported, the steps themselves are taken.
"""

import torch

from . import functional
from .kernels import KERNELS

_ALL = 1 << 16


def tabulate(alpha, dictionary, bandwidth, kernel="gaussian"):
    """The KAF of every float16 number, (C, 65536) float16 in the order of their bit patterns."""
    x = torch.arange(_ALL, dtype=torch.int32, device=alpha.device).to(torch.int16).view(torch.float16)
    return _rounded(x.view(1, 1, _ALL), alpha, dictionary, bandwidth, kernel)[0]


def kaf(x, table, alpha, dictionary, bandwidth, kernel="gaussian", backend=None):
    """KAF of `x` by its `table` of :func:`tabulate`, or step by step without one, in the dtype of `x`.

    What rounding does to the value has no useful derivative; the derivatives are those of the exact function,
    :func:`kafnets.activations.kaf.functional.kaf`, whose arguments these are.
    """
    if table is not None:
        rounded = _look_up(x, table)
    else:
        parameters = (t.detach() for t in (alpha, dictionary, bandwidth))
        rounded = _rounded(x.detach().half(), *parameters, kernel).to(x.dtype)
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return rounded  # what is exported is evaluated
    return _Instead.apply(functional.kaf(x, alpha, dictionary, bandwidth, kernel, backend), rounded)


def _rounded(x, alpha, dictionary, bandwidth, kernel):
    """The KAF of float16 `x`, (N, C, *) or (N, 1, *).

    The D products of a number are added in order, and every partial sum is rounded.
    """
    shape = (1, -1, *[1] * (x.dim() - 2))
    alpha, dictionary, bandwidth = alpha.half(), dictionary.half(), bandwidth.half().reshape(shape)
    total = 0
    for i in range(alpha.shape[1]):
        u = x - dictionary[..., i].reshape(shape)
        total = total + alpha[:, i].reshape(shape) * KERNELS[kernel].value(u, bandwidth)
    return total


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
    def forward(exact, rounded):
        return rounded

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad, None

    @staticmethod
    def jvp(ctx, tangent, _):
        return tangent

    @staticmethod
    def vmap(info, in_dims, exact, rounded):
        size = (info.batch_size,)
        exact, rounded = (
            t.expand(size + t.shape) if at is None else t.movedim(at, 0)
            for t, at in zip((exact, rounded), in_dims, strict=True)
        )
        return _Instead.apply(exact, rounded), 0
