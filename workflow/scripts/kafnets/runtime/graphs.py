"""Steps of a training or an attack that a GPU runs as one launch: CUDA graphs."""

import collections
import contextlib

import torch

from . import turns
from .progress import line

WARM_UP = 3  # steps in which libraries choose their algorithms and the optimiser makes its buffers
# Two runs of the same kernels add up in another order, and a pixel whose gradient is all but zero may go the
# other way: of the loss, and of the changes of a group of tensors.
_TOLERANCE = 0.02
_CHANGE_TOLERANCE = 0.1


@contextlib.contextmanager
def capture(device, stream=None):
    """What is launched within the block becomes a CUDA graph, the context's value, and does not run.

    Args:
        device (torch.device): a GPU.
        stream (torch.cuda.Stream, optional): to capture on; default: torch's for that purpose.
    """
    graph = torch.cuda.CUDAGraph()
    # when a capture fails, torch leaves its stream the current one
    with torch.cuda.stream(torch.cuda.current_stream(device)):
        try:
            with torch.cuda.graph(graph, stream=stream):
                yield graph
        except BaseException:
            # ... and lets the random numbers believe that it goes on: a copy of their state does not
            index = torch.cuda.current_device() if device.index is None else device.index
            generator = torch.cuda.default_generators[index]
            generator.graphsafe_set_state(generator.clone_state())
            raise


@contextlib.contextmanager
def trying_algorithms():
    """Within the block cuDNN measures its algorithms for every new shape: it pays where shapes come again.

    Not where only deterministic ones are asked for: which one is fastest may change from run to run.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def computing_on(device):
    """Within the block a GPU works on a stream of its own, by the algorithms that are fastest there."""
    if device.type != "cuda":
        yield
        return
    with trying_algorithms(), own_stream(device):
        yield


@contextlib.contextmanager
def own_stream(device):
    """Within the block a GPU works on a stream of its own, as a capture asks for, and so beside others."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    free = _free_streams[device]
    stream = free.pop() if free else torch.cuda.Stream(device)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.synchronize(device)
        free.append(stream)


# By device, those that nothing computes on now: they are taken again, for memory is kept by stream.
_free_streams = collections.defaultdict(list)


def wait_for(device):
    """Returns when a GPU has done what the current stream was given; other jobs go on meanwhile."""
    if device.type == "cuda" and turns.beside():
        given = torch.cuda.Event()
        given.record(torch.cuda.current_stream(device))
        wait_until(given)


def wait_until(event):
    """Returns when a GPU has come to an event; other jobs go on meanwhile."""
    if turns.beside():
        turns.until(event.query)
    else:
        event.synchronize()


class StepWithGraph:
    """A step that a GPU launches at once, as a CUDA graph; it is called like the step itself.

    A small network is hundreds of short kernels, and launching them one by one takes longer than they do. The
    step is captured once, and the graph compared with it. Where the capture fails, or the two differ, a line
    says so and all steps are ordinary ones; so are those on other devices, and of other than `size` rows.

    Subclasses define `_does_the_same(*inputs)`, whether a replay does what the step does, and `instead`, the
    words for what happens without a graph.

    Args:
        step (callable): of tensors, or None in the place of any but the first, to a tensor or a tuple of
            them; it never waits for the device.
        device (torch.device): where they are.
        size (int): rows of the first argument for which the graph is made.
    """

    def __init__(self, step, device, size):
        self.step, self.device, self.size = step, device, size
        self.usable, self.graph = device.type == "cuda", None

    def __call__(self, *inputs):
        if self.usable and len(inputs[0]) == self.size and self._is_ready(*inputs):
            return self._replay(*inputs)
        return self.step(*inputs)

    def _is_ready(self, *inputs):
        """Whether there is a graph; the first time it is made and tried."""
        if self.graph is None:
            self.usable = self._is_captured(*inputs)
        return self.usable

    def _is_captured(self, *inputs):
        try:
            with trying_algorithms():  # for the capture and the step that it is compared with: the same ones
                self._capture(*inputs)
                alike, reason = self._does_the_same(*inputs), "it differs from the step that it captured"
        except RuntimeError as error:
            alike, reason = False, str(error)
        if not alike:
            self.graph = self.inputs = self.outputs = None
            line(f"no CUDA graph ({reason}); {self.instead}")
        return bool(alike)

    def _capture(self, *inputs, stream=None):
        self.inputs = _copy(inputs)
        with capture(self.device, stream) as graph:
            self.outputs = self.step(*self.inputs)
        self.graph = graph

    def _replay(self, *inputs):
        for own, given in zip(self.inputs, inputs, strict=True):
            if own is not None:
                own.copy_(given)
        self.graph.replay()
        return _copy(self.outputs)  # the next replay overwrites them


def _copy(tensors):
    """A tensor, or a tuple of tensors and None, copied."""
    if isinstance(tensors, tuple):
        return tuple(_copy(tensor) for tensor in tensors)
    return None if tensors is None else tensors.clone()


class Replayed(StepWithGraph):
    """An update of a network, which changes tensors in place.

    The calls before the capture are ordinary steps. The graph is compared with one more of them, from the
    same state and random numbers: by the losses, and by what becomes of the state.

    Args:
        step (callable): the numbers of the chosen images to (4,): how many, their summed loss, and more.
        changed (callable): all tensors that a step changes, as a list of groups whose changes are compared as
            one: of a single tensor they may be nothing but rounding.
        device (torch.device): where they are.
        size (int): how many images a whole batch has.
    """

    instead = "the training goes on kernel by kernel"

    def __init__(self, step, changed, device, size):
        super().__init__(step, device, size)
        self.changed, self.calls = changed, collections.Counter()

    def __call__(self, chosen):
        calls = self.calls[len(chosen)] = self.calls[len(chosen)] + 1
        if self.device.type == "cuda" and calls <= WARM_UP + 1 and turns.beside():
            # algorithms are measured now, and what they are must not depend on other jobs' work
            torch.cuda.synchronize(self.device)
        return super().__call__(chosen)

    def _is_ready(self, chosen):
        return self.calls[self.size] > WARM_UP and super()._is_ready(chosen)

    def _is_captured(self, chosen):
        self.before = self._state(), torch.cuda.get_rng_state(self.device)
        captured = super()._is_captured(chosen)
        self._put_back()
        del self.before
        return captured

    def _capture(self, chosen):
        super()._capture(chosen, stream=torch.cuda.current_stream(self.device))

    def _does_the_same(self, chosen):
        replayed, became = self._replay(chosen), self._state()
        self._put_back()
        alike = torch.allclose(replayed[:2], self.step(chosen)[:2], rtol=_TOLERANCE)
        return alike and same_changes(self.before[0], became, self._state())

    def _state(self):
        return [[tensor.clone() for tensor in group] for group in self.changed()]

    def _put_back(self):
        before, random = self.before
        for tensors, values in zip(self.changed(), before, strict=True):
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        torch.cuda.set_rng_state(random, self.device)


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
