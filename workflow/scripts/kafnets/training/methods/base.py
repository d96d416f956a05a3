"""The interface of a training method: what one update of the weights minimises.

A training calls `method.update(network, images, labels, state)` for every batch and does the rest itself:
backward pass, checks, optimiser. What an update does is captured as a CUDA graph, so it computes with tensors
alone: no `.item()`, no `if` on a value, and what is to last until the next update is written into the tensors
of `state` in place.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...registry import ADVERSARIES, AROUND, lookup
from ...runtime.units import fraction

RADII = ("eps", "step")  # settings that config.yaml writes as n/255


def create_method(settings, around=None):
    """The method that config.yaml's `training.adversary` names.

    Args:
        settings (dict): `name`, a key of :data:`kafnets.registry.ADVERSARIES`, and the method's arguments.
        around (dict, optional): methods that work on top of it, keys of :data:`kafnets.registry.AROUND`, each
            with its arguments; the last is outermost.
    """
    arguments = {name: value for name, value in settings.items() if name != "name"}
    arguments |= {name: fraction(arguments[name]) for name in RADII if name in arguments}
    entry = lookup(ADVERSARIES, settings["name"], "adversary")
    method = entry.load()(**entry.arguments, **arguments)
    for name, arguments in (around or {}).items():
        entry = lookup(AROUND, name, "method")
        method = entry.load()(method=method, **entry.arguments, **arguments)
    return method


def _nothing():
    pass


@dataclass(frozen=True)
class Update:
    """The loss of one update of the weights.

    Args:
        loss (Tensor): what is minimised, a differentiable scalar.
        logits (Tensor): :math:`(N, C)`; the accuracy in training is counted on them.
        images (Tensor): the network's inputs of these logits; looked at when the loss is not finite.
        after_backward (callable, optional): called without arguments when the gradients are computed, before
            the optimiser's step.
    """

    loss: torch.Tensor
    logits: torch.Tensor
    images: torch.Tensor
    after_backward: Callable = _nothing


class Method:
    """Base class of the methods; its constructor takes what config.yaml gives beside the name.

    A method defines :meth:`objective`, and :meth:`craft` where there is something to look for before; or
    :meth:`update` as a whole, and then nothing can work on top of it.
    """

    # how often the weights are updated on a batch before the next one comes
    updates_per_batch = 1
    # whether the perturbation is one step along the gradient, which a network can learn to lead astray:
    # trainings of such methods are watched for catastrophic overfitting
    single_step = False
    # whether the loss has gradients in it, and is differentiated once more
    twice_differentiated = False

    def prepare(self, network, images):
        """Looks at the network that will be trained, once, before everything else.

        Args:
            network (Network): with its initial weights, on its device.
            images (Tensor): as of :meth:`initial_state`.
        """

    def initial_state(self, images):
        """The tensors that an update leaves to the next one, by name; they are part of a checkpoint.

        Args:
            images (Tensor): zeros in the shape of a whole batch; the last batch of an epoch may be smaller.
        """
        return {}

    def begin_epoch(self, epoch, state):
        """Writes what depends on the epoch into tensors of `state`.

        Called before the first step of each epoch, and of what is left of one after an interruption.

        Args:
            epoch (int): counted from 0.
            state (dict of Tensor): as of :meth:`update`.
        """

    def craft(self, network, images, labels, state):
        """The perturbed images, detached: what :meth:`objective` takes; arguments as of :meth:`update`."""
        return images

    def objective(self, network, images, labels, crafted, state):
        """The loss of one update, given what :meth:`craft` found; otherwise as :meth:`update`.

        What works on top of a method may call it several times with the same `crafted`, at other weights.
        """
        raise NotImplementedError

    def update(self, network, images, labels, state):
        """The loss of one update.

        Args:
            network (Network): the network in training mode; images to logits.
            images (Tensor): float :math:`(N, C, H, W)` in [0, 1], augmented, not perturbed.
            labels (Tensor): int64 :math:`(N)`.
            state (dict of Tensor): what :meth:`initial_state` made, as the last update left it.

        Returns:
            Update
        """
        crafted = self.craft(network, images, labels, state)
        return self.objective(network, images, labels, crafted, state)


class Network:
    """A network as a method calls it: images to float32 logits, computed in mixed precision where that is on.

    Args:
        model (nn.Module): the network itself, for methods that change its weights or mode for a while.
        precision (torch.dtype, optional): of the matrix products; default: the weights' own.
        scale (callable, optional): multiplies a loss so that its gradients do not underflow in float16.
        passes (callable, optional): computes what `model` does, with its parameters. Default: `model`
    """

    def __init__(self, model, precision=None, scale=lambda loss: loss, passes=None):
        self.model, self.precision, self.scale = model, precision, scale
        self.passes = model if passes is None else passes
        self._ones = {}

    def __call__(self, images):
        enabled = self.precision is not None
        with torch.autocast(images.device.type, self.precision, enabled=enabled):
            return self.passes(images).float()

    @contextlib.contextmanager
    def mode(self, name):
        """Within the block the network is in the mode `name`, "train" or "eval"; afterwards in "train".

        In "eval" normalisations use their running averages, and leave them as they are; nothing is dropped.
        """
        self.model.train(name == "train")
        try:
            yield
        finally:
            self.model.train()

    def input_gradient(self, loss, images):
        """The gradient of a loss at `images`, times a positive factor; the parameters get none.

        Args:
            loss (callable): images to a scalar; the mean over the batch, as in the update: a sum, scaled,
                overflows float16, and an infinite gradient has no sign.
            images (Tensor): float :math:`(N, C, H, W)`.
        """
        images = images.detach().requires_grad_()
        with parameters_frozen(self.model):
            loss = self.scale(loss(images))
            (gradient,) = torch.autograd.grad(loss, images, self.one_like(loss))
        return gradient

    def one_like(self, loss):
        """1 for :func:`torch.autograd.grad`, which otherwise makes one in a kernel of its own each time."""
        kind = loss.device, loss.dtype
        if kind not in self._ones:
            self._ones[kind] = torch.ones_like(loss, requires_grad=False)
        return self._ones[kind]


@contextlib.contextmanager
def parameters_frozen(model):
    """No gradients of the parameters within the block: an attack needs those of the images only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
