"""KAF as a function, and the choice of the code that evaluates it.

`kaf` is one operator to autograd and to torch.compile. It saves its input and the small parameters, nothing
else, and hands the arithmetic to a backend chosen by device; `kaf_plain` is the formula as printed, kept as
the oracle that every backend is tested against.
"""

import inspect
import os
from functools import partial

import torch
from torch import library

from . import cpu, gpu, portable
from .kernels import KERNELS
from .portable import compute_dtype

BACKENDS = ("auto", "plain", "portable", "cpu", "triton")

_forced = None


def set_backend(name):
    """Forces the backend of every KAF that does not name its own.

    Args:
        name: ``"auto"`` (by device), ``"plain"`` (the formula itself), ``"portable"`` (torch operations),
            ``"cpu"`` (compiled) or ``"triton"`` (GPU). A backend that does not cover a call, by its kernel,
            dtype or device, leaves it to the portable one. The environment variable
            ``KAFNETS_KAF_BACKEND`` does the same for a whole process.

    Raises:
        ValueError: if ``name`` is not one of these.
    """
    global _forced
    _forced = check_backend(name)


def get_backend():
    """The backend in force: that of :func:`set_backend`, else of ``KAFNETS_KAF_BACKEND``, else ``"auto"``."""
    if _forced is not None:
        return _forced
    return check_backend(os.environ.get("KAFNETS_KAF_BACKEND", "auto"))


def active_backend(device):
    """The backend that evaluates a Gaussian KAF in float32 on `device`: what a run's record should name.

    It depends on what is installed (a compiler, Triton); a run resumed under another one is not the same run.
    """
    backend = get_backend()
    if backend in ("plain", "portable"):
        return backend
    if torch.device(device).type == "cuda":
        return "triton" if backend != "cpu" and gpu.available() else "portable"
    return "cpu" if backend != "triton" and cpu.available() else "portable"


