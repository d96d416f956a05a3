"""A training step on a GPU as one launch."""

import contextlib
import functools

import torch

from .device import capture, trying_algorithms
from .progress import line

WARM_UP = 3  # steps in which libraries choose their algorithms and the optimiser makes its buffers
# Two runs of the same kernels add up in another order, and a pixel whose gradient is all but zero may go the
# other way: of the loss, and of the changes of a group of tensors.
_TOLERANCE = 0.02
_CHANGE_TOLERANCE = 0.1


@contextlib.contextmanager
def computing_on(device):
    """Within the block a GPU works on a stream of its own, as a capture asks for."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    try:
        with trying_algorithms(), torch.cuda.stream(_stream(device)):
            yield
    finally:
        torch.cuda.synchronize(device)


@functools.cache
def _stream(device):
    """The same one each time: memory is kept by stream."""
    return torch.cuda.Stream(device)


class Replayed:
    """A step that is captured as a CUDA graph after a few calls, and from then on launched at once.

    Kernel by kernel a small network keeps the host busier than the GPU. The calls before the capture are
    ordinary steps; the graph is tried against one more of them, from the same state and random numbers, and
    thrown away when the losses differ, or what became of the state. Batches of another size, and other
    devices, take the ordinary step.

    Args:
        step (callable): the numbers of the chosen images to (4,): how many, their summed loss, and more. It
            reads and writes tensors in place and never waits for the device.
        changed (callable): all tensors that a step changes, as a list of groups whose changes are compared as
            one: of a single tensor they may be nothing but rounding.
        device (torch.device): where they are.
        size (int): how many images a whole batch has.
    """

    def __init__(self, step, changed, device, size):
        self.step, self.changed, self.device, self.size = step, changed, device, size
        self.usable, self.calls, self.graph = device.type == "cuda", 0, None

    def __call__(self, chosen):
        if not self.usable or len(chosen) != self.size:
            return self.step(chosen)
        if self.graph is None:
            self.calls += 1
            if self.calls <= WARM_UP:
                return self.step(chosen)
            self.usable = self._captured(chosen)
            if not self.usable:
                return self.step(chosen)
        return self._replay(chosen)

    def _replay(self, chosen):
        self.chosen.copy_(chosen)
        self.graph.replay()
        return self.result.clone()  # the next replay overwrites it

    def _captured(self, chosen):
        before, random = self._state(), torch.cuda.get_rng_state(self.device)

        def put_back():
            for tensors, values in zip(self.changed(), before, strict=True):
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
            torch.cuda.set_rng_state(random, self.device)

        try:
            self._capture(chosen)
            replayed, became = self._replay(chosen), self._state()
            put_back()
            alike = torch.allclose(replayed[:2], self.step(chosen)[:2], rtol=_TOLERANCE)
            alike = alike and same_changes(before, became, self._state())
            reason = "it differs from the step that it captured"
        except RuntimeError as error:
            alike, reason = False, str(error)
        put_back()
        if not alike:
            self.graph = self.result = None
            line(f"no CUDA graph ({reason}); the training goes on kernel by kernel")
        return alike

    def _state(self):
        return [[tensor.clone() for tensor in group] for group in self.changed()]

    def _capture(self, chosen):
        self.chosen = chosen.clone()
        with capture(self.device, torch.cuda.current_stream(self.device)) as graph:
            self.result = self.step(self.chosen)
        self.graph = graph


def same_changes(before, one, other):
    """Whether the same became of each group of tensors, by two runs of the same step.

    Args:
        before, one, other (list of lists of Tensor): the groups before the step, and after each of its runs.
    """

    def length(group, origin):
        return torch.stack([(a.double() - b).norm() for a, b in zip(group, origin, strict=True)]).norm()

    return all(
        length(a, b) <= _CHANGE_TOLERANCE * length(b, start)
        for start, a, b in zip(before, one, other, strict=True)
        if start
    )
