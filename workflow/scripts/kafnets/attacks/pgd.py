"""Projected gradient descent, its one-step form, and the losses that they climb.

The attack is a stream of jobs (image, restart) through a batch of slots. A slot whose image is fooled, or
whose iterations are over, takes the next job at once, so that every forward pass is full and no pass is
spent on an image that is already decided. The verdicts are those of the plain nested loop over restarts
and iterations: jobs differ in when they run, never in their start points or steps.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..runtime.device import capture, trying_algorithms
from ..runtime.progress import line
from .arguments import check_choice, check_integer, check_radius, check_real, checked_images, prepare
from .base import HALVES, differentiable, frozen, into_ball, is_correct, lengths, per_image, seeded


def pgd(
    model,
    images,
    labels,
    *,
    eps,
    step,
    iterations,
    restarts=1,
    loss="cross_entropy",
    norm="linf",
    momentum=0.0,
    targets=0,
    early_stop=True,
    batch_size=None,
    seed=0,
    starts=None,
    progress=None,
    memory=None,
):
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
            :func:`kafnets.attacks.base.into_ball`.
        labels: (N,) true classes, integers of any type; required.
        eps: radius of the ball, in pixel units of [0, 1] (for L2 the Euclidean length over all pixels).
        step: length of one step, in the same units.
        iterations: gradient steps per restart; 0 leaves the random starts.
        restarts: random starts per image (and per target).
        loss: what the steps increase: "cross_entropy" (see :func:`unsaturated`), "margin" (largest other
            logit minus the label's), or "dlr" (the margin divided by the distance of the first logit to the
            third).
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
        starts = _check_starts(starts, task.images, eps, norm, runs)

    # small steps would be lost between two half-precision numbers: only what the model sees is rounded
    half = task.images.dtype if task.images.dtype in HALVES else None
    rule = _Rule(eps, step, iterations, runs, LOSSES[loss], norm, momentum, early_stop, half)
    with frozen(model), seeded(seed, task.images.device):  # a random network answers two calls alike
        logits, clean = task.answers()
        ranked = None
        if logits is not None:
            _check_enough_classes(logits.shape[1], loss, targets)
            ranked = _rivals(logits, task.labels)[:, :targets] if targets else None
        wide = task.images if half is None else task.images.float()
        stream = _Stream(model, rule, wide, task.labels, clean, ranked)
        stream.run(starts, task.batch_size, progress, memory)
    return task.result(
        adversarial=stream.adversarial.to(task.images.dtype),
        robust=torch.from_numpy(stream.clean & ~stream.found),
        clean=torch.from_numpy(stream.clean),
        queries=len(images) + stream.queries,
        gradients=stream.gradients,
        accuracy_by_iteration=(stream.right_at / max(len(images), 1)).tolist(),
    )


def fgsm(model, images, labels, *, eps, batch_size=None, seed=0, progress=None):
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


def _cross_entropy(logits, labels, goals):
    if goals is None:
        return functional.cross_entropy(unsaturated(logits, labels), labels, reduction="sum")
    return -functional.cross_entropy(logits, goals, reduction="sum")


def unsaturated(logits, labels):
    r"""Logits whose cross-entropy has a gradient that arithmetic can hold.

    The gradient towards the label's logit is :math:`p_y - 1`, of which rounding leaves nothing once the
    label's logit exceeds all others by much: an image can then look robust because the attack stands still
    (Carlini & Wagner 2016, arXiv:1607.04311, who divide the logits too). Where rounding would take more than
    one percent of it, the image's logits are divided by a temperature, held fixed, that leaves a quarter of
    the largest margin that can be held. All others stay as they are, to the bit.

    Args:
        logits (Tensor): (N, classes).
        labels (Tensor): (N,) int64 true classes.
    """
    lead, most = -margins(logits.detach(), labels), most_margin(logits.dtype)
    return logits / torch.where(lead > most, lead * (4 / most), 1)[:, None]


def most_margin(dtype):
    """The margin of the label's logit up to which rounding takes less than 1 % of :math:`p_y - 1`."""
    return -math.log(50 * torch.finfo(dtype).eps)  # 1 - p_y = exp(-margin), known to eps / 2


