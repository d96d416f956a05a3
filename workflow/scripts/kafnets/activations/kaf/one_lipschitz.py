"""KAFs that are nowhere steeper than 1."""

import math

import torch

from ...runtime.errors import UserError
from ..base import start_values
from . import slopes
from .bases import Form, kaf_with_base
from .kernels import KERNELS
from .layer import KAF
from .with_base import KAFWithBase

MOST = 20_000_000  # products that a bound may take


class LipschitzKAF(KAF):
    r"""A KAF divided by a bound of its steepest slope where that is above 1: 1-Lipschitz, whatever it learns.

    .. math:: f(x) = \frac{1}{\max(1, L_c)} \sum_{i=1}^{D} \alpha_{c,i}\, \kappa(x, d_i), \quad
              L_c \ge \sup_x \Big| \sum_i \alpha_{c,i}\, \kappa'(x, d_i) \Big|

    :math:`L_c`, see :func:`.slopes.steepest`, is a proof and some 1.005 times the supremum; gradients flow
    through it. The start is a function that a slope of 1 brings back to 0 at the ends of the dictionary,
    :math:`\sigma(x)` within :math:`\pm(\text{boundary} - |x|)`, fitted on a fine grid and beyond the ends: a
    cliff there would decide :math:`L_c`.

    Args:
        channels, D, bandwidth, std, trainable_dictionary, trainable_bandwidth, backend, device, dtype, share:
            as of :class:`.layer.KAF`; the kernels are Gaussian.
        boundary: as there. Default: 1.5; without normalisations the inputs are small
        ridge: of the fit, relative to the kernels' mean squares. Default: 1e-3
        init: :math:`\sigma`: ``"normal"``, a fixed activation's name, ``"identity"``, ``"abs"``,
            ``"leaky_relu"`` or a callable. Default: ``"relu"``

    Shape:
        - Input, output: :math:`(N, C, *)`

    Raises:
        ValueError: naming the bad argument.
    """

    def __init__(
        self,
        channels,
        D=20,
        boundary=1.5,
        bandwidth="thesis",
        init="relu",
        std=0.05,
        ridge=1e-3,
        trainable_dictionary=False,
        trainable_bandwidth=False,
        backend=None,
        device=None,
        dtype=None,
        share="channel",
    ):
        super().__init__(
            **{"channels": channels, "D": D, "boundary": boundary, "bandwidth": bandwidth, "std": std},
            **{"trainable_dictionary": trainable_dictionary, "trainable_bandwidth": trainable_bandwidth},
            **{"ridge": ridge, "backend": backend, "device": device, "dtype": dtype, "share": share},
            init=init,
        )
        self.points = _points(self)

    def _fine(self):
        """Where the start is fitted: eight points between two of the dictionary, and what kernels reach."""
        reach = self.boundary + slopes.REACH / math.sqrt(self._gamma)
        count = 1 + math.ceil(8 * (self.D - 1) * reach / self.boundary)
        return torch.linspace(-reach, reach, count, dtype=torch.float64, device="cpu")

    def _start_values(self, init):
        if isinstance(init, str) and init == "normal":
            return None
        x = self._fine()
        fall = (self.boundary - x.abs()).clamp(min=0)
        return torch.maximum(torch.minimum(start_values(init, x), fall), -fall)

    def _ridge_solution(self, target):
        design = KERNELS["gaussian"].value(self._fine()[:, None] - self._points(), self._gamma)
        normal = design.T @ design
        normal += self.ridge * normal.diagonal().mean() * torch.eye(self.D, dtype=torch.float64, device="cpu")
        return torch.linalg.solve(normal, design.T @ target)

    def mixture(self):
        alpha, dictionary, bandwidth = super().mixture()
        bound = slopes.steepest(alpha, dictionary, bandwidth, self.points)
        return _over(alpha, bound), dictionary, bandwidth

    def inlined(self, dtype):
        """None: kernels that compute other layers too take the parameters as they are."""
        return None

    def plain(self):
        """The same function as a KAF whose coefficients are the divided ones."""
        return _plain(KAF, self, *self.mixture())


