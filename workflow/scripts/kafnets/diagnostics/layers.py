"""What a network's activations do: how steep they are, and how far an attack moves them."""

import contextlib
import copy
import math

import torch

from ..activations import chi, layers_of

POINTS = 1001  # on which a derivative is looked at, over the range of a channel's inputs
BINS = 60
CUT = 0.002  # share of the values at either end that the histogram's outermost bins hold together
SAMPLE = 1_000_000  # values from which the ends are taken


@contextlib.contextmanager
def _recorded(layers):
    """Within it a dict that holds, after each forward pass, every layer's input and output."""
    seen = {}

    def hook(name):
        def note(_, inputs, output):
            seen[name] = (inputs[0], output)

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Layer:
    """What is gathered of one layer, batch by batch."""

    def __init__(self):
        self.low = self.high = self.edges = self.counts = None
        self.sums, self.values = 0.0, 0
        self.distance = self.relative = 0.0

    def add(self, clean, attacked):
        inputs = torch.cat([clean[0], attacked[0]]).transpose(0, 1).flatten(1)
        low, high = inputs.amin(1), inputs.amax(1)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        alone = clean[0].transpose(0, 1).flatten(1).double()
        self.sums = self.sums + torch.stack([alone.sum(1), alone.square().sum(1)])
        self.values += alone.shape[1]
        outputs = clean[1].flatten(1), attacked[1].flatten(1)
        if self.edges is None:
            self.edges = _ends(torch.cat(outputs).flatten())
            self.counts = torch.zeros(2, BINS, dtype=torch.float64)
        for row, values in enumerate(outputs):
            inside = values.clamp(*self.edges)
            self.counts[row] += torch.histc(inside, BINS, *self.edges).to("cpu", torch.float64)
        moved = (outputs[1] - outputs[0]).norm(dim=1)
        tiny = torch.finfo(moved.dtype).tiny
        self.distance += moved.sum().item()
        self.relative += (moved / outputs[0].norm(dim=1).clamp(min=tiny)).sum().item()

    def moments(self):
        """Mean and standard deviation of each channel's inputs on the clean images."""
        mean, square = self.sums / self.values
        return mean, (square - mean**2).clamp(min=0).sqrt()


def _ends(values):
    """Two numbers between which all but a few of the values lie."""
    some = values[:: -(-len(values) // SAMPLE)].float()
    low, high = torch.quantile(some, torch.tensor([CUT, 1 - CUT], device=some.device)).tolist()
    return (low, high) if high > low else (low - 0.5, low + 0.5)


@torch.no_grad()
def compare(model, clean, attacked, batch_size):
    """Every activation layer on images and on what an attack made of them.

    Args:
        model: of :func:`kafnets.create_model`, in evaluation mode.
        clean, attacked: (N, 3, H, W) floats in [0, 1], row by row the same image.
        batch_size: images per forward pass.

    Returns:
        list of dicts, in forward order: `name`; `low`, `high`: (C,) range of each channel's inputs over both
        sets; `mean`, `std`: (C,) of its inputs on the clean images, float64; `edges`: ends of the
        histograms, `counts`: (2, BINS) of the outputs, clean and attacked, as shares of all values;
        `distance`: L2 distance of the two outputs, mean over images; `relative_distance`: that distance over
        the L2 norm of the clean output, mean over images.
    """
    layers = layers_of(model)
    gathered = {name: _Layer() for name in layers}
    with _recorded(layers) as seen:
        for some, others in zip(clean.split(batch_size), attacked.split(batch_size), strict=True):
            model(some)
            before = dict(seen)
            model(others)
            for name, layer in gathered.items():
                layer.add(before[name], seen[name])
    return [
        {
            "name": name,
            "low": layer.low,
            "high": layer.high,
            "mean": layer.moments()[0],
            "std": layer.moments()[1],
            "edges": layer.edges,
            "counts": layer.counts / layer.counts.sum(1, keepdim=True),
            "distance": layer.distance / len(clean),
            "relative_distance": layer.relative / len(clean),
        }
        for name, layer in gathered.items()
    ]


def steepness(module, low, high):
    r"""The largest :math:`|f'|` and :math:`|f''|` of an elementwise layer, each channel over its own range.

    Args:
        module: the activation layer, channels at dim 1.
        low, high: (C,) ends of the ranges.

    Returns:
        (float, float): over all channels; evaluated in float64 on POINTS points a channel. A kink, such as
        ReLU's, has no second derivative and does not count.
    """
    share = torch.linspace(0, 1, POINTS, dtype=torch.float64, device=low.device)[:, None]
    x = (low.double() + share * (high - low).double()).requires_grad_()
    with torch.enable_grad():
        outputs = copy.deepcopy(module).double()(x)  # parameters too, which PReLU, say, does not convert
        (slope,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope.sum(), x)
        else:  # a layer that is linear by pieces
            curvature = torch.zeros_like(slope)
    return slope.abs().max().item(), curvature.abs().max().item()


@torch.no_grad()
def growth(module, mean, std):
    """chi of a layer for normal inputs of these moments, all channels together; None where there is none.

    Args:
        module: the activation layer, channels at dim 1.
        mean, std: (C,) float64. Channels whose inputs are constant do not count.
    """
    if not chi.is_elementwise(module):
        return None
    found = chi.pooled(module, std.clamp(min=torch.finfo(torch.float32).tiny), mean).item()
    return found if math.isfinite(found) else None
