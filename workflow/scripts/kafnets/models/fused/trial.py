"""Whether the fused layers give on this machine what torch's own operations do.

A compiler, driver or GPU that gets them wrong, or not at all, costs speed and a line in the log, no result.
"""

import copy
import logging

import torch
from torch import nn

log = logging.getLogger(__name__)

# of the largest value; the oracle computes in float32
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}
_GIVEN = {"added", "residual"}


def agrees(run, oracle, x, norm, activation, given, copies):
    """Whether `run` and `oracle` are the same function: of values, gradients, running averages and counter.

    Args:
        run, oracle (callable): with the arguments of :func:`.operators.normalise_activate`.
        x (Tensor), norm (nn.BatchNorm2d), activation (nn.Module): those of a call; their shapes, dtypes and
            settings are taken, not their values.
        given (set): "added", "residual", "shift": which of them to give.
        copies (int): of the output.
    """
    try:
        ours, theirs = (
            _results(code, x, norm, activation, given, copies, dtype)
            for code, dtype in ((run, x.dtype), (oracle, torch.float32))
        )
        tolerance = _TOLERANCES[x.dtype]
        alike = all(
            (a.float() - b.float()).abs().max() <= tolerance * b.abs().max().clamp(min=1)
            for a, b in zip(ours, theirs, strict=True)
        )
        reason = "" if alike else "their results differ"
    except Exception as error:  # whatever a compiler may raise
        alike, reason = False, str(error).partition("\n")[0]
    if not alike:
        log.warning(
            "Fused layers do not work on this %s (%s); torch's own operations run",
            "GPU" if x.is_cuda else "CPU",
            reason,
        )
    return alike


def _results(code, x, norm, activation, given, copies, dtype):
    """Outputs, gradients and buffers of a call on few random images, the same whatever the dtype."""
    generator = torch.Generator().manual_seed(0)
    channels = x.shape[1]
    side_by_side = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if side_by_side else torch.contiguous_format

    def numbers(*shape, dtype=torch.float32):
        values = torch.randn(shape, generator=generator)
        return values.to(x.device, dtype)

    def images():
        # sixteenths, of which sums are exact
        values = numbers(2, channels, 8, 8).clamp(-4, 4).mul(16).round().div(16).to(dtype)
        return values.contiguous(memory_format=layout).requires_grad_()

    norm, activation = _likeness(norm, x.device), copy.deepcopy(activation).requires_grad_()
    parameters = [*norm.parameters(), *activation.parameters()]
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        for parameter in parameters:
            parameter.copy_(numbers(*parameter.shape))
    tensors = [images() for _ in range(1 + len(given & _GIVEN))]
    more = dict(zip(sorted(given & _GIVEN), tensors[1:], strict=True))
    shift = numbers(channels) if "shift" in given else None
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        outputs = code(tensors[0], norm, activation, shift=shift, copies=copies, **more)
        outputs = outputs if copies > 1 else (outputs,)
        grads = [images().detach() for _ in outputs]
        gradients = torch.autograd.grad(outputs, [*tensors, *parameters], grads)
    return [*outputs, *gradients, *norm.buffers()]


def _likeness(norm, device):
    """A fresh normalisation with the settings of `norm`."""
    settings = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    return nn.BatchNorm2d(*settings, device=device)
