"""How many kernels a GPU launches for one step of a training, counted on the CPU.

    python -m benchmarks.kernels                    # relu and kaf, fused and layer by layer
    python -m benchmarks.kernels swish --precision float32 --architecture vgg

A step is dispatched operator by operator, and each is one kernel, none, or several: the numbers below are
those of torch 2.11's CUDA operators, channels-last, in bfloat16; a fused operator counts as its own launches.
A GPU profiler sees more, such as memory that libraries set to zero: on an H200 905 for relu layer by layer.
"""

import argparse
import collections
import contextlib
import functools
from unittest import mock

import torch
from kafnets.models.fused import operators
from kafnets.training.training import PRECISIONS, Training
from torch.utils._python_dispatch import TorchDispatchMode

from .training import random_images, settings

_BATCH = 4
_FUSED = 2  # kernels of `normalise_activate` each way
_FOREACH = 110  # tensors of one launch, with one list of them
_CONCATENATED = 128
# The fill of a semaphore, statistics, running averages, the values; the fill, sums, the gradient.
_NORMALISATION = {"native_batch_norm": 4, "native_batch_norm_backward": 3}
_SEVERAL = {**_NORMALISATION, "nll_loss_backward": 2, "linalg_vector_norm": 1}
_KINDS = {
    "convolution": "convolutions",
    "convolution_backward": "convolutions",
    "addmm": "dense layer",
    "mm": "dense layer",
    "_to_copy": "casts",
    "_foreach_copy_": "casts",
    "constant_pad_nd": "padding",
    "_fused_sgd_": "optimiser",
    "_foreach_norm": "optimiser",
    "kaf": "activations",
    "relu": "activations",
    "threshold_backward": "activations",
    "silu": "activations",
    "silu_backward": "activations",
    **dict.fromkeys(_NORMALISATION, "normalisations"),
}


