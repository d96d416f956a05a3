"""Attacks made for trainable activations: the network as it is, its gradient through something smoother.

A KAF whose coefficients are large and of alternating sign can make the gradient useless without making the
network robust. Here every activation keeps its value, to the bit, and only its derivative is replaced.

Source: Athalye, Carlini & Wagner 2018, arXiv:1802.00420 (backward pass differentiable approximation); Tramer,
Carlini, Brendel & Madry 2020, arXiv:2002.08347 (how adaptive attacks are to be made).
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..activations import is_elementwise
from ..activations.base import Learned
from ..activations.kaf import functional
from ..activations.kaf.layer import KAF
from ..registry import ACTIVATIONS
from .arguments import check_choice, check_integer, check_real, prepare
from .balls import RandomStarts, check_radius
from .base import AttackResult
from .black_box import checked_sources, craft
from .losses import LOSSES
from .pgd import pgd
from .survivors import Survivors

BACKWARDS = ("exact", "wider", "silu", "differences")
ENSEMBLE = "ensemble"
# The distance of the points of the thesis's dictionary: the unit of `delta` where an activation has none.
SPACING = 6 / 19
_MOMENTUM = 1.0  # of the examples crafted on other models, as in `transfer`
_POINTS_PER_SPACING = 8
_RIDGE = 1e-4


def adaptive_pgd(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float,
    iterations: int,
    restarts: int = 1,
    backward: str = "exact",
    width: float = 2.0,
    delta: float = 1.0,
    loss: str = ENSEMBLE,
    norm: str = "linf",
    momentum: float = 0.0,
    targets: int = 0,
    sources: Sequence = (),
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    """PGD that goes back through surrogates, from the other models' examples, by several losses in turn.

    The runs start, one after the other, from examples crafted on each of the `sources` and then from
    `restarts` random points; each attacks only the images that withstood the runs before. The verdicts are
    the model's own: a surrogate never changes a forward pass.

    Args:
        model, images, labels, eps, step, iterations, norm, momentum, targets, batch_size, seed, progress: as
            in :func:`kafnets.attacks.pgd`.
        restarts: runs from random starts, after those from the sources' examples.
        backward, width, delta: the derivative of the activations, see :func:`with_surrogates`.
        loss: as in :func:`kafnets.attacks.pgd`, or "ensemble": the runs take turns over all of them.
        sources: other models, or the paths of their weights, whose examples are starts.

    Returns:
        AttackResult: an image is robust when it is rightly classified unperturbed and after every run.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.
    """
    task = prepare(model, images, labels, batch_size)
    eps, restarts = check_radius(eps, norm), check_integer("restarts", restarts, 1)
    step, sources = check_real("step", step, 0), checked_sources(sources)
    iterations, targets = check_integer("iterations", iterations, 0), check_integer("targets", targets, 0)
    check_choice("loss", loss, (ENSEMBLE, *LOSSES))
    losses = list(LOSSES) if loss == ENSEMBLE else [loss]
    attacked = with_surrogates(model, backward, width=width, delta=delta)
    rule = {"eps": eps, "step": step, "iterations": iterations, "norm": norm, "batch_size": task.batch_size}
    random = RandomStarts(task.images, eps, seed, norm)
    _, clean = task.answers()
    survivors = Survivors(task, clean)
    for run in range(len(sources) + restarts):
        rows = survivors.rows()
        if not len(rows):
            break
        pixels, classes = task.images[rows], task.labels[rows]
        if run < len(sources):
            crafted = craft(sources[run], pixels, classes, momentum=_MOMENTUM, **rule)
            survivors.add_cost(crafted)
            starts = crafted.adversarial
        else:
            starts = random[run - len(sources)][rows]
        found = pgd(
            attacked,
            pixels,
            classes,
            loss=losses[run % len(losses)],
            momentum=momentum,
            targets=targets,
            starts=starts.expand(max(targets, 1), *starts.shape),
            **rule,
        )
        survivors.add_cost(found)
        survivors.judge(rows, found.adversarial)
        if progress is not None:
            left = len(sources) + restarts - run - 1
            most = left * int(survivors.robust.sum()) * (iterations + 1) * max(targets, 1)
            progress(survivors.queries, most, survivors.accuracy)
    return survivors.result()


def with_surrogates(model, backward, *, width=2.0, delta=1.0):
    """A copy of `model` with the same outputs, to the bit, and another derivative of its activations.

    Args:
        model: with activations of `kafnets.registry.ACTIVATIONS` as modules; it is not changed.
        backward: "exact": their own. "wider": that of each KAF refitted with a wider kernel, see
            :func:`widened`; fixed activations, which have no bandwidth, keep their own. "silu": SiLU's at
            every activation. "differences": the slope over a distance, :math:`(f(x+h) - f(x-h)) / 2h`.
        width: how many times as wide the kernels of "wider" are.
        delta: :math:`h` of "differences", in distances of neighbouring dictionary points as a KAF starts with
            them; for fixed activations in those of the thesis's dictionary, 6/19.

    Raises:
        ValueError: naming the argument that is wrong; for a model without such modules, or with KAFs of
            another kernel than the Gaussian when they are to be wider.
    """
    check_choice("backward", backward, BACKWARDS)
    width, delta = check_real("width", width, 1), check_real("delta", delta, 1e-3)
    if backward == "exact":
        return model
    model = copy.deepcopy(model)
    # layers of create_activation, and others of these classes
    kinds = tuple({entry.load() for entry in ACTIVATIONS.values() if entry.target.startswith("torch.nn:")})
    layers = {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, (*kinds, KAF, Learned)) or hasattr(layer, "activation_name")
    }
    if not layers:
        raise ValueError("backward: the model has no activation modules whose derivative could be replaced")
    # where the output at one place depends on the input at others, only silu is a slope that could stand in
    found = {name: layer for name, layer in layers.items() if backward == "silu" or is_elementwise(layer)}
    made = {}  # a layer that stands in two places stays one
    for name, layer in found.items():
        if layer not in made:
            made[layer] = Surrogate(layer, _slope(layer, backward, width, delta))
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made[layer])
    return model


class Surrogate(nn.Module):
    """An activation with another derivative.

    Args:
        activation (nn.Module): gives the values.
        slope (callable): the derivative, a function of the activation's input.
    """

    def __init__(self, activation, slope):
        super().__init__()
        self.activation, self.slope = activation, slope

    def forward(self, x):
        return _WithSlope.apply(x, self.activation, self.slope) if x.requires_grad else self.activation(x)


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, activation, slope):
        ctx.save_for_backward(slope(x))
        return activation(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


def _slope(layer, backward, width, delta):
    """The derivative that stands in for that of `layer`, as a function of its input."""
    if backward == "silu":
        return _derivative(nn.functional.silu)
    if backward == "wider":
        return _derivative(widened(layer, width) if isinstance(layer, KAF) else layer)
    spacing = 2 * layer.boundary / (layer.D - 1) if isinstance(layer, KAF) else SPACING
    reach = delta * spacing
    return lambda x: (layer(x + reach) - layer(x - reach)) / (2 * reach)


def _derivative(function):
    def slope(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(function(x).sum(), x)[0]

    return slope


@torch.no_grad()
def widened(layer, width):
    r"""A KAF with kernels `width` times as wide, nearest to `layer` over its dictionary.

    Every channel solves a ridge regression on a fine grid :math:`x_j` of its dictionary's range,

    .. math:: \min_\beta \frac1G \sum_{j=1}^{G} \Big(\text{KAF}(x_j) - \sum_i \beta_i
              e^{-\gamma (x_j - d_i)^2 / w^2}\Big)^2 + \varepsilon \lVert\beta\rVert^2

    Args:
        layer (KAF): with Gaussian kernels.
        width (float): :math:`w`.

    Returns:
        KAF: in float32 arithmetic; its alpha are the :math:`\beta`, its bandwidth is :math:`\gamma / w^2`.
    """
    if layer.kernel != "gaussian":
        raise ValueError(f"backward: a KAF with the kernel {layer.kernel} has no bandwidth to widen")
    alpha, dictionary, gamma = (t.double() for t in layer.mixture())
    points = dictionary.expand(layer.channels, layer.D)
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    count = _POINTS_PER_SPACING * (layer.D - 1) + 1
    grid = low + (high - low) * torch.linspace(0, 1, count, dtype=torch.float64, device=low.device)
    target = functional.kaf_plain(grid.T, alpha, dictionary, gamma).T
    narrow = gamma.expand(layer.channels)[:, None, None] / width**2
    design = torch.exp(-narrow * (grid[:, :, None] - points[:, None]) ** 2)
    normal = design.mT @ design / count + _RIDGE * torch.eye(layer.D, dtype=torch.float64, device=low.device)
    refitted = copy.deepcopy(layer)
    refitted.arithmetic = "float32"
    solution = torch.linalg.solve(normal, design.mT @ target[:, :, None] / count)[..., 0]
    refitted.bandwidth.div_(width**2)
    refitted.set_alpha(solution[: layer.rows])
    return refitted
