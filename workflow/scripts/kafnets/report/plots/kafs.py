"""The shapes of a network's learned activation functions, and their slopes, before and after training.

The only figure that looks into a model; everything else is drawn from records.
"""

from dataclasses import dataclass
from math import ceil

import numpy
import torch
from torch import nn

from ...activations import layers_of
from ...registry import ACTIVATIONS
from ...runtime.errors import UserError
from . import panels, style

POINTS = 301
SAMPLE = 12  # channels drawn faintly
WIDER = 1.5  # the curves are drawn this much beyond a KAF's dictionary
REACH = 4.5  # and to here where there is none


@dataclass(frozen=True)
class Shapes:
    """One layer's activation functions on the points `x`: rows of `before` and `after` are channels.

    `kind` is the name of the layer's class.
    So are those of their derivatives, `slopes_before` and `slopes_after`. `density` is that of the layer's
    inputs as its batch normalisation implies it, or None.
    """

    name: str
    kind: str
    x: numpy.ndarray
    before: numpy.ndarray
    after: numpy.ndarray
    slopes_before: numpy.ndarray
    slopes_after: numpy.ndarray
    density: numpy.ndarray | None


def shapes(initial, trained, image_shape=(3, 32, 32)):
    """The Shapes of every learned activation of a network, in the order of the forward pass.

    Args:
        initial: the network before its first step.
        trained: the same network after training.
        image_shape: (channels, rows, columns) of the images that the network takes.

    Raises:
        UserError: when the network has no learned activation.
    """
    entry = ACTIVATIONS[trained.specification["activation"]]
    if not (entry.learns and entry.elementwise):
        raise UserError("this network has no learned activation whose shape could be drawn")
    sites, normalisations = _sites(trained, image_shape)
    before = dict(initial.named_modules())
    dictionaries = [before[name].dictionary for name in sites if hasattr(before[name], "dictionary")]
    reach = WIDER * max(one.abs().max().item() for one in dictionaries) if dictionaries else REACH
    x = torch.linspace(-reach, reach, POINTS)
    found = []
    for name, (module, channels) in sites.items():
        start, slope_at_start = _evaluate(before[name], channels, x)
        end, slope_at_end = _evaluate(module, channels, x)
        density = _density(normalisations.get(name), x)
        kind = type(module).__name__
        found.append(Shapes(name, kind, x.numpy(), start, end, slope_at_start, slope_at_end, density))
    return found


@torch.no_grad()
def _sites(model, image_shape):
    """The activation layers by name, each with the number of its channels, in the order in which a forward
    pass meets them; and the batch normalisation, if any, whose output each of them takes unchanged."""
    names = {layer: name for name, layer in layers_of(model).items()}
    sites, normalisations, outputs, hooks = {}, {}, {}, []

    def normalised(module, _, output):
        outputs[id(output)] = (output, module)  # held, so that its id is not given to another tensor

    def activated(module, inputs):
        sites[names[module]] = module, inputs[0].shape[1]
        if id(inputs[0]) in outputs:
            normalisations[names[module]] = outputs[id(inputs[0])][1]

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_hook(normalised))
        elif module in names:
            hooks.append(module.register_forward_pre_hook(activated))
    try:
        model.eval()(torch.zeros(1, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return sites, normalisations


def _evaluate(layer, channels, x):
    """An activation layer's values and derivatives on the points x, each (channels, points)."""
    points = x[:, None].repeat(1, channels).requires_grad_()
    values = layer(points)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach().T.numpy(), slopes.T.numpy()


@torch.no_grad()
def _density(normalisation, x):
    """A batch normalisation's output has mean beta and standard deviation |gamma| in each channel: the mean
    over channels of these normal densities."""
    if normalisation is None:
        return None
    scale = normalisation.weight.abs().clamp(min=1e-3)[:, None]
    standard = (x - normalisation.bias[:, None]) / scale
    return (torch.exp(-(standard**2) / 2) / scale).mean(0).numpy() / (2 * numpy.pi) ** 0.5


def draw(layers, activation):
    """Two panels a layer, the functions and beneath them their derivatives.

    The median channel bold, its start dashed, a sample of channels faint, the density of the inputs grey (of
    no scale).

    Args:
        layers: list of Shapes.
        activation: its name, for the colour.
    """
    columns = 5 if len(layers) > 8 else 4
    rows = ceil(len(layers) / columns)
    heights = {"height_ratios": [1.15, 0.75] * rows}
    size = (style.PAGE, 0.65 + 1.85 * rows)
    drawn, axes = style.figure(*size, 2 * rows, columns, sharex=True, gridspec_kw=heights)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        pair = axes[2 * row, column], axes[2 * row + 1, column]
        if number >= len(layers):
            for panel in pair:
                panel.set_visible(False)
            continue
        layer, tint = layers[number], style.colour(activation)
        median = median_channel(layer.after)
        _curves(pair[0], layer.x, layer.after, layer.before, median, tint)
        _curves(pair[1], layer.x, layer.slopes_after, layer.slopes_before, median, tint)
        _shade(pair[0], layer)
        # a sequential network's layers are only counted, convolutions and all
        title = f"{layer.kind} {number + 1}" if layer.name.isdigit() else layer.name
        pair[0].set_title(title, loc="left", fontsize=7, pad=2)
        if number + columns >= len(layers):  # the last of its column
            pair[1].tick_params(labelbottom=True)
    for row in range(rows):
        axes[2 * row, 0].set_ylabel("Output")
        axes[2 * row + 1, 0].set_ylabel("Slope")
    drawn.supxlabel("Input", fontsize=8)
    drawn.align_ylabels(axes[:, 0])
    style.legend(drawn, 4, "upper")
    return drawn


def _curves(axes, x, after, before, median, tint):
    chosen = numpy.unique(numpy.linspace(0, len(after) - 1, SAMPLE).round().astype(int))
    for i, channel in enumerate(chosen):
        name = None if i else "some channels"
        axes.plot(x, after[channel], color=tint, alpha=0.25, linewidth=0.5, label=name)
    axes.plot(x, after[median], color=tint, linewidth=1.5, label="median channel, trained")
    start = {
        "color": "#D55E00" if tint == "#000000" else "#000000",
        "linewidth": 0.9,
        "linestyle": (0, (3, 1.5)),
    }
    axes.plot(x, before[median], **start, label="the same channel, before training")
    axes.margins(x=0)


def _shade(axes, layer):
    """Where the layer's inputs lie, in grey behind its functions."""
    if layer.density is None:
        panels.say(axes, "inputs: no normalisation tells")
        return
    low, high = axes.get_ylim()
    height = low + 0.6 * (high - low) * layer.density / layer.density.max()
    axes.fill_between(layer.x, low, height, color="#e9e9e9", zorder=0, linewidth=0, label="inputs (density)")
    axes.set_ylim(low, high)


def median_channel(curves):
    """The channel whose curve is nearest to the median of all channels, point by point."""
    return int(((curves - numpy.median(curves, axis=0)) ** 2).sum(axis=1).argmin())
