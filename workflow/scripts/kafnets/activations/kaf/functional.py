"""KAF as a function, and the choice of the code that evaluates it.

`kaf` is one operator to autograd, torch.compile and torch.func. It saves its input and the small parameters,
nothing else, and hands the arithmetic to a backend chosen by device; `kaf_plain` is the formula as printed,
kept as the oracle that every backend is tested against, and evaluated where no operator of this library can
stand: in an exported network, and in forward-mode differentiation.
"""

import inspect
import os
from functools import partial

import torch
from torch import library
from torch.autograd import forward_ad

from ...runtime.errors import UserError
from . import cpu, gpu, portable, second
from .kernels import FAR, KERNELS
from .portable import compute_dtype

BACKENDS = ("auto", "plain", "portable", "cpu", "triton")
BACKEND_VARIABLE = "KAFNETS_KAF_BACKEND"

_forced = None

torch.fx.wrap("kaf")  # one call in what torch.fx traces


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
    """The backend in force: that of :func:`set_backend`, else of ``KAFNETS_KAF_BACKEND``, else ``"auto"``.

    Raises:
        UserError: if the environment variable names none (empty, it counts as not set).
    """
    if _forced is not None:
        return _forced
    return check_backend(
        os.environ.get(BACKEND_VARIABLE) or "auto", f"environment variable {BACKEND_VARIABLE}"
    )


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


def check_backend(name, argument="backend"):
    """`name` if it is a backend's, else a UserError about `argument`."""
    if name not in BACKENDS:
        raise UserError(f"{argument} must be one of {', '.join(BACKENDS)}, got {name!r}")
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
    if _must_be_plain():
        return _differentiable_plain(x, alpha, dictionary, bandwidth, kernel)
    evaluate = _kaf if _is_watched() else _Kaf.apply
    return evaluate(x, alpha, dictionary, bandwidth, kernel, backend)


def needs_plain_steps():
    """Whether the tensors at hand are a transform's, or their operations are written down for elsewhere."""
    return _must_be_plain() or _is_transformed()


def _must_be_plain():
    """Whether a network is exported or traced, differentiated forwards, or compiled inside a transform."""
    return (
        torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or _is_forward_mode()
        or (_is_transformed() and _is_watched())
    )


def _is_watched():
    """Whether torch.compile or a dispatch mode (fake tensors, make_fx) has to see the operator.

    Elsewhere its dispatch would cost more than a small tensor.
    """
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def _is_forward_mode():
    return forward_ad._current_level >= 0  # torch has no public question; torch.func.jvp counts here too


def _is_transformed():
    return torch._C._are_functorch_transforms_active()  # what torch.autograd.Function.apply asks


def _check(x, alpha, dictionary, bandwidth, kernel):
    if not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
    size = alpha.shape
    if len(size) != 2:
        raise ValueError(f"alpha must be (C, D), got {tuple(size)}")
    if x.dim() < 2 or x.shape[1] != size[0]:
        raise ValueError(f"x must be (N, {size[0]}, *) for these alpha, got {tuple(x.shape)}")
    if dictionary.shape not in (size[1:], size):
        raise ValueError(f"dictionary must be (D,) or (C, D) like alpha, got {tuple(dictionary.shape)}")
    if bandwidth.shape not in ((), size[:1]):
        raise ValueError(f"bandwidth must be () or (C,), got {tuple(bandwidth.shape)}")
    if not x.device == alpha.device == dictionary.device == bandwidth.device:
        raise ValueError(
            f"x must be on the device of alpha, dictionary and bandwidth, got {x.device} and "
            f"{alpha.device}, {dictionary.device}, {bandwidth.device}"
        )
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
    ctx.set_materialize_grads(False)


def _differentiable_plain(x, alpha, dictionary, bandwidth, kernel):
    """kaf_plain, with derivatives by torch's own rules that are 0, not inf * 0, at an infinite `x`."""
    values = x.to(compute_dtype(x))
    values = values.clamp(-FAR, FAR) if kernel == "gaussian" else values
    return kaf_plain(values, alpha, dictionary, bandwidth, kernel).to(x.dtype)


def _plain_gradients(grad, x, alpha, dictionary, bandwidth, kernel, needs):
    """The gradients of the formula that are needed, in its order: differentiable in every way of torch's."""
    tensors = [x, alpha, dictionary, bandwidth]
    wanted = [i for i, need in enumerate(needs) if need]

    def formula(*values):
        given = dict(zip(wanted, values, strict=True))
        return _differentiable_plain(*(given.get(i, t) for i, t in enumerate(tensors)), kernel)

    return torch.func.vjp(formula, *(tensors[i] for i in wanted))[1](grad)


