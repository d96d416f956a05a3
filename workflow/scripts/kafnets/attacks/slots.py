"""A stream of jobs (image, restart) through a batch of slots.

A slot whose image is fooled, or whose iterations are over, takes the next job at once, so that every forward
pass is full and no pass is spent on an image that is already decided. The verdicts are those of the plain
nested loop over restarts and iterations: jobs differ in when they run, never in their start points or steps.

A GPU is not waited for. The passes go on while the verdicts of earlier ones are on their way to the host: a
job runs a few steps beyond the one that decided it, and an image's next restart begins before the last one is
judged. What is done too much is dropped; nothing that is counted or returned depends on it.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from ..runtime.device import exact_convolutions
from ..runtime.graphs import StepWithGraph, wait_until
from .base import is_correct
from .steps import step_of


def _pace(device, led):
    """Passes whose verdicts are read together, and how many may be under way meanwhile.

    Where a surrogate leads, the model is asked once for each such group: a forward pass of few images takes a
    GPU nearly as long as one of many, and a job that goes on in vain for twice the group costs less.
    """
    if device.type != "cuda":
        return 1, 0
    return (8, 2) if led else (1, 1)


_FEWEST = 64  # images about which a GPU is asked: each new size would cost a search for algorithms


class Fetched:
    """A tensor on its way to the host, which goes on meanwhile."""

    def __init__(self, tensor):
        self.tensor, self.event = tensor.detach(), None
        if tensor.is_cuda:
            self.tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.tensor.copy_(tensor, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def numpy(self):
        if self.event is not None:
            wait_until(self.event)
        return self.tensor.numpy()


@dataclass
class _Pass:
    """What is kept of one pass until its verdicts are there.

    Args:
        image: (rows,) the image in each slot, -1 for none.
        gone: (rows,) passes that it had before, of all its restarts.
        points: where the images were.
        right: Fetched (rows,) verdicts of the network whose gradients were taken; None if it was not asked.
        stuck: Fetched (rows,) where it had no gradient; None likewise.
        asked: rows whose verdict the model itself gives.
        answers: what it says, to be cut out of those of several passes: (Fetched, begin).
    """

    image: np.ndarray
    gone: np.ndarray
    points: torch.Tensor
    right: Fetched | None
    stuck: Fetched | None
    asked: np.ndarray | None = None
    answers: tuple | None = None

    def verdicts(self):
        """(rows,) bool: the model's own where it was asked, else those of the one that stands in for it."""
        right = np.ones(len(self.image), bool) if self.right is None else self.right.numpy().copy()
        if self.asked is not None:
            fetched, begin = self.answers
            right[self.asked] = fetched.numpy()[begin : begin + len(self.asked)]
        return right


