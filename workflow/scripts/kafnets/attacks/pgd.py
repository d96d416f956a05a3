"""Projected gradient descent and its one-step form."""

from collections.abc import Callable

import torch

from .arguments import HALVES, check_choice, check_integer, check_real, checked_images, prepare
from .balls import RandomStarts, check_radius, check_starts
from .base import AttackResult, frozen, seeded
from .losses import LOSSES, check_enough_classes, rivals
from .slots import Stream
from .steps import Rule


def pgd(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    step: float,
    iterations: int,
    restarts: int = 1,
    loss: str = "cross_entropy",
    norm: str = "linf",
    momentum: float = 0.0,
    targets: int = 0,
    early_stop: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    starts: torch.Tensor | None = None,
    surrogate: torch.nn.Module | None = None,
    progress: Callable | None = None,
    memory: object = None,
) -> AttackResult:
    r"""Searches the ball around every image for one that is misclassified.

    .. math::
        x_0 \sim U(B_\epsilon(x)), \quad
        x_{k+1} = \Pi(x_k + s \cdot \mathrm{sign}\,\nabla_x L(f(x_k), y))

    where :math:`\Pi` clips to the ball and to [0, 1]; in the L2 norm the gradient is divided by its length
    instead. An image is robust when it is rightly classified unperturbed and under every restart.

    Args:
        model: classifier of images in [0, 1]. It is attacked in evaluation mode and put back.
        images: (N, ...) floats in [0, 1], of the type that the model takes, on any device. Of half precision,
            they are moved in float32, and what the model sees of them is rounded into the ball; see
            :func:`kafnets.attacks.balls.into_ball`.
        labels: (N,) true classes, integers of any type; required.
        eps: radius of the ball, in pixel units of [0, 1] (for L2 the Euclidean length over all pixels).
        step: length of one step, in the same units.
        iterations: gradient steps per restart; 0 leaves the random starts.
        restarts: random starts per image (and per target).
        loss: what the steps increase: "cross_entropy" (see :func:`kafnets.attacks.losses.unsaturated`),
            "margin" (largest other logit minus the label's), or "dlr" (the margin divided by the distance of
            the first logit to the third).
        norm: of the ball: "linf" or "l2".
        momentum: weight of the accumulated gradients (MI-FGSM with 1.0); 0 forgets them.
        targets: 0: away from the label. k > 0: every restart is run towards each of the k classes that the
            model ranks highest, the label aside, on the unperturbed image.
        early_stop: True: an image misclassified at any point on the way, the random start included, is
            fooled, and is not attacked again. False: only the last point of each restart counts, and
            images that are misclassified unperturbed are attacked too.
        batch_size: images per forward pass; None chooses by device. It does not change the verdicts.
        seed: start r of the whole set is drawn on the CPU from a generator seeded by (seed, r), so it
            depends neither on the batch size nor on the device. torch's own random numbers, for a model that
            draws some, are seeded too; see :class:`kafnets.attacks.Expectation` for such models.
        starts: (restarts * max(targets, 1), N, ...) start points to use instead, inside the ball.
        surrogate: a network that computes about the same in less time (in float16, say), whose gradients the
            steps follow; only their directions count. What it misclassifies on the way counts where the model
            does too, and is attacked on otherwise; the last point of a restart is the model's to judge. On a
            GPU the model is asked without TF32. Default: the model's own gradients
        progress: called as progress(done, left, accuracy) after every pass: forward passes in images so
            far, at most how many are left, and the share of images not yet fooled.
        memory: where to go on after an interruption: memory.recall() is the state that the same call left, or
            None, and memory.note(state) is called after every pass with a function that returns the state.
            What is gone on with ends as if it had not been interrupted, on the CPU to the bit.

    Shape:
        images (N, ...), labels (N,) -> adversarial (N, ...), robust (N,), clean (N,)

    Returns:
        AttackResult: `adversarial` holds a misclassified image where one was found, elsewhere the last
        point of the last restart.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.

    Sources: Madry et al. 2018, arXiv:1706.06083; restarts as in Wong, Rice & Kolter 2020, arXiv:2001.03994;
    momentum: Dong et al. 2018, arXiv:1710.06081; margin: Carlini & Wagner 2017, arXiv:1608.04644; DLR: Croce
    & Hein 2020, arXiv:2003.01690; targets: Gowal et al. 2019, arXiv:1910.09338.
    """
    task = prepare(model, images, labels, batch_size)
    eps, step = check_radius(eps, norm), check_real("step", step, 0)
    iterations, restarts = check_integer("iterations", iterations, 0), check_integer("restarts", restarts, 1)
    targets, momentum = check_integer("targets", targets, 0), check_real("momentum", momentum, 0)
    check_choice("loss", loss, LOSSES)
    runs = restarts * max(targets, 1)
    if starts is None:
        starts = RandomStarts(task.images, eps, seed, norm)
    else:
        starts = check_starts(starts, task.images, eps, norm, runs)

    # small steps would be lost between two half-precision numbers: only what the model sees is rounded
    half = task.images.dtype if task.images.dtype in HALVES else None
    rule = Rule(eps, step, iterations, runs, LOSSES[loss], norm, momentum, early_stop, half)
    with frozen(model), seeded(seed, task.images.device):  # a random network answers two calls alike
        logits, clean = task.answers()
        ranked = None
        if logits is not None:
            check_enough_classes(logits.shape[1], loss, targets)
            ranked = rivals(logits, task.labels)[:, :targets] if targets else None
        wide = task.images if half is None else task.images.float()
        with frozen(model if surrogate is None else surrogate):
            stream = Stream(model, rule, wide, task.labels, clean, ranked, task.batch_size, surrogate)
            stream.run(starts, progress, memory)
    return task.result(
        adversarial=stream.adversarial.to(task.images.dtype),
        robust=torch.from_numpy(stream.clean & ~stream.found),
        clean=torch.from_numpy(stream.clean),
        queries=len(images) + stream.queries,
        gradients=stream.gradients,
        stalled=None if surrogate is None else torch.from_numpy(stream.stalled & ~stream.found),
        accuracy_by_iteration=(stream.right_at / max(len(images), 1)).tolist(),
    )


def fgsm(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> AttackResult:
    r"""One step of the whole radius along the sign of the gradient, from the image itself.

    .. math:: x' = \mathrm{clip}(x + \epsilon \cdot \mathrm{sign}\,\nabla_x L(f(x), y), 0, 1)

    Args:
        model, images, labels, batch_size, progress: as in :func:`pgd`.
        eps: length of the step, in pixel units of [0, 1].
        seed: not used; there is nothing random.

    Returns:
        AttackResult: an image is robust when it is rightly classified before and after the step.

    Source: Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572.
    """
    images = checked_images(images)
    return pgd(
        model,
        images,
        labels,
        eps=eps,
        step=eps,
        iterations=1,
        early_stop=False,
        batch_size=batch_size,
        starts=images[None],
        progress=progress,
    )
