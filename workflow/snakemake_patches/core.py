"""Changes to Snakemake 9.27.1: its lock after a kill, its logs, its scheduler, its jobs' times, its report.

Each process that reads the Snakefile calls :func:`apply`, also those that Snakemake starts for a job, here
or on a cluster. Without these changes Snakemake

- leaves its lock when it is killed, and refuses to go on; here the lock goes with the process that held it;
- removes a job's log before the job starts again; here the log is kept, and a line marks each start;
- looks for jobs to start once a second more for each job that has ended; here it looks when a job has ended,
  or where its limit of jobs per second has held some back;
- takes the start of a job that another snakemake runs (on a cluster; of a `run:` rule) from a mark that the
  other one removes, so that it seems to end before it starts: the report's chart of runtimes, whose axis is
  logarithmic, cannot show that;
- says of a report without results only that some file does not exist.

Another version stays as it is: look which changes it still needs, then change VERSION here or delete this
file.
"""

import contextlib
import datetime
import errno
import fcntl
import functools
import importlib.metadata
import os
import platform
import sys
import threading
from pathlib import Path

VERSION = "9.27.1"
MILLISECOND = 0.001


@functools.cache
def apply():
    """Replaces functions of Snakemake, if it is of that version, by those below."""
    if importlib.metadata.version("snakemake") != VERSION:
        return
    from snakemake import jobs, report
    from snakemake.persistence.file import FilePersistence
    from snakemake.scheduling.job_scheduler import JobScheduler

    FilePersistence.lock = of_the_living(FilePersistence.lock)
    FilePersistence._unmark_incomplete = noting_the_start(FilePersistence._unmark_incomplete)
    FilePersistence._get_recorded_starttime = recorded_start
    FilePersistence._write_record = in_order(FilePersistence._write_record)
    jobs.Job.remove_existing_output = keeping_logs(jobs.Job.remove_existing_output)
    JobScheduler._schedule_reevalutation = looking_again  # so it is spelt there
    report.auto_report = of_results(report.auto_report)


# -- the lock


def of_the_living(lock):
    """Snakemake's lock; what a process of this machine left of it when it was killed is removed first.

    Who holds the lock has a line in the file `holders`, its machine, and a lock on that file, which the
    kernel gives back however the process ends. A lock of another machine is never removed: on some file
    systems a machine does not see that another has locked a file.
    """

    @contextlib.contextmanager
    def held(self):
        from snakemake.exceptions import LockException
        from snakemake.logging import logger

        with open(Path(self.path) / "holders", "a+", encoding="utf-8") as file:
            nobody_lives = took(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not nobody_lives:
                took(file, fcntl.LOCK_SH)  # waits, at most until another has written down what it locks
            file.seek(0)
            holders = set(file.read().splitlines())
            if nobody_lives and holders == {machine()} and self.locked:
                logger.info("The snakemake that locked this folder is gone; its lock is removed.")
                self._delete_locks()
                os.makedirs(self._lockdir, exist_ok=True)
            if nobody_lives and not any(self._read_locks()):
                file.truncate(0)
            try:
                with lock(self):
                    print(machine(), file=file, flush=True)
                    took(file, fcntl.LOCK_SH)  # in one step: nobody comes between
                    yield
            except LockException:
                names = " and ".join(sorted(line.split()[0] for line in holders))
                logger.error(f"Locked by a snakemake on {names or 'a machine that is not known'}.")
                raise

    return held


def took(file, kind):
    """Whether a lock on an open file was to be had: not if another process has it, or without locks."""
    try:
        fcntl.lockf(file, kind)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return False
    return True


def machine():
    """The name of this machine, and the number that it was given when it was installed (where it has one)."""
    with contextlib.suppress(OSError):
        return f"{platform.node()} {Path('/etc/machine-id').read_text(encoding='utf-8').strip()}".strip()
    return platform.node()


# -- logs


def keeping_logs(removed):
    """What Snakemake removes before a job starts, without the log; the start is marked there."""

    async def remove_existing_output(self):
        logs, self._log = self.log, []
        try:
            await removed(self)
        finally:
            self._log = logs
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        for log in logs:
            with contextlib.suppress(OSError):  # the disk is full: the job will say so
                Path(log).parent.mkdir(parents=True, exist_ok=True)
                with open(log, "a", encoding="utf-8") as file:
                    file.write(f"--- started {now}\n")

    return remove_existing_output


# -- the scheduler


def looking_again(self, delay):
    """Jobs are looked for again after so many seconds: one timer of a kind at a time, and only if needed.

    Snakemake starts one whenever it has looked, also after looking because of a timer; and each job that ends
    makes it look once more, so timers become more and more.
    """
    waiting = self.__dict__.setdefault("_timers", set())
    limit = self.job_rate_limiter
    if delay in waiting or (limit is not None and delay == limit.timespan and limit.get_free_jobs()):
        return

    def look():
        waiting.discard(delay)
        self._open_jobs.release()

    waiting.add(delay)
    timer = threading.Timer(delay, look)
    timer.daemon = True
    timer.start()


# -- the times of a job


def marks(self, key):
    """The mark of a started job (its date is the time), and where the job's own snakemake moves it."""
    return self._record_path(self._incomplete_path, key), self._record_path(self.path / "started", key)


def noting_the_start(unmarked):
    """The mark of a started job is removed; a job's own snakemake moves it, for :func:`recorded_start`."""

    def _unmark_incomplete(self, key):
        from snakemake_interface_executor_plugins.settings import ExecMode

        mark, kept = marks(self, key)
        with contextlib.suppress(OSError):
            if self.dag.workflow.exec_mode == ExecMode.DEFAULT:
                os.remove(kept)
            else:
                os.makedirs(os.path.dirname(kept), exist_ok=True)
                os.replace(mark, kept)
        unmarked(self, key)

    return _unmark_incomplete


def recorded_start(self, key):
    """When the job of an output started, in seconds; None if it is not known."""
    for mark in marks(self, key):
        with contextlib.suppress(OSError):
            return os.path.getmtime(mark)
    return None


def in_order(written):
    """A record whose end is after its start: the dates of files come in steps of some milliseconds."""

    def _write_record(self, key, record):
        if record.starttime is not None and record.endtime is not None:
            record.endtime = max(record.endtime, record.starttime + MILLISECOND)
        written(self, key, record)

    return _write_record


# -- the report


def of_results(made):
    """Snakemake's report, which there is once the results are there."""

    async def auto_report(dag, *arguments):
        from snakemake.io import is_flagged

        shown = [file for job in dag.jobs for file in job.output if is_flagged(file, "report")]
        absent = [file for file in shown if not await file.exists()]
        if absent:
            print(
                f"error: a report shows finished results; of its {len(shown)} files {len(absent)} are missing"
                f" ({absent[0]}): make them first, by the same command without --report (one that names a"
                " preset by --configfile, as the demo's does, names it here too)",
                file=sys.stderr,
            )
            raise SystemExit(2)
        await made(dag, *arguments)

    return auto_report