def check_backend(name):
    """`name` if it is a backend's, else ValueError."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def kaf_plain(x, alpha, dictionary, bandwidth, kernel="gaussian"):
    r"""The KAF formula as printed: :math:`y = \sum_i \alpha_i \kappa(x - d_i)` with all D terms in memory.

    Arguments and shapes are those of :func:`kaf`.
    """
    dtype = compute_dtype(x)
    shape = (1, -1, *[1] * (x.dim() - 2))
    alpha = alpha.to(dtype).reshape(*shape, alpha.shape[-1])
    if dictionary.dim() == 2:
        dictionary = dictionary.reshape(*shape, dictionary.shape[-1])
    if bandwidth.dim() == 1:
        bandwidth = bandwidth.reshape(*shape, 1)
    offsets = x.to(dtype).unsqueeze(-1) - dictionary.to(dtype)
    return (alpha * KERNELS[kernel].value(offsets, bandwidth.to(dtype))).sum(-1).to(x.dtype)


def kaf(x, alpha, dictionary, bandwidth, kernel="gaussian", backend=None):
    r"""Kernel activation function, channel by channel.

    .. math:: y = \sum_{i=1}^{D} \alpha_{c,i}\, \kappa(x, d_i), \qquad
              \kappa(x, d) = \exp(-\gamma (x - d)^2)

    Evaluated in float32 (float64 for float64 input) and returned in the dtype and memory format of ``x``.
    Differentiable twice and more with respect to every argument.

    Args:
        x: input, channels at dim 1.
        alpha: mixing coefficients.
        dictionary: dictionary points, in the units of ``x``, shared or per channel.
        bandwidth: :math:`\gamma`, in inverse squared units of ``x``, shared or per channel (gaussian only).
        kernel: ``"gaussian"``, ``"relu"``: :math:`\max(0, x - d)`, or ``"softplus"``:
            :math:`\log(1 + e^{x - d})`.
        backend: overrides :func:`set_backend` for this call.

    Shape:
        - x: :math:`(N, C, *)`; alpha: :math:`(C, D)`; dictionary: :math:`(D)` or :math:`(C, D)`;
          bandwidth: :math:`()` or :math:`(C)`
        - Output: :math:`(N, C, *)`

    Raises:
        ValueError: naming the argument that does not fit.

    Source: Scardapane, Van Vaerenbergh, Totaro & Uncini, *Kafnets: kernel-based non-parametric activation
    functions for neural networks*, Neural Networks 110, 2019.
    """
    _check(x, alpha, dictionary, bandwidth, kernel)
    backend = get_backend() if backend is None else check_backend(backend)
    if backend == "plain":
        return kaf_plain(x, alpha, dictionary, bandwidth, kernel)
    # The operator is for the compiler to see: in eager mode its dispatch would cost more than a small tensor.
    evaluate = _kaf if torch.compiler.is_compiling() else _Kaf.apply
    return evaluate(x, alpha, dictionary, bandwidth, kernel, backend)


def _check(x, alpha, dictionary, bandwidth, kernel):
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
    if x.dim() < 2 or x.shape[1] != alpha.shape[0]:
        raise ValueError(f"x must be (N, {alpha.shape[0]}, *) for these alpha, got {tuple(x.shape)}")
    if dictionary.shape not in (alpha.shape[1:], alpha.shape):
        raise ValueError(f"dictionary must be (D,) or (C, D) like alpha, got {tuple(dictionary.shape)}")
    if bandwidth.shape not in ((), alpha.shape[:1]):
        raise ValueError(f"bandwidth must be () or (C,), got {tuple(bandwidth.shape)}")
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")


def _implementation(backend, x, dictionary, bandwidth, kernel):
    """The module that evaluates such a call."""
    wanted = {"auto": gpu if x.is_cuda else cpu, "cpu": cpu, "triton": gpu}.get(backend, portable)
    covered = wanted is portable or wanted.supports(x, dictionary, bandwidth, kernel)
    return wanted if covered else portable


def _forward(x, alpha, dictionary, bandwidth, kernel, backend):
    code = _implementation(backend, x, dictionary, bandwidth, kernel)
    return code.forward(x, alpha, dictionary, bandwidth, kernel)


def _gradients(grad, x, alpha, dictionary, bandwidth, kernel, backend, needs):
    code = _implementation(backend, x, dictionary, bandwidth, kernel)
    return code.backward(grad, x, alpha, dictionary, bandwidth, kernel, needs)


@library.custom_op("kafnets::kaf", mutates_args=())
def _kaf(
    x: torch.Tensor,
    alpha: torch.Tensor,
    dictionary: torch.Tensor,
    bandwidth: torch.Tensor,
    kernel: str,
    backend: str,
) -> torch.Tensor:
    return _forward(x, alpha, dictionary, bandwidth, kernel, backend)


@library.custom_op("kafnets::kaf_backward", mutates_args=())
def _kaf_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    alpha: torch.Tensor,
    dictionary: torch.Tensor,
    bandwidth: torch.Tensor,
    kernel: str,
    backend: str,
    needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    gradients = _gradients(grad, x, alpha, dictionary, bandwidth, kernel, backend, needs)
    # An operator cannot return None: a gradient nobody asked for is an empty tensor.
    return tuple(x.new_empty(0) if g is None else g for g in gradients)


@_kaf.register_fake
def _(x, alpha, dictionary, bandwidth, kernel, backend):
    return torch.empty_like(x)


@_kaf_backward.register_fake
def _(grad, x, alpha, dictionary, bandwidth, kernel, backend, needs):
    inputs = (x, alpha, dictionary, bandwidth)
    return tuple(
        torch.empty_like(t) if need else x.new_empty(0) for t, need in zip(inputs, needs, strict=True)
    )


def _setup_context(ctx, inputs, output):
    *tensors, ctx.kernel, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(differentiate, ctx, grad):
    needs = list(ctx.needs_input_grad[:4])
    if not any(needs):
        return (None,) * 6
    gradients = differentiate(grad, *ctx.saved_tensors, ctx.kernel, ctx.backend, needs)
    return *(g if need else None for g, need in zip(gradients, needs, strict=True)), None, None


def _setup_backward_context(ctx, inputs, output):
    *tensors, ctx.kernel, _, ctx.needs = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, *cotangents):
    # The second derivatives are asked for rarely (gradient alignment, curvature): take those of the formula.
    with torch.enable_grad():
        grad, *inputs = (t if t.requires_grad else t.detach().requires_grad_() for t in ctx.saved_tensors)
        wanted = [t for t, need in zip(inputs, ctx.needs, strict=True) if need]
        y = kaf_plain(*inputs, ctx.kernel)
        first = torch.autograd.grad(y, wanted, grad, create_graph=True, materialize_grads=True)
        given = [c for c, need in zip(cotangents, ctx.needs, strict=True) if need]
        pairs = [(f, c) for f, c in zip(first, given, strict=True) if c is not None and f.requires_grad]
        second = torch.autograd.grad(
            [f for f, _ in pairs],
            [grad, *inputs],
            [c for _, c in pairs],
            create_graph=True,
            materialize_grads=True,
        )
    wanted = ctx.needs_input_grad[:5]
    return *(g if need else None for g, need in zip(second, wanted, strict=True)), None, None, None


_kaf.register_autograd(partial(_backward, _kaf_backward), setup_context=_setup_context)
_kaf_backward.register_autograd(_double_backward, setup_context=_setup_backward_context)


# Function.apply asks for the signature at every call: 10 microseconds, unless it lies ready.
for _function in (_forward, _gradients):
    _function.__signature__ = inspect.signature(_function)


class _KafBackward(torch.autograd.Function):
    forward = staticmethod(_gradients)
    setup_context = staticmethod(_setup_backward_context)
    backward = staticmethod(_double_backward)


def _gradients_or_node(*arguments):
    """The gradients; with create_graph as a node of the graph, so that they can be differentiated again."""
    return (_KafBackward.apply if torch.is_grad_enabled() else _gradients)(*arguments)


class _Kaf(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(partial(_backward, _gradients_or_node))