class LipschitzKAFWithBase(KAFWithBase):
    r"""A KAF with a base, divided by a bound of its steepest slope where that is above 1.

    .. math:: f(x) = \frac{1}{\max(1, L_c)} \Big(
              w_c\, b(x) + \sum_{i=1}^{D} \alpha_{c,i}\, \kappa(x, d_i) \Big)

    as :class:`LipschitzKAF`. With the defaults it starts as :math:`b` over its steepest slope.

    Args:
        channels, D, boundary, bandwidth, std: as of :class:`.with_base.KAFWithBase`
        trainable_dictionary, trainable_bandwidth, backend, device, dtype, share: as there.
        base: :math:`b`: ``"identity"``, ``"relu"``, ``"elu"`` or ``"silu"``. Default: ``"silu"``

    Shape:
        - Input, output: :math:`(N, C, *)`

    Raises:
        ValueError: naming the bad argument.
    """

    def __init__(
        self,
        channels,
        base="silu",
        D=20,
        boundary=3.0,
        bandwidth="thesis",
        std=0.0,
        trainable_dictionary=False,
        trainable_bandwidth=False,
        backend=None,
        device=None,
        dtype=None,
        share="channel",
    ):
        super().__init__(
            **{"channels": channels, "base": base, "D": D, "boundary": boundary, "bandwidth": bandwidth},
            **{"trainable_dictionary": trainable_dictionary, "trainable_bandwidth": trainable_bandwidth},
            **{"std": std, "backend": backend, "device": device, "dtype": dtype, "share": share},
        )
        self.points = _points(self)

    def divided(self):
        """The weight of the base, (C), and the mixture, each divided where it must be."""
        alpha, dictionary, bandwidth = super().mixture()
        weight = self.weight.expand(self.channels)
        bound = slopes.steepest(alpha, dictionary, bandwidth, self.points, weight, self.base)
        return _over(weight, bound), _over(alpha, bound), dictionary, bandwidth

    def mixture(self):
        return self.divided()[1:]

    def forward(self, x):
        return kaf_with_base(x, *self.divided(), Form(self.base, self.tails, self.boundary), self.backend)

    def plain(self):
        """The same function as a KAF with a base whose coefficients are the divided ones."""
        weight, *mixture = self.divided()
        made = _plain(KAFWithBase, self, *mixture, base=self.base)
        with torch.no_grad():
            made.weight.copy_(weight)
        return made


def _points(layer):
    """Of the grid of a layer's bound."""
    points = slopes.points_needed(layer.boundary, layer._gamma)
    own = isinstance(layer.dictionary, torch.nn.Parameter) or isinstance(layer.bandwidth, torch.nn.Parameter)
    products = points * layer.D * (layer.rows if own else 1)
    if products > MOST:
        raise UserError(
            f"D and bandwidth must be smaller: a bound of the slopes of {layer.rows} channels would take "
            f"{products:,} products, {MOST:,} at most"
        )
    return points


def _over(values, bound):
    """Coefficients (C) or (C, D) over what is above 1 of the bounds, (C)."""
    bound = bound.clamp(min=1)
    return (values / (bound if values.dim() == 1 else bound[:, None])).to(values.dtype)


@torch.no_grad()
def _plain(kind, layer, alpha, dictionary, bandwidth, **arguments):
    """A layer of another kind with these parameters, those of the dictionary as trainable as the layer's."""
    with torch.random.fork_rng(devices=[]):
        made = kind(
            layer.channels,
            D=layer.D,
            boundary=layer.boundary,
            bandwidth=layer._gamma,
            trainable_dictionary=isinstance(layer.dictionary, torch.nn.Parameter),
            trainable_bandwidth=isinstance(layer.bandwidth, torch.nn.Parameter),
            backend=layer.backend,
            device=alpha.device,
            dtype=alpha.dtype,
            **arguments,
        )
    for name, value in (("alpha", alpha), ("dictionary", dictionary), ("bandwidth", bandwidth)):
        getattr(made, name).copy_(value)
    return made
