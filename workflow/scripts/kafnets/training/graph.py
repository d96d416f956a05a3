"""A training step on a GPU as one launch."""

import contextlib
import functools

import torch

from ..progress import line

WARM_UP = 3  # steps in which libraries choose their algorithms and the optimiser makes its buffers
_TOLERANCE = 0.02  # of the loss, relative: two runs of the same kernels add up in another order


@contextlib.contextmanager
def computing_on(device):
    """Within the block a GPU works on a stream of its own, as a capture asks for."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # every step has the same shapes: trying the algorithms pays
    try:
        with torch.cuda.stream(_stream(device)):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
        torch.cuda.synchronize(device)


@functools.cache
def _stream(device):
    """The same one each time: memory is kept by stream."""
    return torch.cuda.Stream(device)


class Replayed:
    """A step that is captured as a CUDA graph after a few calls, and from then on launched at once.

    Kernel by kernel a small network keeps the host busier than the GPU. The calls before the capture are
    ordinary steps; the graph is tried against one more of them, from the same state and random numbers, and
    thrown away when the losses differ. Batches of another size, and other devices, take the ordinary step.

    Args:
        step (callable): the numbers of the chosen images to (4,): how many, their summed loss, and more. It
            reads and writes tensors in place and never waits for the device.
        changed (callable): the list of all tensors that a step changes.
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
        before, random = [tensor.clone() for tensor in self.changed()], torch.cuda.get_rng_state(self.device)

        def put_back():
            for tensor, value in zip(self.changed(), before, strict=True):
                tensor.copy_(value)
            torch.cuda.set_rng_state(random, self.device)

        try:
            self._capture(chosen)
            replayed = self._replay(chosen)
            put_back()
            alike = torch.allclose(replayed[:2], self.step(chosen)[:2], rtol=_TOLERANCE)
            reason = "it differs from the step that it captured"
        except RuntimeError as error:
            alike, reason = False, str(error)
        put_back()
        if not alike:
            line(f"no CUDA graph ({reason}); the training goes on kernel by kernel")
        return alike

    def _capture(self, chosen):
        self.chosen = chosen.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(self.device)):
            self.result = self.step(self.chosen)
        self.graph = graph
