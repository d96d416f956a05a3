"""What computes a network's passes in a training: the network itself, or its fused form."""

import contextlib
import copy

import torch
from torch import nn
from torch.nn import functional

from ..runtime.progress import line
from .methods.base import Network

# How far the fused pass may be from the exact one: so many times as far as the network's own, and a little.
# (In bfloat16 the gradients of 20 layers are off by 40 % before the first step.)
_FACTOR, _REST = 2.0, 0.01
_IMAGES = 32  # of the trial: in float32 a whole batch may not fit
_EXACT_IMAGES, _EXACT_REST = 4, 1e-4  # of the trial in float64
_SCALE = 1024.0  # of its loss: in float16 smaller gradients are none


def worthwhile(device):
    """Whether the device has code of its own for fused layers: a GPU, and a CPU with a C++ compiler."""
    from ..models.fused import cpu

    return device.type == "cuda" or cpu.available()


def passes(model, device, wanted=None):
    """The fused form of a network where it has one, else the network.

    Args:
        model (nn.Module): in training mode, on `device`.
        device (torch.device): where it computes.
        wanted (bool, optional): whether to fuse. Default: where :func:`worthwhile`
    """
    if not (worthwhile(device) if wanted is None else wanted):
        return model
    from ..models.fused.rewriting import Unfusable, fused

    try:
        return fused(model)
    except Unfusable as error:
        return _instead(model, str(error))


def tried(network, images, labels):
    """What is to compute the passes of `network` from now on: what does, if it does it right.

    Loss, gradients and running averages are compared with the network's own, and both with those in float32;
    in float32 on a CPU a copy in float64 is compared with its own. Nothing of the network changes, and no
    random number is drawn.

    Args:
        network (Network): its `passes` are tried.
        images, labels (Tensor): a batch.
    """
    if not images.is_cuda and network.precision is None:
        return _tried_in_double(network, images[:_EXACT_IMAGES], labels[:_EXACT_IMAGES])
    model = network.model
    images, labels = images[:_IMAGES], labels[:_IMAGES]
    own = Network(model), Network(model, network.precision)
    with torch.random.fork_rng([images.device] if images.is_cuda else []), _nothing_dropped(model):
        exact, plain = (_pass(one, images, labels) for one in own)
        try:
            found = _pass(network, images, labels)
        except Exception as error:  # whatever a compiler may raise
            return _instead(model, str(error).partition("\n")[0])
    close = [
        _distance(ours, right) <= _FACTOR * _distance(theirs, right) + _REST
        for ours, theirs, right in zip(found, plain, exact, strict=True)
    ]
    return network.passes if all(close) else _instead(model, "their results differ")


def _tried_in_double(network, images, labels):
    """What can be wrong is the rewriting: the operators have a trial of their own.

    In float32 a ReLU whose input is nearly zero would turn over and move the gradients by a hundredth, in one
    batch and not in another; and a training that goes on from a checkpoint, which is tried again, has to
    find what it found before.
    """
    from ..models.fused.rewriting import fused

    model = copy.deepcopy(network.model).double()
    with torch.random.fork_rng([]), _nothing_dropped(model):
        plain = _pass(Network(model), images.double(), labels)
        try:
            found = _pass(Network(model, passes=fused(model)), images.double(), labels)
        except Exception as error:
            return _instead(network.model, str(error).partition("\n")[0])
    close = [_distance(ours, right) <= _EXACT_REST for ours, right in zip(found, plain, strict=True)]
    return network.passes if all(close) else _instead(network.model, "their results differ")


def _instead(model, reason):
    line(f"layers are not fused ({reason}); the training goes on layer by layer")
    return model


def _pass(network, images, labels):
    """Loss, gradient of the images, gradients of the parameters, running averages, counters."""
    buffers = list(network.model.buffers())
    before = [buffer.clone() for buffer in buffers]
    parameters = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    images = images.detach().clone().requires_grad_()
    try:
        loss = _SCALE * functional.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(
            loss, [images, *parameters], allow_unused=True, materialize_grads=True
        )
        after = [buffer.clone() for buffer in buffers]
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return [loss.detach()], gradients[:1], gradients[1:], after


def _distance(one, other):
    """Between two groups of tensors, relative to the length of the second."""

    def length(group):
        return torch.stack([tensor.double().norm() for tensor in group]).norm()

    if not other:
        return 0.0
    apart = length([a.double() - b for a, b in zip(one, other, strict=True)])
    return (apart / length(other).clamp(min=1e-30)).item()


@contextlib.contextmanager
def _nothing_dropped(model):
    """Within the block dropouts have the rate zero: in float32 they would draw other numbers."""
    dropouts = [module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    rates = [module.p for module in dropouts]
    for module in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, rate in zip(dropouts, rates, strict=True):
            module.p = rate
