"""Training for interval bounds: the loss of the worst logits that they allow."""

import weakref
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from ...activations.kaf.layer import KAF
from ...certification.activations import ActivationBounds, curve_of
from ...certification.activations.curve import RangeMax
from ...certification.interval import Before, Exact
from ...certification.network import live_network_of
from ...certification.operations import Activation, Dense, Dropping, Normalisation
from ...runtime.errors import UserError
from .base import Method, Update

# The grid on which kernels are looked up: its points, and how far it reaches beyond the dictionary.
_POINTS, _MARGIN = 257, 2.0


@dataclass(frozen=True, kw_only=True)
class IBP(Method):
    r"""The cross-entropy on the images, and that of the worst logits within interval bounds.

    .. math:: \kappa\,\mathrm{CE}(f(x), y) + (1 - \kappa)\,\mathrm{CE}(\underline{z}, y)

    :math:`\underline{z}_y = 0`, and :math:`-\underline{z}_j` is the least :math:`f_y - f_j` that the bounds
    allow in the L-infinity ball of radius :math:`\epsilon`, clipped to [0, 1]; the last dense layer is one
    with the differences. After `warm_up` epochs, in which :math:`\epsilon` is 0, both go in equal steps, one
    each epoch: :math:`\epsilon` from 0 to `eps`, :math:`\kappa` from 1 to `kappa`.

    A batch normalisation has the statistics of the unperturbed batch for the bounds, too, and its running
    averages see that batch, once. All is computed in float32. Dropouts drop the same in all passes.

    A ramp that is short against the training lets it end with constant logits. Kernel activations start best
    as a fixed one (`*_base`), whose slope is 1 at most.

    Args:
        eps (float): the final radius, in units of the pixel range [0, 1].
        warm_up (int): epochs with the radius 0.
        ramp (int): epochs in which the radius grows, the last of them with the final one.
        kappa (float): the final weight of the loss on the unperturbed images; the authors take 0.5.

    Sources: S. Gowal et al. 2018, arXiv:1810.12715; statistics of the unperturbed batch: Z. Shi, Y. Wang,
    H. Zhang, J. Yi and C.-J. Hsieh, NeurIPS 2021, arXiv:2103.17268.
    """

    eps: float
    warm_up: int = 0
    ramp: int = 20
    kappa: float = 0.5
    # the steps of networks that were trained; parameters are read where they are
    _networks: weakref.WeakKeyDictionary = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def prepare(self, network, images):
        try:
            for step in self._steps(network.model, images).steps:
                _check_range(step)
        except ValueError as error:
            raise UserError(f"adversary ibp: {error}") from error

    def initial_state(self, images):
        zero = torch.zeros((), dtype=torch.float64, device=images.device)
        return {"eps": zero, "kappa": zero.clone()}

    def begin_epoch(self, epoch, state):
        gone = min(max((epoch + 1 - self.warm_up) / self.ramp, 0.0), 1.0)
        state["eps"].fill_(gone * self.eps)
        state["kappa"].fill_(1 - gone * (1 - self.kappa))

    def objective(self, network, images, labels, crafted, state):
        steps = self._steps(network.model, images)
        logits, margins = bounded(steps, images, state["eps"], labels)
        natural = functional.cross_entropy(logits, labels)
        worst = functional.cross_entropy(-margins, labels)
        return Update(torch.lerp(worst, natural, state["kappa"].to(worst)), -margins, images)

    def _steps(self, model, images):
        if model not in self._networks:
            # its calls, not its weights, decide what the steps are
            self._networks[model] = live_network_of(model, images.shape[1:])
        return self._networks[model]


def _check_range(step):
    """Raises ValueError for an activation of which no ranges are known."""
    operation = step.operation
    if isinstance(operation, Activation) and not operation.rises and not isinstance(operation.layer, KAF):
        try:
            curve_of(operation.layer)
        except ValueError as error:
            raise ValueError(f"model: {step.name}: {error}") from None