def count(activation, *, fused, architecture="resnet20", precision="bfloat16"):
    """The kernels of one FBF step, by kind.

    Args:
        activation (str): of the network.
        fused (bool): as of :class:`kafnets.training.training.Training`.
        architecture (str): with the thesis's block, where it has several.
        precision (str): of the products.

    Returns:
        Counter: kind to number of kernels.
    """
    chosen = settings(activation, precision)
    chosen |= {"architecture": architecture}
    chosen["architecture_arguments"] = {} if architecture == "vgg" else {"block": "thesis"}
    chosen["training"] |= {"batch_size": _BATCH}
    training = Training(chosen, random_images(_BATCH), torch.device("cpu"), deferred=True, fused=fused)
    training.tried = True
    training.network.precision = PRECISIONS[precision]
    (rows,) = training.batches.epoch(0)
    counter = Counter()
    with mock.patch.object(operators, "normalise_activate", functools.partial(_operator, counter)), counter:
        training._step(rows)  # what a graph captures
    weight_gradients = counter.kernels["weight gradients"]
    counter.kernels["weight gradients"] += -(-weight_gradients // 2)  # their parts are added up: 11 of 21
    return +counter.kernels


class Counter(TorchDispatchMode):
    """Counts the kernels of what is dispatched within the block."""

    def __init__(self):
        super().__init__()
        self.kernels, self.silent = collections.Counter(), False

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if not self.silent:
            for kind, number in _kernels(operator, args).items():
                self.kernels[kind] += number
        return result

    @contextlib.contextmanager
    def silence(self):
        """What is dispatched within the block belongs to an operator that is counted as a whole."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before


def _kernels(operator, args):
    """Kind to number of the kernels of one operator."""
    name = operator._schema.name.partition("::")[2]
    if operator.namespace == "profiler" or name.startswith(("empty", "new_empty")) or _is_view(operator):
        return {}
    if name == "convolution":
        return {"convolutions": 1, "biases of convolutions": int(args[2] is not None)}
    if name == "convolution_backward":
        inputs, weights, biases = args[-1]
        return {"convolutions": inputs, "weight gradients": weights, "biases of convolutions": biases}
    if name == "kaf_backward":
        return {"activations": 1 + any(args[-1][1:])}  # the parts of the parameters' gradients are added up
    return {_kind(operator, name, args): _number(name, args)}


def _is_view(operator):
    returned = operator._schema.returns
    return any(one.alias_info is not None and not one.alias_info.is_write for one in returned)


def _kind(operator, name, args):
    if name in _KINDS:
        return _KINDS[name]
    if name in ("zeros", "zeros_like", "ones_like", "full_like", "fill_", "zero_"):
        return "fills"
    if name == "add_" and args[0].dim() == 0 and args[0].dtype is torch.int64:
        return "counters"
    images = any(isinstance(one, torch.Tensor) and one.dim() == 4 for one in args)
    return "others, on images" if images else "others"


def _number(name, args):
    """How many kernels, of an operator that is no convolution."""
    if name.startswith("_foreach") or name == "_fused_sgd_":
        lists = [one for one in args if isinstance(one, list | tuple) and one]
        launches = -(-len(lists[0]) // (_FOREACH * 2 // (len(lists) + 1)))
        return launches + 2 if name == "_foreach_norm" else launches  # a fill before, the parts' sums after
    if name in ("cat", "stack"):
        return -(-len(args[0]) // _CONCATENATED)
    if name == "constant_pad_nd":
        return 2 if max(args[1]) > 0 else 1  # a fill and a copy; a copy
    return _SEVERAL.get(name, 1)


def _operator(counter, x, norm, activation, *, added=None, residual=None, shift=None, copies=1):
    """:func:`operators.normalise_activate`, in torch's own operations, counted as its own kernels."""
    parameters = [*norm.parameters(), *activation.parameters()]
    call = functools.partial(_plainly, norm, activation, shift, copies)
    y = _Opaque.apply(counter, call, x, added, residual, *parameters)
    return y[0] if copies == 1 else y


def _plainly(norm, activation, shift, copies, x, added, residual):
    y = operators.plain(x, norm, activation, added=added, residual=residual, shift=shift)
    return (y,) * copies


class _Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counter, call, x, added, residual, *parameters):
        ctx.set_materialize_grads(False)
        inputs = [None if t is None else t.detach().requires_grad_() for t in (x, added, residual)]
        with counter.silence(), torch.enable_grad():
            ctx.outputs = call(*inputs)
        ctx.counter, ctx.inputs = counter, [*inputs, *parameters]
        counter.kernels["fused operators"] += _FUSED
        counter.kernels["copies for fused operators"] += _copies(x, (added, residual))
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx, *grads):
        counter = ctx.counter
        pairs = [(y, grad) for y, grad in zip(ctx.outputs, grads, strict=True) if grad is not None]
        needed = [t for t, needs in zip(ctx.inputs, ctx.needs_input_grad[2:], strict=True) if needs]
        counter.kernels["fused operators"] += _FUSED
        counter.kernels["copies for fused operators"] += _copies(ctx.inputs[0], [grad for _, grad in pairs])
        with counter.silence():
            found = iter(torch.autograd.grad([y for y, _ in pairs], needed, [grad for _, grad in pairs]))
        return None, None, *(next(found) if needs else None for needs in ctx.needs_input_grad[2:])


def _copies(x, others):
    """How many tensors are copied first, because they do not lie in memory as x does."""
    return sum(other is not None and other.stride() != x.stride() for other in others)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("activations", nargs="*", default=["relu", "kaf"])
    parser.add_argument("--architecture", default="resnet20")
    parser.add_argument("--precision", default="bfloat16", choices=PRECISIONS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for activation in arguments.activations:
        given = {"architecture": arguments.architecture, "precision": arguments.precision}
        print_table(activation, *(count(activation, fused=fused, **given) for fused in (False, True)))


def print_table(activation, plain, fused):
    print(f"{activation:34}{'layer by layer':>16}{'fused':>8}")
    for kind in sorted({*plain, *fused}, key=lambda kind: -plain[kind]):
        print(f"{kind:34}{plain[kind]:16}{fused[kind]:8}")
    print(f"{'all':34}{plain.total():16}{fused.total():8}")


if __name__ == "__main__":
    main()
