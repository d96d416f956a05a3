"""Requests to stop: what computes for long saves its state first."""

import signal

from . import turns


class Interrupted(Exception):
    """A signal asked the process to stop; its state is on disk."""

    def __init__(self, signal_number):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class SignalFlag:
    """Remembers a request to stop, so that the pass under way can end (use as a context manager).

    The signal is the process's, or, in one of several jobs of a process, the job's.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self.job, self._received = turns.current(), None
        if self.job is not None:
            self.job.watchers += 1
        else:
            self.previous = [signal.signal(number, self._receive) for number in self.signals]
        return self

    def __exit__(self, *_):
        if self.job is not None:
            self.job.watchers -= 1
            return
        for number, handler in zip(self.signals, self.previous, strict=True):
            signal.signal(number, handler)

    def _receive(self, number, _):
        self._received = number

    @property
    def received(self):
        """The number of the signal, or None."""
        return self._received if self.job is None else self.job.stopped

    def check(self, *_):
        """Raises Interrupted when there was one."""
        if self.received:
            raise Interrupted(self.received)
