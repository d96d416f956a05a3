"""What all detectors share: a network, what they see of it in one forward pass, a score for each image."""

import contextlib

import torch
from torch import nn

from ..runtime.errors import UserError


class Detector(nn.Module):
    """Base class: a network with a detector beside it.

    The network is never trained here, and is always in evaluation mode. A subclass names the layers that it
    looks at (:attr:`layers`), makes features of what they compute (:meth:`features_of`), and a score of the
    features (:meth:`score_of`).

    Args:
        network (nn.Module): classifier of images in [0, 1].

    Shape:
        - Input: images :math:`(N, C, H, W)` in [0, 1]
        - Output: scores :math:`(N)`, higher for what looks adversarial
    """

    # whether it has anything to learn
    learns = True

    def __init__(self, network):
        super().__init__()
        self.network = network.eval()
        self.layers = {}

    def train(self, mode=True):
        super().train(mode)
        self.network.eval()
        return self

    def head(self):
        """(parameters and buffers by name) of the detector itself, without the network's."""
        return {name: one for name, one in self.state_dict().items() if not name.startswith("network.")}

    def own_parameters(self):
        """The parameters of the detector itself, without the network's."""
        return [one for name, one in self.named_parameters() if not name.startswith("network.")]

    @torch.no_grad()
    def load_head(self, tensors):
        """Takes what :meth:`head` gave.

        Raises:
            UserError: when these are tensors of another detector.
        """
        found = {name: tuple(one.shape) for name, one in tensors.items()}
        wanted = {name: tuple(one.shape) for name, one in self.head().items()}
        if found != wanted:
            wrong = sorted(
                name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
            )
            raise UserError(f"detector: its file is of another detector (see {wrong[0]}); train it again")
        self.load_state_dict(tensors, strict=False)

    def look(self, images):
        """What the network answers, (N, classes), and the scores, (N,), in one forward pass."""
        logits, features = self.features(images)
        return logits, self.score_of(features)

    def forward(self, images):
        return self.look(images)[1]

    def features(self, images):
        """What the network answers, (N, classes), and what the detector sees of that pass, (N, ...)."""
        with seen_of(self.layers) as seen:
            logits = self.network(images)
        return logits, self.features_of(logits, seen)

    def features_of(self, logits, seen):
        """The features, (N, ...).

        Args:
            logits (Tensor): (N, classes).
            seen (dict): layer's name -> its (input, output) of each of its calls in this pass.
        """
        raise NotImplementedError

    def score_of(self, features):
        """(N,) scores."""
        raise NotImplementedError

    def fit_scale(self, features):
        """Told the features of all images that it is trained on, (2N, ...), before the first step."""


@contextlib.contextmanager
def seen_of(layers):
    """Within it a dict that holds the (input, output) of each call of these modules, by their names."""
    seen = {name: [] for name in layers}

    def hook(name):
        return lambda _, inputs, output: seen[name].append((inputs[0], output))

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def middle_of(network):
    """The name of the layer whose output Metzen et al. look at: the second stage of a residual network.

    Of a network of plain layers it is the second pooling.

    Raises:
        UserError: when the network has neither.
    """
    if isinstance(getattr(network, "layer2", None), nn.Module):
        return "layer2"
    pools = [name for name, one in network.named_modules() if isinstance(one, nn.MaxPool2d | nn.AvgPool2d)]
    if len(pools) < 2:
        raise UserError(
            f"layer: a {type(network).__name__} has no second stage; write the name of one of its layers"
        )
    return pools[1]


def layer_of(network, name):
    """The module of that name.

    Raises:
        UserError: when there is none.
    """
    known = dict(network.named_modules())
    if not name or name not in known:
        shown = ", ".join(key for key in known if key and key.count(".") == 0)
        raise UserError(
            f"layer: {name!r} is no layer of the network; write one of {shown}, or one within them"
        )
    return known[name]