def bounded(steps, images, eps, labels):
    """The logits of a network in training mode, and its margins' lower bounds; both :math:`(N, K)`.

    Args:
        steps (kafnets.certification.network.Network): as of :func:`.live_network_of`.
        images (Tensor): in [0, 1].
        eps (Tensor): the radius, a scalar.
        labels (Tensor): int64 :math:`(N)`.
    """
    visit, last = _Both(), steps.steps[-1].operation
    lower, upper = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    batch, interval = steps.walk((images, Exact.between(lower, upper)), Before(steps, visit))
    return last(batch) if isinstance(last, Dense) else batch, visit.margins(last, interval, labels)


class _Both(Exact):
    """Takes a batch and the intervals around it through steps, as a pair, in training mode."""

    def __call__(self, step, *inputs):
        operation = step.operation
        batches, intervals = zip(*inputs, strict=True)
        if isinstance(operation, Dropping):
            kept = operation(torch.ones_like(batches[0]))
            center, radius = intervals[0]
            return batches[0] * kept, (center * kept, radius * kept)
        if isinstance(operation, Normalisation):
            return self._normalised(operation, batches[0], *intervals[0])
        return operation(*batches), super().__call__(step, *intervals)

    def _normalised(self, operation, batch, center, radius):
        layer = operation.layer
        if not layer.training:
            return operation(batch), self.affine(operation, center, radius)
        over = [dim for dim in range(batch.dim()) if dim != 1]
        variance, mean = torch.var_mean(batch, over, correction=0)
        scale, shift = map(operation.shaped, operation.factors(mean, variance))
        # the layer itself: it keeps the running averages
        return layer(batch), (scale * center + shift, scale.abs() * radius)

    def range(self, operation, lower, upper):
        return activation_range(operation.layer, lower, upper)


def activation_range(layer, lower, upper):
    """The values of an activation on intervals, with the parameters that it has now; differentiable.

    Of kernels they are looked up on a grid, without what may lie between its points: a training needs no
    proof, and the sound bounds take longer than the network.

    Args:
        layer (nn.Module): a pointwise activation.
        lower, upper (Tensor): :math:`(N, C, ...)`.
    """
    if isinstance(layer, KAF):
        return _range_on_grid(layer, lower, upper)
    curve = curve_of(layer)
    turns = curve.points.shape[1]
    if turns > 2:
        return ActivationBounds(curve, rounding=False).range(lower, upper)
    # between its few turning points it is monotone
    places = curve.points.to(lower).reshape(len(curve.points), turns, *[1] * (lower.dim() - 2))
    inner = [places[:, turn].clamp(lower, upper) for turn in range(turns)]
    values = layer(torch.cat([lower, upper, *inner])).unflatten(0, (2 + turns, len(lower)))
    return values.amin(0), values.amax(0)


def _range_on_grid(layer, lower, upper):
    first, last = layer.dictionary.detach().amin() - _MARGIN, layer.dictionary.detach().amax() + _MARGIN
    step = (last - first) / (_POINTS - 1)
    grid = first + step * torch.arange(_POINTS, dtype=lower.dtype, device=lower.device)
    table = layer(grid.expand(1, lower.shape[1], -1))[0]
    ends = layer(torch.cat([lower, upper])).unflatten(0, (2, len(lower)))
    # the points of the grid that lie in the interval
    low, high = (end.detach().movedim(1, 0).flatten(1) for end in (lower, upper))
    begin = ((low - first) / step).ceil().clamp(0, _POINTS).long()
    end = ((high - first) / step).floor().clamp(-1, _POINTS - 1).long()
    none, shape = (end < begin), lower.movedim(1, 0).shape
    inner = [
        RangeMax(sign * table)(begin, end).masked_fill(none, -torch.inf).view(shape).movedim(0, 1)
        for sign in (-1, 1)
    ]
    return torch.minimum(ends.amin(0), -inner[0]), torch.maximum(ends.amax(0), inner[1])