def margins(logits, labels, goals=None):
    """How far the goal's logit, or else the largest of the other classes', exceeds the label's."""
    if goals is None:
        rival = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    else:
        rival = logits.gather(1, goals[:, None])[:, 0]
    return rival - logits.gather(1, labels[:, None])[:, 0]


def _margin(logits, labels, goals):
    return margins(logits, labels, goals).sum()


def _difference_of_logits_ratio(logits, labels, goals):
    ordered = logits.sort(1, descending=True).values
    third = ordered[:, 2] if goals is None else (ordered[:, 2] + ordered[:, 3]) / 2
    return (margins(logits, labels, goals) / (ordered[:, 0] - third + 1e-12)).sum()


LOSSES = {"cross_entropy": _cross_entropy, "margin": _margin, "dlr": _difference_of_logits_ratio}


def _check_enough_classes(classes, loss, targets):
    if targets >= classes:
        raise ValueError(f"targets: {targets} other classes were asked for, the model has {classes} in all")
    if loss == "dlr" and classes < (4 if targets else 3):
        raise ValueError(f"loss: dlr needs more than the model's {classes} classes; choose margin")


def _rivals(logits, labels):
    """The classes but for the label, in the order of their logits, (N, classes - 1)."""
    order = logits.argsort(1, descending=True)
    return order[order != labels[:, None]].view(len(labels), -1)


class RandomStarts:
    """Uniform points of the ball, clipped to [0, 1]: `starts[r]` is those of restart r for the whole set."""

    def __init__(self, images, eps, seed, norm="linf"):
        self.images, self.eps, self.norm = images, eps, norm
        self.seed = check_integer("seed", seed, 0)

    def __getitem__(self, restart):
        # torch's CPU generator reads only 32 bits of its seed, so the pair is hashed, not packed
        state = np.random.SeedSequence([self.seed, restart]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        dtype = torch.float32 if self.images.dtype in HALVES else self.images.dtype
        noise = torch.empty(self.images.shape, dtype=dtype)
        if self.norm == "linf":
            noise.uniform_(-self.eps, self.eps, generator=generator)
        else:
            noise.normal_(generator=generator)
            radius = torch.rand(len(noise), generator=generator, dtype=noise.dtype) ** (1 / noise[:1].numel())
            noise *= per_image(self.eps * radius, noise) / lengths(noise)
        return (self.images + noise.to(self.images.device)).clamp_(0, 1).to(self.images.dtype)


def _check_starts(starts, images, eps, norm, runs):
    if not isinstance(starts, torch.Tensor) or starts.shape != (runs, *images.shape):
        raise ValueError(f"starts: expected a tensor of shape {(runs, *images.shape)} (restarts, N, ...)")
    # they may be many: each is brought to the model's device when its turn comes
    starts, images = starts.detach().to(images.dtype), images.to(starts.device)
    # what a start computed as image + noise may lie outside by rounding
    slack = 4 * torch.finfo(images.dtype).eps * (1 if norm == "linf" else images[:1].numel() ** 0.5)
    if starts.numel():
        offsets = (starts - images).flatten(0, 1).flatten(1)
        distance = offsets.abs().amax() if norm == "linf" else offsets.norm(dim=1).amax()
        if distance > eps + slack or not (starts.amin() >= 0 and starts.amax() <= 1):
            raise ValueError("starts: every start must lie within eps of its image and in [0, 1]")
    return starts


@dataclass(frozen=True)
class _Rule:
    """How a point moves, and when a job is over."""

    eps: float
    step: float
    iterations: int
    runs: int
    loss: object
    norm: str
    momentum: float
    early_stop: bool
    half: torch.dtype | None = None

    def move(self, points, gradient, centers, velocity):
        """One step of all points, and their accumulated gradients."""
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)  # a gradient that is not a number points nowhere
        if self.momentum:
            size = gradient.abs().flatten(1).mean(1).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = velocity = self.momentum * velocity + gradient / per_image(size, gradient)
        direction = gradient.sign() if self.norm == "linf" else gradient / lengths(gradient)
        return self.project(torch.add(points, direction, alpha=self.step), centers), velocity

    def project(self, points, centers):
        """The points brought back into the balls around their centers."""
        return into_ball(points, centers, self.eps, self.norm)

    def seen(self, points, centers):
        """What the model sees of the points: in half precision they are rounded into the ball."""
        return points if self.half is None else into_ball(points, centers.to(self.half), self.eps, self.norm)


