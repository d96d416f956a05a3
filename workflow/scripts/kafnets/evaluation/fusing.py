"""Networks that are only evaluated, with what stands between their convolutions as one operator each."""

import operator

import torch
from torch import fx, nn

from .folding import affine, is_plain, is_private_convolution, is_sum, rescale
from .pointwise import Pointwise

_KINDS = {nn.ReLU: "relu", nn.ELU: "elu", nn.SiLU: "silu"}


def fuse(model):
    """Makes bias, addition, normalisation and activation one pass over memory, behind a convolution.

    On a GPU a convolution's bias, the addition of a shortcut, a normalisation and an activation are a kernel
    each, forward and backward, and each reads and writes the whole map. Of a block act(norm(conv(h) + x)) the
    scale goes into the convolution, and :class:`.pointwise.Pointwise` does the rest. An activation of another
    kind, such as a KAF, stays a layer of its own.

    Args:
        model (nn.Module): what :func:`.folding.folded` returned; it is changed, and computes the same up to
            rounding. One that could not be traced stays as it is.

    Returns:
        nn.Module: the same.
    """
    if not isinstance(model, fx.GraphModule):
        return model
    modules = dict(model.named_modules())
    for node in list(model.graph.nodes):
        if node.op == "call_module" and node in model.graph.nodes:
            _fuse(node, model, modules)
    model.graph.eliminate_dead_code()
    model.graph.lint()
    model.recompile()
    return model


def _fuse(node, model, modules):
    """Fuses what leads to the layer `node`, an activation or a normalisation, if a convolution does."""
    kind = next((name for kind, name in _KINDS.items() if is_plain(node, modules, kind)), "identity")
    is_norm = is_plain(node, modules, nn.BatchNorm2d)
    if kind == "identity" and not is_norm:
        return
    before = node if is_norm else node.args[0]
    norm = None
    if is_plain(before, modules, nn.BatchNorm2d) and modules[before.target].running_mean is not None:
        if is_norm and any(_is_of_a_kind(user, modules) for user in before.users):
            return  # it is fused with that
        norm, before = modules[before.target], before.args[0]
        if len(before.users) != 1 or (not is_norm and len(node.args[0].users) != 1):
            return
    elif is_norm:
        return
    convolution, residual = _parts(before, modules)
    if convolution is None:
        return
    layer = modules[convolution.target]
    shift = torch.zeros(layer.out_channels, dtype=torch.float64, device=layer.weight.device)
    scale = None
    if norm is not None:
        scale, offset = affine(norm)
        rescale(layer, scale, offset)
        if residual is None:
            scale = None
    shift = shift + _taken_bias(layer)
    if residual is not None and norm is None and is_private_convolution(residual, modules):
        shift = shift + _taken_bias(modules[residual.target])
    copies = 2 if len(node.users) == 2 else 1
    alpha = getattr(modules[node.target], "alpha", 1.0) if kind == "elu" else 1.0
    _replace(node, model, Pointwise(kind, shift, scale, alpha, copies), convolution, residual)


def _is_of_a_kind(node, modules):
    return any(is_plain(node, modules, kind) for kind in _KINDS)


def _parts(node, modules):
    """The convolution whose output the node is, and what is added to it, if anything; else None, None."""
    if is_private_convolution(node, modules):
        return node, None
    if is_sum(node) and len(node.users) == 1 and all(isinstance(one, fx.Node) for one in node.args):
        for convolution, residual in (node.args, node.args[::-1]):
            if convolution is not residual and is_private_convolution(convolution, modules):
                return convolution, residual
    return None, None


def _taken_bias(layer):
    """The bias of a convolution, which from now on has none."""
    bias, layer.bias = layer.bias, None
    return 0 if bias is None else bias.double()


def _replace(node, model, layer, convolution, residual):
    name = f"pointwise_{node.name}"
    model.add_submodule(name, layer)
    users = list(node.users)
    with model.graph.inserting_before(node):
        fused = model.graph.call_module(name, (convolution,) if residual is None else (convolution, residual))
        if layer.copies == 1:
            node.replace_all_uses_with(fused)
        else:
            for index, user in enumerate(users):
                user.replace_input_with(node, model.graph.call_function(operator.getitem, (fused, index)))
    model.graph.erase_node(node)