def _double_backward(ctx, *cotangents):
    once = not (torch.is_grad_enabled() or _is_transformed())
    return second.derivatives(ctx, cotangents, _plain_gradients, once)


_kaf.register_autograd(partial(_backward, _kaf_backward), setup_context=_setup_context)
_kaf_backward.register_autograd(_double_backward, setup_context=_setup_backward_context)


# Function.apply asks for the signature at every call: 10 microseconds, unless it lies ready.
for _function in (_forward, _gradients):
    _function.__signature__ = inspect.signature(_function)


def _fold_input(x, at, size):
    """(N, C, *) with a vmapped dimension `at`, or with none -> (N, size * C, *)."""
    x = x.unsqueeze(1).expand(-1, size, *x.shape[1:]) if at is None else x.movedim(at, 1)
    return x.flatten(1, 2)


def _fold_parameter(parameter, at, size, channels, dims, own):
    """A parameter of `dims` dimensions, or one less where the channels share it -> (size * C, ...).

    `own`: also what all channels share and no dimension is vmapped of, which may stay as it is otherwise.
    """
    if at is None and not own and parameter.dim() < dims:
        return parameter
    parameter = parameter.expand(size, *parameter.shape) if at is None else parameter.movedim(at, 0)
    if parameter.dim() == dims:
        parameter = parameter.unsqueeze(1).expand(-1, channels, *parameter.shape[1:])
    return parameter.flatten(0, 1)


def _fold(size, in_dims, x, alpha, dictionary, bandwidth, own=(False, False)):
    """The arguments of one call whose channels are those of all elements of the vmapped dimension."""
    channels = _channels(alpha, in_dims[1])
    return (
        _fold_input(x, in_dims[0], size),
        _fold_parameter(alpha, in_dims[1], size, channels, 2, own=True),
        _fold_parameter(dictionary, in_dims[2], size, channels, 2, own[0]),
        _fold_parameter(bandwidth, in_dims[3], size, channels, 1, own[1]),
    )


def _channels(alpha, at):
    return alpha.shape[1 if at == 0 else 0]


def _unfolded(info, at, alpha):
    """The sizes that the folded channels are of: those of the vmapped dimension and the channels."""
    return info.batch_size, _channels(alpha, at)


class _Kaf(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(ctx, grad):
        return _backward(_gradients_or_node, ctx, grad)

    @staticmethod
    def vmap(info, in_dims, x, alpha, dictionary, bandwidth, kernel, backend):
        folded = _fold(info.batch_size, in_dims, x, alpha, dictionary, bandwidth)
        return _Kaf.apply(*folded, kernel, backend).unflatten(1, _unfolded(info, in_dims[1], alpha)), 1


class _KafBackward(torch.autograd.Function):
    forward = staticmethod(_gradients)
    setup_context = staticmethod(_setup_backward_context)
    backward = staticmethod(_double_backward)

    @staticmethod
    def vmap(info, in_dims, grad, x, alpha, dictionary, bandwidth, kernel, backend, needs):
        folded = _fold(info.batch_size, in_dims[1:], x, alpha, dictionary, bandwidth, needs[2:])
        grad, size = _fold_input(grad, in_dims[0], info.batch_size), _unfolded(info, in_dims[2], alpha)
        by_x, *others = _KafBackward.apply(grad, *folded, kernel, backend, needs)
        by_x = None if by_x is None else by_x.unflatten(1, size)
        others = [None if g is None else g.unflatten(0, size) for g in others]
        # what the channels share gets the sum over them
        for i, parameter, at in ((1, dictionary, in_dims[3]), (2, bandwidth, in_dims[4])):
            if others[i] is not None and others[i].dim() > parameter.dim() + (at is None):
                others[i] = others[i].sum(1)
        return (by_x, *others), (None if by_x is None else 1, *(None if g is None else 0 for g in others))


def _gradients_or_node(*arguments):
    """The gradients; where they may be differentiated again, or are vmapped, as a node of the graph."""
    *tensors, kernel, _, needs = arguments
    if _is_forward_mode() or torch._C._functorch.is_legacy_batchedtensor(tensors[0]):
        found = iter(_plain_gradients(*tensors, kernel, needs))
        return tuple(next(found) if need else None for need in needs)
    as_node = torch.is_grad_enabled() or _is_transformed()
    return (_KafBackward.apply if as_node else _gradients)(*arguments)
