"""KAF with a base on the GPU: the kernels of `gpu` add base and tails to what they hold in registers."""

import functools
import logging

import torch

from . import gpu, portable
from .bases import Form, composed, end_slopes

log = logging.getLogger(__name__)

# Each base and each kind of tails: every case is a pair of kernels to compile.
_CASES = (("identity", "zero"), ("relu", "clamp"), ("elu", "linear"), ("silu", "zero"))


def supports(x, dictionary, bandwidth, form):
    """Whether the kernels cover such a call."""
    shared = dictionary.dim() == 1 and bandwidth.dim() == 0
    return (
        (shared or form.tails == "zero")
        and gpu.supports(x, dictionary, bandwidth, "gaussian")
        and available()
    )


@functools.cache
def available():
    """Whether they agree, where there is a GPU, with the formula (tried once)."""
    return not torch.cuda.is_available() or agrees(torch.device("cuda"))


def agrees(device):
    """Whether values and gradients of both kernels, on a small input on `device`, are the formula's."""
    try:
        alike = all(_agrees(Form(*case, 3.0), device) for case in _CASES)
        reason = "" if alike else "its results differ"
    except Exception as error:  # whatever a compiler may raise
        alike, reason = False, str(error).partition("\n")[0]
    if not alike:
        log.warning("KAF with a base: its Triton kernels do not work on this GPU (%s); others run", reason)
    return alike


def _agrees(form, device):
    generator = torch.Generator().manual_seed(0)
    x, grad = (2 * torch.randn(2, 3, 5, 4, 4, generator=generator)).to(device)
    weight, alpha = torch.randn(5, 21, generator=generator).to(device).split([1, 20], 1)
    dictionary = torch.linspace(-3, 3, 20, device=device)
    tensors = [x, weight[:, 0], alpha, dictionary, torch.tensor(1 / (6 * (6 / 19) ** 2), device=device)]
    ours = [forward(*tensors, form), *backward(grad, *tensors, form, (True, True, True, False, False))[:3]]
    tensors = [t.detach().requires_grad_(i < 3) for i, t in enumerate(tensors)]
    with torch.enable_grad():
        value = composed(*tensors, form, "portable")
    theirs = [value, *torch.autograd.grad(value, tensors[:3], grad)]
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(ours, theirs, strict=True))


def forward(x, weight, alpha, dictionary, bandwidth, form):
    """The value of :func:`.bases.composed`."""
    x, out = gpu._dense(x)
    y = torch.empty_like(x)
    if x.numel():
        grid, arguments = gpu._launch(x, alpha, dictionary, bandwidth)
        ends = _end_slopes(arguments, form) if form.tails == "linear" else None
        with torch.cuda.device_of(x):
            gpu._kernels().forward[grid](x, y, ends=ends, **arguments, **_of_base(weight, form))
    return y if out is None else out.copy_(y)


def backward(grad, x, weight, alpha, dictionary, bandwidth, form, needs):
    """Gradients of x, weight, alpha, dictionary, bandwidth; None where `needs` (five booleans) is False."""
    needs_x, needs_weight, needs_alpha, needs_dictionary, needs_bandwidth = needs
    x, out = gpu._dense(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    grad_x = torch.empty_like(x) if needs_x else None
    order = 2 if needs_bandwidth else 1 if needs_dictionary else 0 if needs_alpha else -1
    of_base = needs_weight or (needs_alpha and form.tails == "linear")
    grid, arguments = gpu._launch(x, alpha, dictionary, bandwidth) if x.numel() else ((1, 1), {})
    make = x.new_empty if x.numel() else x.new_zeros
    sums = make(order + 1, grid[0], *alpha.shape, dtype=torch.float32)
    base_sums = make(3 if form.tails == "linear" else 1, grid[0], alpha.shape[0], dtype=torch.float32)
    if x.numel():
        with torch.cuda.device_of(x):
            gpu._kernels().backward[grid](
                *(x, grad, grad_x, sums),
                **{"NEEDS_X": needs_x, "ORDER": order, "NEEDS_BASE": of_base, "base_sums": base_sums},
                **arguments,
                **_of_base(weight, form),
            )
    sums, base_sums = sums.sum(1), base_sums.sum(1)
    by_alpha = sums[0] if needs_alpha else None
    if needs_alpha and form.tails == "linear":
        at_ends = torch.eye(alpha.shape[1], dtype=torch.float32, device=x.device)
        slopes = end_slopes(at_ends, dictionary.float(), bandwidth.float(), form.boundary)  # of each kernel
        by_alpha = by_alpha + base_sums[1:].T @ slopes.T
    return (
        (grad_x if out is None else out.copy_(grad_x)) if needs_x else None,
        base_sums[0].to(weight.dtype) if needs_weight else None,
        by_alpha.to(alpha.dtype) if needs_alpha else None,
        portable.like(sums[1], dictionary) if needs_dictionary else None,
        portable.like(sums[2].sum(1), bandwidth) if needs_bandwidth else None,
    )


def _end_slopes(arguments, form):
    parameters = (arguments[name] for name in ("alpha", "dictionary", "bandwidth"))
    return end_slopes(*parameters, form.boundary).contiguous()


def _of_base(weight, form):
    return {
        "base_weight": weight.detach().float().contiguous(),
        "boundary": form.boundary,
        "BASE": form.base_number,
        "TAILS": form.tails_number,
    }