def _step_of(model, rule, slots, passes):
    """The function of one step: slot tensors by name -> verdicts, moved points, velocity.

    Args:
        slots (int): how many are open.
        passes (int): about how many steps of so many slots there will be.
    """

    def step(slot):
        points, labels = slot["points"].detach(), slot["labels"]
        seen = rule.seen(points, slot["centers"]).requires_grad_()
        logits = differentiable(model(seen))
        (gradient,) = torch.autograd.grad(rule.loss(logits, labels, slot.get("goals")), seen)
        gradient = gradient.to(points.dtype)
        moved, velocity = rule.move(points.detach(), gradient, slot["centers"], slot.get("velocity"))
        return is_correct(logits.detach(), labels), moved, velocity

    return _Replayed(step, slots) if passes >= _PASSES_WORTH_A_GRAPH else step


# A capture costs about as much as this many eager steps.
_PASSES_WORTH_A_GRAPH = 30
_REPLAYED_ALIKE = 0.999


class _Replayed:
    """On a GPU a step with all slots open is captured once as a CUDA graph, then replayed.

    A small network is hundreds of short kernels, and launching them one by one takes longer than they do.
    Steps of any other size, and those on the CPU, run as they are; so do all of them where the capture fails
    or its first replay does not do what the step does.
    """

    def __init__(self, step, slots):
        self.step, self.slots, self.graph, self.usable = step, slots, None, True

    def __call__(self, slot):
        if not self.usable or slot["points"].device.type != "cuda" or len(slot["points"]) != self.slots:
            return self.step(slot)
        if self.graph is None:
            self.usable = self._captured(slot)
            return self.step(slot)
        return self._replay(slot)

    def _replay(self, slot):
        for name, tensor in self.inputs.items():
            tensor.copy_(slot[name])
        self.graph.replay()
        # the next replay overwrites its outputs
        return tuple(None if output is None else output.clone() for output in self.outputs)

    def _captured(self, slot):
        with trying_algorithms():  # for the capture and the step that it is compared with: the same ones
            try:
                self._capture(slot)
            except RuntimeError as error:
                self.graph = None
                line(f"no CUDA graph ({error}); the attack goes on step by step")
                return False
            moved, expected = self._replay(slot)[1], self.step(slot)[1]
        # the sign of a gradient near zero may flip between two runs of the same kernels
        if torch.isclose(moved, expected).float().mean() < _REPLAYED_ALIKE:
            self.graph = None
            line("the CUDA graph differs from the step that it captured; the attack goes on step by step")
            return False
        return True

    def _capture(self, slot):
        device = slot["points"].device
        self.inputs = {name: tensor.clone() for name, tensor in slot.items()}
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries choose their algorithms and workspaces before the capture
            for _ in range(3):
                self.step(self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        with capture(device) as graph:
            self.outputs = self.step(self.inputs)
        self.graph = graph


class _Stream:
    """The slots, their jobs, and what has been found so far.

    The bookkeeping of a slot (which image, which restart, how many iterations, which row of the tensors) is
    kept on the host, the pixels on the device; one small tensor of verdicts crosses over per pass. Where
    steps are replayed from a graph, whose size is fixed, closed slots stay as rows that nobody asks about,
    until they are half of all.
    """

    def __init__(self, model, rule, images, labels, clean, ranked):
        self.model, self.rule, self.images, self.labels, self.ranked = model, rule, images, labels, ranked
        self.clean = clean.cpu().numpy()
        self.found = np.zeros(len(images), bool)
        self.adversarial = images.clone()
        self.right_at = np.zeros(rule.iterations + 1, np.int64)
        self.queries = self.gradients = 0

    def run(self, starts, batch_size, progress, memory):
        self.starts, self.drawn = starts, {}
        state = None if memory is None else memory.recall()
        if state is None:
            self._open(batch_size)
        else:
            self._restore(state)
        while len(self.image):
            self._pass()
            if progress is not None:
                progress(self.queries, self._left(), float((self.clean & ~self.found).mean()))
            if memory is not None:
                memory.note(self._state)

    def _state(self):
        """All that the next pass and the verdicts depend on, for :meth:`_restore`.

        What the model said of the unperturbed images too: where it is undecided, another device may hear
        otherwise, and an image that was not attacked for one answer must not be judged by the other.
        """
        return {
            "clean": torch.from_numpy(self.clean),
            "ranked": self.ranked,
            "slots": torch.from_numpy(np.stack([self.image, self.restart, self.done, self.row])),
            "jobs": torch.tensor(list(self.jobs), dtype=torch.int64).view(-1, 2),
            "found": torch.from_numpy(self.found),
            "right_at": torch.from_numpy(self.right_at),
            "counts": [self.waiting, self.queries, self.gradients],
            "adversarial": self.adversarial,
            "pixels": self.pixels,
            "classes": self.classes,
        }

    def _restore(self, state):
        device = self.images.device
        self.clean = state["clean"].numpy()
        self.ranked = None if state["ranked"] is None else state["ranked"].to(device)
        self.image, self.restart, self.done, self.row = state["slots"].numpy()
        self.jobs = deque(map(tuple, state["jobs"].tolist()))
        self.found, self.right_at = state["found"].numpy(), state["right_at"].numpy()
        self.waiting, self.queries, self.gradients = state["counts"]
        self.adversarial = state["adversarial"].to(device)
        self.pixels = {name: tensor.to(device) for name, tensor in state["pixels"].items()}
        self.classes = {name: tensor.to(device) for name, tensor in state["classes"].items()}
        slots = len(self.classes["labels"])
        self.step = _step_of(self.model, self.rule, slots, self._left() // max(slots, 1))

    def _open(self, batch_size):
        """Queues all jobs and fills the slots for the first time."""
        chosen = self.clean if self.rule.early_stop else np.ones_like(self.clean)
        self.jobs = deque((image, 0) for image in np.flatnonzero(chosen).tolist())
        # restarts of the queued images, the later ones included
        self.waiting = len(self.jobs) * self.rule.runs
        slots = min(batch_size, len(self.jobs))
        passes = len(self.jobs) * self.rule.iterations // max(slots, 1)
        self.step = _step_of(self.model, self.rule, slots, passes)
        self.image, self.restart, self.done = np.zeros((3, slots), np.int64)
        self.row = np.arange(slots)
        nothing = self.images.new_zeros(slots, *self.images.shape[1:])
        self.pixels = {"points": nothing, "centers": nothing.clone()}
        if self.rule.momentum:
            self.pixels["velocity"] = nothing.clone()
        self.classes = {"labels": self.labels.new_zeros(slots)}
        if self.ranked is not None:
            self.classes["goals"] = self.labels.new_zeros(slots)
        self._refill(np.arange(slots))

    def _pass(self):
        """One forward pass of all slots, and one step of those that have iterations left."""
        points, rule = self.pixels["points"], self.rule
        last = self.done == rule.iterations
        if last.all():
            with torch.no_grad():
                seen = rule.seen(points, self.pixels["centers"])
                right = is_correct(self.model(seen), self.classes["labels"])
        else:
            right, self.pixels["points"], velocity = self.step({**self.pixels, **self.classes})
            if rule.momentum:
                self.pixels["velocity"] = velocity
        right = right.cpu().numpy()[self.row]
        self.queries += len(last)
        self.gradients += int(np.count_nonzero(~last))
        counted = right & self.clean[self.image] & (self.restart == 0)
        np.add.at(self.right_at, self.done[counted], 1)
        over = np.flatnonzero(last | ~right if rule.early_stop else last)
        self._settle(over, right, points)
        self.done += 1
        self._refill(over)

    def _settle(self, rows, right, points):
        """Notes what the jobs in these slots came to, and queues the next restart of what withstood them."""
        again = right[rows] & (self.restart[rows] + 1 < self.rule.runs)
        images, restarts = self.image[rows[again]], self.restart[rows[again]] + 1
        self.jobs.extend(zip(images.tolist(), restarts.tolist(), strict=True))
        self.waiting += int((self.rule.runs - restarts).sum())
        self.found[self.image[rows[~right[rows]]]] = True
        ended = rows[~again]
        if len(ended):
            where = self._index(self.row[ended])
            seen = self.rule.seen(points[where], self.pixels["centers"][where])
            self.adversarial[self._index(self.image[ended])] = seen.to(points.dtype)

    def _refill(self, rows):
        """Gives the slots `rows` new jobs; slots that get none are closed."""
        taken = [self.jobs.popleft() for _ in range(min(len(rows), len(self.jobs)))]
        if len(taken) < len(rows):
            kept = np.setdiff1d(np.arange(len(self.image)), rows[len(taken) :])
            rows = np.searchsorted(kept, rows[: len(taken)])
            self._keep(kept)
        if not taken:
            return
        images, restarts = np.array(taken).T
        self.waiting -= int((self.rule.runs - restarts).sum())
        self.image[rows], self.restart[rows], self.done[rows] = images, restarts, 0
        where, index = self._index(self.row[rows]), self._index(images)
        self.classes["labels"][where] = self.labels[index]
        if self.ranked is not None:
            self.classes["goals"][where] = self.ranked[index, self._index(restarts % self.ranked.shape[1])]
        centers = self.images[index]
        self.pixels["centers"][where] = centers
        if self.rule.momentum:
            self.pixels["velocity"][where] = 0
        points = torch.empty_like(centers)
        for restart in np.unique(restarts).tolist():
            chosen = np.flatnonzero(restarts == restart)
            points[self._index(chosen)] = self._starts_of(restart)[self._index(images[chosen])]
        # image + noise may round to a point outside the ball
        self.pixels["points"][where] = self.rule.project(points, centers)

    def _keep(self, slots):
        """Closes all slots but these."""
        self.image, self.restart, self.done = self.image[slots], self.restart[slots], self.done[slots]
        self.row = self.row[slots]
        rows = len(self.classes["labels"])
        replayed = isinstance(self.step, _Replayed) and self.step.graph is not None
        if replayed and 2 * len(slots) > rows:
            return
        index = self._index(self.row)
        for tensors in (self.pixels, self.classes):
            tensors.update({name: tensor[index] for name, tensor in tensors.items()})
        self.row = np.arange(len(slots))
        if replayed and len(slots):
            self.step = _step_of(self.model, self.rule, len(slots), self._left() // len(slots))

    def _starts_of(self, restart):
        """The start points of one restart, drawn when first needed and kept until the next ones are."""
        if restart not in self.drawn:
            # jobs are taken (all but) in the order of their restarts: an older one is hardly asked for again
            self.drawn = {restart: self.starts[restart].to(self.images)}
        return self.drawn[restart]

    def _index(self, rows):
        return torch.from_numpy(rows).to(self.images.device)

    def _left(self):
        """Forward passes, in images, that are left at most."""
        runs = self.waiting + int((self.rule.runs - self.restart).sum())
        return runs * (self.rule.iterations + 1) - int(self.done.sum())
