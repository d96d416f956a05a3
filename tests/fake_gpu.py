"""A GPU that is not here: tensors with a device, a shape and a layout, and no numbers in them.

What a CUDA graph cannot hold shows on it: a value that the host asks for, tensors of two devices, a copy from
the host's memory. Triton's own code binds the kernels' arguments; they are neither compiled nor launched.
"""

import collections
import contextlib
import functools
from unittest import mock

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
# operators that change their arguments, of which torch does not know what becomes of fake ones
_IN_PLACE = ("_fused_sgd_", "_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_")


@contextlib.contextmanager
def fake_gpu():
    """Within the block all tensors are fake ones, and may be on `GPU`."""
    sgd = torch.optim.SGD
    with contextlib.ExitStack() as stack:

        def patched(*what, **how):
            stack.enter_context(mock.patch(*what, **how))

        patched("torch.autograd.grad", grad)
        patched("torch.Tensor.backward", backward)
        patched(
            "torch.optim.SGD", functools.partial(_optimiser, sgd)
        )  # it looks whether the rate is negative
        patched("torch.nn.Module._apply", _apply)
        patched("torch.cuda.device_of", lambda tensor: contextlib.nullcontext())
        patched("torch.cuda.is_bf16_supported", lambda *_: True)
        patched("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        # in the place of what waits for the device before the first step: a trial, a look at the dictionary
        patched("kafnets.models.fused.operators._work", lambda *_, **__: True)
        patched("kafnets.activations.kaf.gpu.available", lambda: True)
        patched("kafnets.activations.kaf.layer.KAF._narrowness", lambda _: 1 / 6)
        # the code for tensors with numbers in them, not that for those who only look at the operators
        patched("kafnets.models.fused.operators._is_transformed", lambda: False)
        patched("kafnets.activations.kaf.functional._is_watched", lambda: False)
        patched("torch._subclasses.FakeTensorMode.__deepcopy__", lambda mode, _: mode, create=True)
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


class Watch(TorchDispatchMode):
    """Looks at all operators and Triton kernels within the block.

    Attributes:
        elsewhere (Counter): operators of which a tensor is not on the GPU.
        launches (Counter): kernels of Triton, by name.
    """

    def __init__(self):
        super().__init__()
        self.elsewhere, self.launches = collections.Counter(), collections.Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.partition("::")[2]
        result = None if name in _IN_PLACE else operator(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        kinds = sorted({t.device.type for t in tensors} - {"cuda", "meta"})  # meta: nothing is copied
        if kinds:
            self.elsewhere[f"{name}: {', '.join(kinds)}"] += 1
        return result

    def __enter__(self):
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia.compiler import CUDABackend
        from triton.runtime import jit

        backend, binders = CUDABackend(GPUTarget("cuda", 90, 32)), {}

        def run(kernel, *args, grid, warmup, **named):
            if kernel not in binders:
                binders[kernel] = jit.create_function_from_signature(kernel.signature, kernel.params, backend)
            args, named = map(_pointer, args), {name: _pointer(value) for name, value in named.items()}
            binders[kernel](*args, **named, debug=False, instrumentation_mode="")
            self.launches[kernel.__name__] += 1

        self.patch = mock.patch.object(jit.JITFunction, "run", run)
        self.patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.stop()
        return super().__exit__(*error)


class _Pointer:
    """What Triton asks of a tensor."""

    def __init__(self, tensor):
        assert tensor.is_cuda, "a kernel was given a tensor in the host's memory"
        self.dtype, self.offset = tensor.dtype, tensor.storage_offset() * tensor.element_size()

    def data_ptr(self):
        return self.offset


def _pointer(value):
    if type(value) is tuple:
        return tuple(map(_pointer, value))
    return _Pointer(value) if isinstance(value, torch.Tensor) else value


def _optimiser(kind, parameters, lr, **settings):
    """The constructor asks whether the rate is negative, and waits for the answer: once, before all steps."""
    optimizer = kind(parameters, lr=0.0, **settings)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return optimizer


def _apply(module, function, recurse=True):
    """As :meth:`nn.Module._apply`, which would swap the insides of fake tensors."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            value = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
            module._parameters[name] = value
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


# -- the chain rule, in Python: torch's own engine asks the driver for the GPU


def grad(outputs, inputs, grad_outputs=None, create_graph=False, **_):
    """As :func:`torch.autograd.grad`."""
    outputs, inputs = ([one] if isinstance(one, torch.Tensor) else list(one) for one in (outputs, inputs))
    if grad_outputs is None:
        grad_outputs = [torch.ones_like(output) for output in outputs]
    elif isinstance(grad_outputs, torch.Tensor):
        grad_outputs = [grad_outputs]
    edges = [get_gradient_edge(tensor) for tensor in inputs]
    with torch.set_grad_enabled(create_graph):
        found = _go_back(outputs, grad_outputs, {edge.node for edge in edges})
    return tuple(found.get((edge.node, edge.output_nr)) for edge in edges)


def backward(tensor, gradient=None):
    """As :meth:`torch.Tensor.backward`."""
    leaves = [node for node in _ordered([get_gradient_edge(tensor).node]) if hasattr(node, "variable")]
    gradients = [torch.ones_like(tensor) if gradient is None else gradient]
    with torch.no_grad():
        found = _go_back([tensor], gradients, set(leaves))
    for (leaf, _), value in found.items():
        before = leaf.variable.grad
        leaf.variable.grad = value if before is None else before + value


def _next(node):
    return [edge for edge in node.next_functions if edge[0] is not None]


def _ordered(roots):
    """All nodes behind the roots, each behind those that it leads to."""
    order, seen = [], set(roots)
    stack = [(node, iter(_next(node))) for node in roots]
    while stack:
        edges = stack[-1][1]
        new = next((one for one, _ in edges if one not in seen), None)
        if new is None:
            order.append(stack.pop()[0])
        else:
            seen.add(new)
            stack.append((new, iter(_next(new))))
    return order


def _go_back(outputs, gradients, targets):
    """{(node, number): gradient} of what arrives at the target nodes."""
    arrived, found = {}, {}

    def give(node, number, gradient):
        # of the forward pass: what arrives has to fit it
        like = node._input_metadata[number]
        gradient = gradient.sum_to_size(like.shape).to(like.dtype)  # of what was broadcast, or promoted
        assert gradient.device == like.device, node.name()
        slots = arrived.setdefault(node, [None] * len(node._input_metadata))
        slots[number] = gradient if slots[number] is None else slots[number] + gradient

    roots = [get_gradient_edge(output) for output in outputs]
    order, useful = _ordered([root.node for root in roots]), set()
    for node in order:
        if node in targets or any(one in useful for one, _ in _next(node)):
            useful.add(node)
    for root, gradient in zip(roots, gradients, strict=True):
        give(root.node, root.output_nr, gradient)
    for node in reversed(order):
        if node not in arrived or node not in useful:
            continue
        slots = arrived.pop(node)
        if node in targets:
            found |= {(node, i): gradient for i, gradient in enumerate(slots) if gradient is not None}
        if hasattr(node, "variable"):
            continue
        for (one, number), gradient in zip(_next(node), _called(node, slots), strict=True):
            if gradient is not None and one in useful:
                give(one, number, gradient)
    return found


def _called(node, gradients):
    """What a node makes of the gradients that arrive, for each edge that leads on."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        result = node.apply(*gradients)
        result = result if isinstance(result, tuple) else (result,)
        return [one for one, needed in zip(result, node.needs_input_grad, strict=True) if needed]
    result = node(*gradients)
    result = result if isinstance(result, tuple) else (result,)
    return [one for one, edge in zip(result, node.next_functions, strict=True) if edge[0] is not None]
