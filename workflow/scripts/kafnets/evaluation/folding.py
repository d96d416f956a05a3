"""The same function with fewer operations, for networks that are only evaluated."""

import copy
import operator

import torch
from torch import fx, nn

_ADDITIONS = (operator.add, torch.add, "add")


class _Tracer(fx.Tracer):
    """Records the calls of activations and of modules without children, whatever they do inside."""

    def is_leaf_module(self, module, qualified_name):
        plain = hasattr(module, "activation_name") or not any(True for _ in module.children())
        return plain or super().is_leaf_module(module, qualified_name)


def folded(model):
    """A copy of `model`, in evaluation mode, with its batch normalisations folded away where that is exact.

    A normalisation with fixed statistics is a scale and a shift per channel. Behind a convolution both go
    into the convolution's weights; behind the sum of a convolution and a shortcut the shift goes into the
    convolution, and the scale into both. Only torch's own layers are touched, and only where nothing else is
    attached to them (hooks, parametrizations, other readers of their weights). The copy computes the same
    function up to rounding, as far as that can be seen from the outside (:func:`.inspection.fast_copy`
    tries it); it is stored channels-last. A model whose calls cannot be traced, or that has hooks of its own,
    comes back as an unfolded copy.

    Args:
        model (nn.Module): any network; it is not changed.

    Returns:
        nn.Module: for forward passes and gradients with respect to the input; its parameters are frozen.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if _has_hooks(model):  # of the whole network: tracing passes them over
        return _channels_last(model)
    try:
        graph = _Tracer().trace(model)
    except Exception:  # what a forward may do that cannot be traced has no common error class
        return _channels_last(model)
    traced = fx.GraphModule(model, graph)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if is_plain(node, modules, nn.BatchNorm2d) and modules[node.target].running_mean is not None:
            _fold(node, traced, modules)
    traced.graph.lint()
    traced.recompile()
    return _channels_last(traced)


def _channels_last(model):
    return model.to(memory_format=torch.channels_last)


def _has_hooks(module):
    return any(
        getattr(module, hooks)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def is_plain(node, modules, kind):
    """A call of a layer that is `kind` itself: a subclass, or a parametrized one, may compute anything.

    A class that does not says so itself (`scales_with_weight`); one derived from it has to say it again.
    """
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    layer = modules[node.target]
    declared = isinstance(layer, kind) and vars(type(layer)).get("scales_with_weight", False)
    return (type(layer) is kind or declared) and not _has_hooks(layer)


def is_private_convolution(node, modules):
    """A convolution whose output nobody else reads, called once, so that its weights may be changed."""
    if not is_plain(node, modules, nn.Conv2d) or len(node.users) != 1:
        return False
    convolution = modules[node.target]
    same = [name for name, module in modules.items() if module is convolution]
    calls = sum(other.op == "call_module" and other.target in same for other in node.graph.nodes)
    read = any(
        other.op == "get_attr" and str(other.target).rpartition(".")[0] in same for other in node.graph.nodes
    )
    return calls == 1 and not read


def _fold(node, traced, modules):
    """Folds the normalisation `node` into what precedes it, when that is a convolution or a sum with one."""
    (before,) = node.args
    scale, shift = affine(modules[node.target])
    if is_private_convolution(before, modules):
        rescale(modules[before.target], scale, shift)
        node.replace_all_uses_with(before)
    elif is_sum(before) and len(before.users) == 1:
        convolution, other = before.args
        if not is_private_convolution(convolution, modules):
            convolution, other = other, convolution
        # a shortcut that is not a convolution would need a multiplication of its own: nothing gained
        if convolution is other or not all(is_private_convolution(one, modules) for one in before.args):
            return
        rescale(modules[convolution.target], scale, shift)
        rescale(modules[other.target], scale, torch.zeros_like(shift))
        node.replace_all_uses_with(before)
    else:
        return
    traced.graph.erase_node(node)


def is_sum(node):
    is_call = node.op in ("call_function", "call_method") and node.target in _ADDITIONS
    return is_call and len(node.args) == 2 and not node.kwargs


def affine(norm):
    """The scale and shift per channel of a batch normalisation in evaluation mode, in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def rescale(convolution, scale, shift):
    """Lets a convolution compute scale * its output + shift."""
    weight, bias = convolution.weight, convolution.bias
    old = 0 if bias is None else bias.double()
    convolution.weight = _frozen(weight.double() * scale.view(-1, 1, 1, 1), weight)
    convolution.bias = _frozen(old * scale + shift, weight)


def _frozen(values, like):
    return nn.Parameter(values.to(like.dtype), requires_grad=False)