class Stream:
    """The slots, their jobs, and what has been found so far.

    The bookkeeping (which image is in which slot, how many passes each image had) is kept on the host, the
    pixels on the device. Where steps are replayed from a graph, whose size is fixed, empty slots stay until
    they are half of all.

    Args:
        model (nn.Module): what is attacked.
        rule (Rule): how.
        images, labels, clean, ranked (Tensor): (N, ...), (N,), (N,) bool, and (N, targets) or None.
        batch_size (int): slots at most.
        surrogate (nn.Module, optional): whose gradients are followed instead of the model's. What it
            misclassifies counts only where the model does too, and the model judges the last points.
    """

    def __init__(self, model, rule, images, labels, clean, ranked, batch_size, surrogate=None):
        self.model, self.rule, self.images, self.labels, self.ranked = model, rule, images, labels, ranked
        self.batch_size, self.surrogate = batch_size, surrogate
        self.clean = clean.cpu().numpy()
        self.found, self.stalled = np.zeros((2, len(images)), bool)
        self.gone = np.zeros(len(images), np.int64)  # passes begun of each image, of all its restarts
        self.adversarial = images.clone()
        self.right_at = np.zeros(rule.iterations + 1, np.int64)
        self.queries = self.gradients = 0
        self.every, self.ahead = _pace(images.device, surrogate is not None)
        self.flying = deque()  # passes whose verdicts nobody has read
        self.asked = deque()  # groups of passes about which the model was asked

    def run(self, starts, progress=None, memory=None):
        """Runs all jobs; see :func:`kafnets.attacks.pgd`."""
        for _ in self.passes(starts, memory):
            if progress is not None and self.queries:
                progress(self.queries, self._left(), float((self.clean & ~self.found).mean()))
            if memory is not None:
                memory.note(self._state)

    def passes(self, starts, memory=None):
        """Runs all jobs; comes back after every pass, so that several streams can take turns."""
        self.starts, self.drawn = starts, {}
        state = None if memory is None else memory.recall()
        if state is None:
            self._open()
        else:
            self._restore(state)
        while len(self.image) or self.flying or self.asked:
            if len(self.image):
                self._pass()
            self._look(everything=not len(self.image))
            self._refill()
            yield

    def _state(self):
        """All that the next pass and the verdicts depend on, for :meth:`_restore`.

        What the model said of the unperturbed images too: where it is undecided, another device may hear
        otherwise, and an image that was not attacked for one answer must not be judged by the other.
        """
        self._look(everything=True)
        arrays = ("clean", "found", "stalled", "gone", "image", "right_at")
        return {
            **{name: torch.from_numpy(getattr(self, name)) for name in arrays},
            "ranked": self.ranked,
            "jobs": torch.tensor(list(self.jobs), dtype=torch.int64),
            "counts": [self.queries, self.gradients],
            "adversarial": self.adversarial,
            "pixels": self.pixels,
            "classes": self.classes,
        }

    def _restore(self, state):
        device = self.images.device
        for name in ("clean", "found", "stalled", "gone", "image", "right_at"):
            setattr(self, name, state[name].numpy())
        self.ranked = None if state["ranked"] is None else state["ranked"].to(device)
        self.jobs = deque(state["jobs"].tolist())
        self.queries, self.gradients = state["counts"]
        self.adversarial = state["adversarial"].to(device)
        self.pixels = {name: tensor.to(device) for name, tensor in state["pixels"].items()}
        self.classes = {name: tensor.to(device) for name, tensor in state["classes"].items()}
        self.attacked = self.clean if self.rule.early_stop else np.ones_like(self.clean)
        self.step = self._step_for(len(self.image), self._left())

    def _open(self):
        """Queues the first restart of all images and fills the slots for the first time."""
        self.attacked = self.clean if self.rule.early_stop else np.ones_like(self.clean)
        self.jobs = deque(np.flatnonzero(self.attacked).tolist())
        slots = min(self.batch_size, len(self.jobs))
        self.step = self._step_for(slots, len(self.jobs) * self.rule.iterations)
        self.image = np.full(slots, -1)
        nothing = self.images.new_zeros(slots, *self.images.shape[1:])
        self.pixels = {"points": nothing, "centers": nothing.clone()}
        if self.rule.momentum:
            self.pixels["velocity"] = nothing.clone()
        self.classes = {"labels": self.labels.new_zeros(slots)}
        if self.ranked is not None:
            self.classes["goals"] = self.labels.new_zeros(slots)
        self._refill()

    def _step_for(self, slots, images):
        """The step for so many open slots, through which about so many images are still to pass."""
        searched = self.model if self.surrogate is None else self.surrogate
        return step_of(searched, self.rule, self.images.device, slots, images // max(slots, 1))

    def _pass(self):
        """One forward pass of all slots, and one step of those that have iterations left."""
        points, occupied = self.pixels["points"], self.image >= 0
        gone = np.where(occupied, self.gone[self.image], 0)
        last = occupied & (self._iteration(gone) == self.rule.iterations)
        right = stuck = None
        if not np.array_equal(last, occupied):
            right, self.pixels["points"], velocity, stuck = self.step(
                points,
                self.pixels["centers"],
                self.classes["labels"],
                self.pixels.get("velocity"),
                self.classes.get("goals"),
            )
            right, stuck = Fetched(right), None if self.surrogate is None else Fetched(stuck)
            if self.rule.momentum:
                self.pixels["velocity"] = velocity
        elif self.surrogate is None:
            with torch.no_grad():
                seen = self.rule.seen(points, self.pixels["centers"])
                right = Fetched(is_correct(self.model(seen), self.classes["labels"]))
        if self.pixels["points"] is points:  # which new jobs will overwrite
            self.pixels["points"] = points.clone()
        self.flying.append(_Pass(self.image.copy(), gone, points, right, stuck))
        self.gone[self.image[occupied]] += 1
        # the next restart, unless this one turns out to have fooled the model
        self.jobs.extend(self.image[last & (gone + 1 < self._total)].tolist())
        self.image[last] = -1

    def _look(self, everything):
        """Settles the passes whose verdicts should be there by now; or all of them."""
        while self.flying and (everything or len(self.flying) >= self.ahead + self.every):
            group = [self.flying.popleft() for _ in range(min(self.every, len(self.flying)))]
            if self.surrogate is not None:
                self._ask(group)
            self.asked.append(group)
        waiting = 1 if self.surrogate is not None and self.ahead and not everything else 0
        while len(self.asked) > waiting:
            for one in self.asked.popleft():
                self._settle(one)

    def _ask(self, group):
        """Asks the model, exactly, about the points of these passes on which its own word is needed."""
        points, images, begin = [], [], 0
        for one in group:
            needed = self._is_last(one)
            if self.rule.early_stop and one.right is not None:
                needed |= ~one.right.numpy()
            one.asked = np.flatnonzero(needed & self._counts(one))
            where, index = self._index(one.asked), self._index(one.image[one.asked])
            points.append(self.rule.seen(one.points[where], self.images[index]))
            images.append(one.image[one.asked])
        images = np.concatenate(images)
        if not len(images):
            answers = Fetched(torch.ones(0, dtype=torch.bool))
        else:
            answers = Fetched(self._answers(torch.cat(points), self.labels[self._index(images)]))
        for one in group:
            one.answers, begin = (answers, begin), begin + len(one.asked)

    def _answers(self, points, labels):
        right = []
        with torch.no_grad(), exact_convolutions():
            for some, classes in zip(
                points.split(self.batch_size), labels.split(self.batch_size), strict=True
            ):
                logits = self.model(self._padded(some))[: len(some)]
                right.append(is_correct(logits, classes))
        return torch.cat(right)

    def _padded(self, points):
        """On a GPU, some more rows, so that batches come in few sizes."""
        if not points.is_cuda:
            return points
        size = min(max(_FEWEST, 1 << (len(points) - 1).bit_length()), self.batch_size)
        return torch.cat([points, points[:1].expand(size - len(points), *points.shape[1:])])

    def _settle(self, one):
        """Notes what a pass came to, as far as its jobs were not decided by an earlier one."""
        rule, counts, last = self.rule, self._counts(one), self._is_last(one)
        right = one.verdicts()
        moved = int(np.count_nonzero(counts & ~last))
        asked = counts if one.asked is None else counts[one.asked]
        # of a surrogate only the passes count whose gradients are followed
        self.queries += int(np.count_nonzero(asked)) + (0 if one.asked is None else moved)
        self.gradients += moved
        if one.stuck is not None:
            self.stalled[one.image[counts & ~last & one.stuck.numpy()]] = True
        noted = counts & right & self.clean[one.image] & (one.gone <= rule.iterations)
        np.add.at(self.right_at, one.gone[noted], 1)
        fooled = counts & ~right & (last | rule.early_stop)
        self.found[one.image[fooled]] = True
        ended = np.flatnonzero(fooled | (counts & (one.gone + 1 == self._total)))
        if len(ended):
            where, images = self._index(ended), self._index(one.image[ended])
            seen = rule.seen(one.points[where], self.images[images])
            self.adversarial[images] = seen.to(self.adversarial.dtype)
        self.image[(self.image >= 0) & self.found[self.image]] = -1

    def _counts(self, one):
        """(rows,) bool: a slot of the pass whose image was not decided before."""
        return (one.image >= 0) & ~self.found[one.image]

    def _is_last(self, one):
        return (one.image >= 0) & (self._iteration(one.gone) == self.rule.iterations)

    def _iteration(self, gone):
        return gone % (self.rule.iterations + 1)

    @property
    def _total(self):
        """The passes of an image that withstands them all."""
        return self.rule.runs * (self.rule.iterations + 1)

    def _refill(self):
        """Gives the empty slots new jobs; closes those that get none."""
        empty = np.flatnonzero(self.image < 0)
        images = []
        while self.jobs and len(images) < len(empty):
            image = self.jobs.popleft()
            if not self.found[image]:
                images.append(image)
        rows, images = empty[: len(images)], np.array(images, np.int64)
        self.image[rows] = images
        if len(rows) < len(empty):
            rows = self._close(rows)
        if not len(rows):
            return
        restarts = self.gone[images] // (self.rule.iterations + 1)
        where, index = self._index(rows), self._index(images)
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

    def _close(self, rows):
        """Closes the empty slots; returns where the slots `rows` are now."""
        kept = np.flatnonzero(self.image >= 0)
        replayed = isinstance(self.step, StepWithGraph) and self.step.graph is not None
        if replayed and len(kept) and 2 * len(kept) > len(self.image):
            return rows
        self.image = self.image[kept]
        index = self._index(kept)
        for tensors in (self.pixels, self.classes):
            tensors.update({name: tensor[index] for name, tensor in tensors.items()})
        if replayed and len(kept):
            self.step = self._step_for(len(kept), self._left())
        return np.searchsorted(kept, rows)

    def _starts_of(self, restart):
        """The start points of one restart, drawn when first needed and kept until the next ones are."""
        if restart not in self.drawn:
            # jobs are taken (all but) in the order of their restarts: an older one is hardly asked for again
            self.drawn = {restart: self.starts[restart].to(self.images)}
            if self.images.is_cuda and restart + 1 < self.rule.runs and hasattr(self.starts, "begin"):
                self.starts.begin(restart + 1)
        return self.drawn[restart]

    def _index(self, rows):
        rows = torch.from_numpy(rows)
        if self.images.is_cuda and len(rows):  # from such memory the copy need not be waited for
            rows = rows.pin_memory()
        return rows.to(self.images.device, non_blocking=True)

    def _left(self):
        """Forward passes, in images, that are left at most."""
        return int((self._total - self.gone[self.attacked & ~self.found]).sum())
