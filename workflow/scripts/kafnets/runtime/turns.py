"""Jobs of one process that take turns: one computes, the others wait where they gave way.

Each is a thread. A job gives way between two pieces of its work (:func:`give_way`), so a graph's capture, or
any other piece, is never disturbed; and what a library keeps once for the whole process (torch's random
numbers) is put aside then and put back with the job's next turn, so that no job sees what another does.
Code that gives way need not know whether there are others: outside of a job nothing happens.
"""

import collections
import threading
import time

_here = threading.local()


def current():
    """The job that this thread is, or None."""
    return getattr(_here, "job", None)


def beside():
    """How many other jobs this process has now; 0 outside of a job."""
    job = current()
    return 0 if job is None else job.turns.running - 1


def most():
    """The most jobs that this process had at once since the current one began; 1 outside of a job."""
    job = current()
    return 1 if job is None else job.most


def give_way():
    """Lets the other jobs of this process do a piece of their work each.

    Raises:
        SystemExit: when the job is to stop and nothing in it looks out for that (as a signal ends a process).
    """
    job = current()
    if job is not None:
        job.turns.pass_on(job)
        job.check()


def until(condition, seconds=0.0):
    """Waits for something while the others work; `seconds` of sleep between two looks.

    Args:
        condition (callable): whether it is there; outside of a job it is asked as well.
    """
    job = current()
    while not condition():
        if job is None:
            time.sleep(seconds)
            continue
        job.turns.pass_on(job, seconds)
        job.check()


class Turns:
    """The turns of the jobs of one process.

    Args:
        keep (callable): puts aside what the process has once and each job for itself; returns a function that
            puts it back.
        fresh (callable): makes all that as in a new process; called at the start of each job.
    """

    def __init__(self, keep, fresh):
        self.keep, self.fresh = keep, fresh
        self.running = 0
        self.jobs = set()
        self._lock, self._taken, self._waiting = threading.Lock(), False, collections.deque()

    def start(self, function):
        """A new job: `function` without arguments, in a thread of its own."""
        job = Job(self, function)
        with self._lock:
            self.jobs.add(job)
            self.running += 1
            for one in self.jobs:
                one.most = max(one.most, self.running)
        job.start()
        return job

    def stop(self, signal_number):
        """Asks all jobs to stop; a signal's handler may call it, so it takes no lock."""
        for job in tuple(self.jobs):
            job.stopped = signal_number

    def take(self, job):
        """Returns when it is the job's turn; who came first has the first turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            self._waiting.append(job)
        job.turn.acquire()

    def release(self):
        """Ends a turn."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().turn.release()
            else:
                self._taken = False

    def pass_on(self, job, seconds=0.0):
        """Ends a job's turn, and returns with its next one, `seconds` later at the earliest."""
        if not self._waiting and not seconds:  # asked without the lock: who comes now has the next turn
            return
        restore = self.keep()
        if seconds:
            self.release()
            time.sleep(seconds)
            self.take(job)
        else:
            with self._lock:
                self._waiting.append(job)
                self._waiting.popleft().turn.release()
            job.turn.acquire()
        restore()

    def ended(self, job):
        """Takes a job off, and ends its turn."""
        with self._lock:
            self.jobs.discard(job)
            self.running -= 1
        self.release()


class Job(threading.Thread):
    """One of the jobs; `value` is what its function returned, `error` the exception that ended it."""

    def __init__(self, turns, function):
        super().__init__(daemon=True)
        self.turns, self.function = turns, function
        self.value = self.error = None
        self.stopped = None  # by which signal
        self.watchers = 0  # of `stopped`: parts of the job that stop by themselves, with their state saved
        self.most = 0
        self.turn = threading.Lock()
        self.turn.acquire()

    def run(self):
        _here.job = self
        self.turns.take(self)
        try:
            self.turns.fresh()
            self.value = self.function()
        except BaseException as error:  # the job's end, not the process's
            self.error = error
        finally:
            del self.function
            self.turns.ended(self)

    def check(self):
        """Ends the job when it is to stop and nothing in it looks out for that."""
        if self.stopped and not self.watchers:
            raise SystemExit(128 + self.stopped)
