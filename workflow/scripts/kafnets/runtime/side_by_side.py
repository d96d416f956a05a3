"""What torch has once for a process and each of its jobs for itself, and several functions as jobs."""

import contextlib
import signal
import threading

import torch

from .client import WAKE
from .turns import Turns


def keep():
    """Puts aside the random numbers, and the switches that a job sets for a while; returns their way back.

    On a GPU a job has a state of the default generator of its own, which its graphs share: it is put in its
    place, not copied, for a graph's random numbers go on in the state that it was captured with.
    """
    random = torch.get_rng_state()
    states = [generator.graphsafe_get_state() for generator in _gpu_generators()]
    switches = _switches()

    def restore():
        torch.set_rng_state(random)
        for generator, state in zip(_gpu_generators(), states, strict=False):
            generator.graphsafe_set_state(state)
        _switch(switches)

    return restore


def fresh():
    """Random numbers of a job's own, from seed 0; the switches stand as torch has them at first."""
    torch.default_generator.manual_seed(0)
    for generator in _gpu_generators():
        generator.graphsafe_set_state(generator.clone_state())
        generator.manual_seed(0)
    _switch((False, "tf32"))


def _gpu_generators():
    return torch.cuda.default_generators if torch.cuda.is_initialized() else ()


def _switches():
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.conv.fp32_precision


def _switch(switches):
    torch.backends.cudnn.benchmark, torch.backends.cudnn.conv.fp32_precision = switches


def side_by_side(functions, device=None):
    """Calls several functions that give way to each other, in this process; each as if it were alone.

    SIGTERM and SIGINT stop them all.

    Args:
        functions (iterable of callable): without arguments; they call :func:`.turns.give_way`, as a training
            does between two steps.
        device (torch.device, optional): where they compute; default: the CPU.

    Returns:
        list: what each returned, or the exception that ended it.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.init()  # each job's random numbers are put in place before it begins
    turns, before = Turns(keep, fresh), keep()
    with stopping(turns.stop):
        jobs = [turns.start(on_gpu(function, device)) for function in functions]
        for job in jobs:
            while job.is_alive():
                job.join(WAKE)
    before()
    return [job.value if job.error is None else job.error for job in jobs]


def on_gpu(function, device):
    """The function, with `device` as the current GPU of the thread that calls it, if it is a numbered one."""

    def called():
        if device is not None and device.index is not None:
            torch.cuda.set_device(device)
        return function()

    return called


@contextlib.contextmanager
def stopping(stop):
    """Within the block SIGTERM and SIGINT call `stop` with their number; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(number, lambda number, _: stop(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
