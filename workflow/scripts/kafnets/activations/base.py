"""What the activations that learn share: whose their parameters are, and what a backward pass keeps.

One curve of one number, whose parameters belong to a channel, to a layer, or to the whole network.
"""

import math
from numbers import Integral, Real
from types import MappingProxyType

import torch
from torch import nn
from torch.autograd import forward_ad

from ..registry import ACTIVATIONS, is_trainable
from ..runtime.errors import UserError

SHARES = ("channel", "layer", "network")
# Functions to start as, beside the fixed activations of the registry.
_SHAPES = {
    "identity": lambda x: x.clone(),
    "abs": torch.abs,
    "leaky_relu": lambda x: nn.functional.leaky_relu(x, 0.01),
}


class Learned(nn.Module):
    r"""Base class: parameters per channel, per layer or for the network, and one function of a number.

    A subclass registers its parameters with :meth:`hold` and computes :meth:`curve`. The value is computed in
    float32 (float64 for a float64 input), whatever autocast says, and returned in the dtype of the input; for
    the backward pass only the input and the parameters are kept, and the curve is computed again.

    Args:
        channels: number of channels, or of units of a dense layer.
        share: ``"channel"``: each has its own parameters; ``"layer"``: one set for all; ``"network"``: one
            set too, which :func:`kafnets.activations.layer_factory` ties over all layers of a network.

    Shape:
        - Input: :math:`(N, C, *)`, channels at dim 1
        - Output: as the input

    Raises:
        ValueError: naming the bad argument, or an input whose dim 1 is not ``channels``.
    """

    takes_share = True
    elementwise = True
    # the absolute value at which a training clips the gradient of a parameter, by its name
    gradient_limits = MappingProxyType({})

    def __init__(self, channels, share):
        super().__init__()
        require(is_count(channels, 1), "channels", "a positive integer", channels)
        require(share in SHARES, "share", f"one of {', '.join(SHARES)}", share)
        self.channels, self.share = int(channels), share
        self.rows = self.channels if share == "channel" else 1

    def hold(self, name, *shape):
        """Registers a parameter of this shape for each channel (for all of them where they share it)."""
        dtype = torch.get_default_dtype()
        dtype = torch.float32 if dtype.itemsize < 4 else dtype
        setattr(self, name, nn.Parameter(torch.empty(self.rows, *shape, dtype=dtype)))

    def curve(self, x, *parameters):
        """The function; parameters come in the order of :meth:`hold`, their rows along `x`'s channels."""
        raise NotImplementedError

    def forward(self, x):
        if not x.is_floating_point():
            raise ValueError(f"x must be a floating-point tensor, got {x.dtype}")
        if x.dim() < 2 or (self.rows > 1 and x.shape[1] != self.rows):
            raise ValueError(f"x must be (N, {self.channels}, *), got {tuple(x.shape)}")
        parameters = tuple(self._parameters.values())
        if not _may_recompute():
            return self._wide(x, *parameters)
        return _Recomputed.apply(self._wide, x, *parameters)

    def _wide(self, x, *parameters):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        ones = [1] * (x.dim() - 2)
        rows = (p.to(dtype).reshape(1, p.shape[0], *ones, *p.shape[1:]) for p in parameters)
        return self.curve(x.to(dtype), *rows).to(x.dtype)

    def _apply(self, fn, recurse=True):
        """As of every module, for to(), half(), cuda() and the like, but the parameters stay wide."""

        def wide(tensor):
            moved = fn(tensor)
            narrow = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device, torch.float32) if narrow else moved

        return super()._apply(wide, recurse)

    def extra_repr(self):
        return f"{self.channels}, share={self.share}"


class _Recomputed(torch.autograd.Function):
    """A function of tensors that keeps its arguments alone and computes itself again in the backward pass."""

    @staticmethod
    def forward(ctx, function, *tensors):
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx, grad):
        again = torch.is_grad_enabled()  # to be differentiated once more
        needs = ctx.needs_input_grad[1:]
        tensors = ctx.saved_tensors
        if not again:
            tensors = [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
        with torch.enable_grad():
            value = ctx.function(*tensors)
        wanted = [t for t, need in zip(tensors, needs, strict=True) if need]
        found = iter(torch.autograd.grad(value, wanted, grad, create_graph=again, materialize_grads=True))
        return None, *(next(found) if need else None for need in needs)


def _may_recompute():
    """Whether torch neither compiles, traces or transforms what it sees nor differentiates it forwards."""
    return not (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


@torch.no_grad()
def start_values(init, points):
    """What the function `init`, a name or a callable on tensors, is on `points` (float64).

    Raises:
        UserError: for an unknown name, or a function that is not finite there.
    """
    fixed = [name for name in ACTIVATIONS if not is_trainable(name) and ACTIVATIONS[name].elementwise]
    known = isinstance(init, str) and init in (*_SHAPES, *fixed)
    require(callable(init) or known, "init", f"one of {', '.join((*_SHAPES, *fixed))}, or a callable", init)
    if known:
        entry = ACTIVATIONS.get(init)
        init = _SHAPES.get(init) or entry.load()(**entry.arguments)
    values = init(points)
    fits = isinstance(values, torch.Tensor) and values.shape == points.shape and values.isfinite().all()
    require(fits, "init", "a function that gives a finite number for each point", name_of(init))
    return values.detach().double()


def name_of(function):
    """What repr() shows of a name or a callable."""
    return function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)


def require(holds, name, wanted, value):
    """Raises a UserError that names an argument unless `holds`."""
    if not holds:
        raise UserError(f"{name} must be {wanted}, got {value!r}")


def require_between(name, value, least, most):
    """Raises a UserError unless the argument is a number from `least` to `most`."""
    number = value if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    require(least <= number <= most, name, f"a number from {least:g} to {most:g}", value)


def is_count(value, least, most=math.inf):
    """Whether `value` is an integer within these bounds."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most
