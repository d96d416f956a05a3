"""A stream of jobs (image, restart) through a batch of slots.

A slot whose image is fooled, or whose iterations are over, takes the next job at once, so that every forward
pass is full and no pass is spent on an image that is already decided. The verdicts are those of the plain
nested loop over restarts and iterations: jobs differ in when they run, never in their start points or steps.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from ..runtime.graphs import WARM_UP, StepWithGraph
from .balls import into_ball, lengths, per_image
from .base import differentiable, is_correct


@dataclass(frozen=True)
class Rule:
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


# A capture costs about as much as this many steps of any other kind.
_PASSES_WORTH_A_GRAPH = 30
_REPLAYED_ALIKE = 0.999


def _step_of(model, rule, device, slots, passes):
    """The function of one step: points, centers, labels, velocity, goals -> verdicts, moved points, velocity.

    Args:
        slots (int): how many are open.
        passes (int): about how many steps of so many slots there will be.
    """

    def step(points, centers, labels, velocity, goals):
        seen = rule.seen(points.detach(), centers).requires_grad_()
        logits = differentiable(model(seen))
        (gradient,) = torch.autograd.grad(rule.loss(logits, labels, goals), seen)
        moved, velocity = rule.move(points.detach(), gradient.to(points.dtype), centers, velocity)
        return is_correct(logits.detach(), labels), moved, velocity

    return _AttackStep(step, device, slots) if passes >= _PASSES_WORTH_A_GRAPH else step


class _AttackStep(StepWithGraph):
    """One step of all slots; it changes nothing but what it returns, so that it can be tried at once."""

    instead = "the attack goes on step by step"

    def _capture(self, *inputs):
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # libraries choose their algorithms and workspaces before the capture
            for _ in range(WARM_UP):
                self.step(*inputs)
        current.wait_stream(stream)
        super()._capture(*inputs)

    def _does_the_same(self, *inputs):
        moved, expected = self._replay(*inputs)[1], self.step(*inputs)[1]
        # the sign of a gradient near zero may flip between two runs of the same kernels
        return torch.isclose(moved, expected).float().mean() >= _REPLAYED_ALIKE


class Stream:
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
        self.step = self._step_for(len(self.classes["labels"]), self._left())

    def _open(self, batch_size):
        """Queues all jobs and fills the slots for the first time."""
        chosen = self.clean if self.rule.early_stop else np.ones_like(self.clean)
        self.jobs = deque((image, 0) for image in np.flatnonzero(chosen).tolist())
        # restarts of the queued images, the later ones included
        self.waiting = len(self.jobs) * self.rule.runs
        slots = min(batch_size, len(self.jobs))
        self.step = self._step_for(slots, len(self.jobs) * self.rule.iterations)
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

    def _step_for(self, slots, images):
        """The step for so many open slots, through which about so many images are still to pass."""
        return _step_of(self.model, self.rule, self.images.device, slots, images // max(slots, 1))

    def _pass(self):
        """One forward pass of all slots, and one step of those that have iterations left."""
        points, rule = self.pixels["points"], self.rule
        last = self.done == rule.iterations
        if last.all():
            with torch.no_grad():
                seen = rule.seen(points, self.pixels["centers"])
                right = is_correct(self.model(seen), self.classes["labels"])
        else:
            right, self.pixels["points"], velocity = self.step(
                points,
                self.pixels["centers"],
                self.classes["labels"],
                self.pixels.get("velocity"),
                self.classes.get("goals"),
            )
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
        replayed = isinstance(self.step, StepWithGraph) and self.step.graph is not None
        if replayed and 2 * len(slots) > rows:
            return
        index = self._index(self.row)
        for tensors in (self.pixels, self.classes):
            tensors.update({name: tensor[index] for name, tensor in tensors.items()})
        self.row = np.arange(len(slots))
        if replayed and len(slots):
            self.step = self._step_for(len(slots), self._left())

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
