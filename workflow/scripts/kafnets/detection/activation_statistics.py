r"""A detector on what the network's activations receive: where on their curves an image puts them.

An activation that is learned is known on the range of its training inputs; adversarial images may drive it
to where it is steep, or beyond its dictionary. Three statistics of every activation layer, all of them means
that can be differentiated, so that who knows the detector can attack it.
"""

import itertools

import torch
from torch import nn

from ..activations import is_elementwise, layers_of
from ..runtime.errors import UserError
from .base import Detector

STATISTICS = ("beyond", "steep", "responses")
# Of activations without a dictionary: the thesis's, so that all kinds of networks have the same statistics.
BOUND, POINTS, RULE = 3.0, 20, 6.0
STEEP = 2.0


class ActivationStatistics(Detector):
    r"""A logistic regression, or a small network, on statistics of the activation layers' inputs z.

    .. math::
        \text{beyond}: \operatorname{mean} \sigma((|z| - B) / \tau), \quad
        \text{steep}: \operatorname{mean} \sigma((|f'(z)| - 2) / \tau), \quad
        \text{responses}: \operatorname{mean}_{h,w} \kappa(z_c, d_i)

    for each layer; the first two over all its values, the third for each channel and each of the kernels
    :math:`\kappa(z, d) = e^{-\gamma (z - d)^2}`. Bound :math:`B`, points :math:`d_i` and :math:`\gamma` are a
    Gaussian KAF's own; other activations have those of the thesis (20 points on [-3, 3]), for which the
    responses are a soft histogram of their inputs. What is no function of one number has no slope, and no
    statistic of it. Features are standardised by the images that the detector is trained on.

    Args:
        network (nn.Module): of :func:`kafnets.create_model`, or with activations made there.
        images (Tensor): (n, C, H, W), at least one, by which the number of features is known.
        layer (str, optional): looks only at the activation layers within this one. Default: at all
        statistics (sequence of str): which of ``"beyond"``, ``"steep"`` and ``"responses"``.
        softness (float): :math:`\tau`, in units of z and of f'.
        hidden (int): units of a hidden layer (SiLU); 0: none, a logistic regression.

    Raises:
        UserError: when no activation layer is found, or none has one of the statistics.
    """

    def __init__(self, network, images, layer=None, statistics=STATISTICS, softness=0.1, hidden=0):
        super().__init__(network)
        self.statistics, self.softness = tuple(statistics), float(softness)
        within = "" if layer is None else f"{layer}."
        self.layers = {
            name: one
            for name, one in layers_of(network).items()
            if f"{name}." == within or name.startswith(within)
        }
        if not self.layers:
            raise UserError(
                f"layer: no activation layers within {layer!r}; write null for those of all layers"
            )
        with torch.no_grad():
            _, some = self.features(images[:1])
        count = some.shape[1]
        if not count:
            raise UserError(
                f"statistics: the network's activations have none of {', '.join(self.statistics)}; write "
                "responses too"
            )
        for name, value in (("mean", 0.0), ("scale", 1.0)):
            self.register_buffer(name, torch.full((count,), value, dtype=some.dtype, device=some.device))
        widths = (count, hidden, 1) if hidden else (count, 1)
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        self.classifier = nn.Sequential(layers[0], *(one for more in layers[1:] for one in (nn.SiLU(), more)))
        self.classifier.to(some.device, some.dtype)

    def features_of(self, logits, seen):
        found = []
        for name, layer in self.layers.items():
            for z, _ in seen[name]:
                found += self._of_layer(layer, z)
        return torch.cat(found, 1) if found else logits[:, :0]

    def _of_layer(self, layer, z):
        points, gamma = kernels_of(layer, z)
        flat = z.flatten(2) if z.dim() > 2 else z[:, :, None]
        if "beyond" in self.statistics:
            bound = points.abs().amax(1)[:, None]
            yield self._share(flat.abs() - bound)
        if "steep" in self.statistics and is_elementwise(layer):
            yield self._share(slope(layer, z).abs() - STEEP)
        if "responses" in self.statistics:
            yield responses(flat, points, gamma).flatten(1)

    def _share(self, excess):
        return torch.sigmoid(excess / self.softness).flatten(1).mean(1, keepdim=True)

    @torch.no_grad()
    def fit_scale(self, features):
        self.mean.copy_(features.mean(0))
        deviation = features.std(0)
        # what hardly varies is rounding, and stays small
        usable = deviation > 1e-6 * features.abs().amax(0).clamp(min=1e-6)
        self.scale.copy_(torch.where(usable, deviation, torch.ones_like(deviation)))

    def score_of(self, features):
        return self.classifier((features - self.mean) / self.scale)[:, 0]


def kernels_of(layer, z):
    """The dictionary, (C, D) or (1, D), and the bandwidth, (C) or (1), by which a layer's inputs are seen."""
    if getattr(layer, "kernel", None) == "gaussian":
        _, points, gamma = layer.mixture()
        return points.reshape(-1, points.shape[-1]).to(z.dtype), gamma.reshape(-1).to(z.dtype)
    points = torch.linspace(-BOUND, BOUND, POINTS, dtype=z.dtype, device=z.device)
    return points[None], (RULE * (points[1] - points[0]) ** 2).reciprocal()[None]


def responses(z, points, gamma):
    """(N, C, D): the kernels' values, averaged over all places; z (N, C, P), points (C, D), gamma (C)."""
    return _Responses.apply(z, points.detach(), gamma.detach()[:, None])


class _Responses(torch.autograd.Function):
    """Keeps its arguments alone for the backward pass: written out there are D times as many values."""

    @staticmethod
    def forward(ctx, z, points, gamma):
        ctx.save_for_backward(z, points, gamma)
        means = [(-gamma * (z - point[:, None]) ** 2).exp().mean(2) for point in points.unbind(1)]
        return torch.stack(means, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        z, points, gamma = ctx.saved_tensors
        total, grad = torch.zeros_like(z), grad * (-2 / z.shape[2])
        for point, one in zip(points.unbind(1), grad.unbind(2), strict=True):
            offset = z - point[:, None]
            total += one[:, :, None] * offset * (-gamma * offset**2).exp()
        return gamma * total, None, None


def slope(layer, z):
    """f'(z) of an elementwise activation layer, which can be differentiated where z can."""
    again = torch.is_grad_enabled() and z.requires_grad
    with torch.enable_grad():
        z = z if again else z.detach().requires_grad_()
        # through a view, so that the graph behind z is left alone
        here = z.view_as(z)
        (found,) = torch.autograd.grad(layer(here).sum(), here, create_graph=again)
    return found
