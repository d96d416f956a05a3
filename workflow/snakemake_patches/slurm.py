"""Changes to snakemake-executor-plugin-slurm 2.8.0: its job arrays, and jobs whose end it never sees.

The Snakefile, which is read before the executor is made, calls :func:`apply`. "Issue": of
github.com/snakemake/snakemake-executor-plugin-slurm. Without these changes the plugin

- lets every task of an array wait for the outputs of the first job, and fail without them (issue 447);
  here the array's script holds each task's own command, the one that its job would run by itself;
- never submits some of a rule's jobs when it is handed fewer than are ready (issue 473), and makes no array
  of groups; here what is handed over is submitted, at once;
- asks `sacct` for raw job numbers, which are not those of an array's tasks;
- takes for running what is "CANCELLED by 0" or cancelled in the queue ("7_[2-9]"), what was preempted or on
  a failed node and SLURM does not queue again, and what SLURM has forgotten: it waits for ever;
- forgets its jobs while slurmctld does not answer, and waits for ever.

Another version stays as it is: look which changes it still needs, then change VERSION here or delete this
file.
"""

import contextlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

VERSION = "2.8.0"
SCRIPT_BYTES = 2_000_000  # SLURM refuses a script of more than 4 MB (max_script_size)
LOOKS = 2  # in a row, until it is a failure: what may pass by itself (a preempted job is queued again)
# SLURM's last answer, and whether a job that is missing in it does not exist
LAST = {"states": {}, "complete": False}


def apply():
    """Replaces functions of the plugin, where it is installed in that version, by those below."""
    try:
        if importlib.metadata.version("snakemake-executor-plugin-slurm") != VERSION:
            return
    except importlib.metadata.PackageNotFoundError:  # only a cluster needs it
        return
    import snakemake_executor_plugin_slurm as plugin

    executor = plugin.Executor
    if executor.run_jobs is run_jobs:
        return
    executor.run_jobs, executor.run_array_jobs = run_jobs, run_array_jobs
    executor.check_active_jobs = patient(executor.check_active_jobs)
    executor.handle_job_success = removing_checkpoints(executor.handle_job_success)
    plugin.query_job_status = query(plugin.query_job_status)
    os.environ["SLURM_BITSTR_LEN"] = "0"  # squeue and sacct print "7_[2-9,12,...]" in full


# -- arrays


def run_jobs(self, jobs):
    """Submits `jobs`: those that ask for the same as one array, if their rules are in slurm-array-jobs.

    A group is an array by itself too, for how an array runs it (:func:`command`).
    """
    alike = {}
    for job in jobs:
        resources = sorted((name, str(value)) for name, value in job.resources.items())
        alike.setdefault((frozenset(job.rules), job.is_group(), *resources), []).append(job)
    for (rules, *_), members in alike.items():
        selected = "all" in self.array_jobs or rules <= self.array_jobs
        if selected and (len(members) > 1 or members[0].is_group()):
            for start in range(0, len(members), self.max_array_size):
                self._submit_array_jobs(members[start : start + self.max_array_size])
        else:
            for job in members:
                self._submit_job(job)


def run_array_jobs(self, jobs):
    """Submits `jobs` as an array, as several where its script would become too long."""
    waiting = list(jobs)
    try:
        commands = [command(self, job) for job in jobs]
        for part in parts([len(one.encode()) for one in commands], SCRIPT_BYTES):
            submit_array(self, jobs[part], commands[part])
            del waiting[: len(jobs[part])]
    except Exception as error:  # a job of which nothing is said would be waited for
        for job in waiting:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"SLURM took no array: {error}\n")


def command(self, job):
    """What the job would run by itself; but a group in one step, on its cores, by one snakemake.

    By itself it starts a step and a snakemake for each of its jobs, which takes as long as a small training,
    and it does not pass --keep-going on. When one of them fails, Snakemake throws away what the others made;
    trainings keep their checkpoints until the whole group is done (:func:`removing_checkpoints`), so that the
    next attempt need not train again.
    """
    whole = self.format_job_exec(job)
    going = " --keep-going" * self.workflow.execution_settings.keep_going
    inside = whole.replace(self.additional_general_args(), f"--cores {job.threads}{going}")
    if not job.is_group() or inside == whole:
        return whole
    step = f"srun -n1 --nodes=1 --cpus-per-task={job.threads} --cpu-bind=q"
    return f"KAFNETS_KEEP_CHECKPOINT=1 {step} sh -c {shlex.quote(inside)}"


def parts(sizes, limit):
    """Slices of neighbours whose sizes add up to at most `limit`; a larger one is a slice of its own."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield slice(start, index)
            start, total = index, 0
        total += size
    yield slice(start, len(sizes))


def submit_array(self, jobs, commands):
    """One call of sbatch. What the jobs ask for is the same, so the first one speaks for all."""
    from snakemake_executor_plugin_slurm import (
        get_submit_command,
        set_gres_string,
        validate_or_get_slurm_job_id,
        validate_slurm_extra,
    )

    first = jobs[0]
    kind = f"group_{first.name}" if first.is_group() else f"rule_{first.name}"
    logs = self.slurm_logdir / kind
    logs.mkdir(parents=True, exist_ok=True)
    validate_slurm_extra(first)
    call = get_submit_command(
        first,
        {
            "run_uuid": self.run_uuid,
            "slurm_logfile": logs / "%A_%a.log",
            "comment_str": kind,
            "account": next(self.get_account_arg(first)),
            "partition": self.get_partition_arg(first),
            "workdir": self.workflow.workdir_init,
        },
        settings=self.workflow.executor_settings,
        failed_nodes=self._failed_nodes,
    )
    call = [*shlex.split(call + set_gres_string(first)), f"--array=1-{len(jobs)}"]
    cases = "".join(f"{index})\n{one}\n;;\n" for index, one in enumerate(commands, 1))
    script = f"#!/bin/sh\ncase $SLURM_ARRAY_TASK_ID in\n{cases}esac\n"
    answer = subprocess.run(
        call,
        input=script,
        capture_output=True,
        encoding=sys.getfilesystemencoding(),  # that of the paths in it, which go through unchanged
        errors="surrogateescape",
    )
    if answer.returncode != 0:
        raise RuntimeError(f"{answer.stderr.strip()} (by {shlex.join(call)})")
    number = validate_or_get_slurm_job_id(answer.stdout.strip().split(";")[0], answer.stdout)
    self.logger.info(
        f"{len(jobs)} jobs of {kind} are the tasks of the array with SLURM jobid {number} "
        f"(logs: {logs}/{number}_*.log)."
    )
    cluster = (
        first.resources.get("cluster")
        or first.resources.get("clusters")
        or first.resources.get("slurm_cluster")
    )
    if cluster:
        self._submitted_job_clusters.add(cluster)
    for index, job in enumerate(jobs, 1):
        log = logs / f"{number}_{index}.log"
        info = SubmittedJobInfo(job, external_jobid=f"{number}_{index}", aux={"slurm_logfile": log})
        self._report_job_submission_threadsafe(info)


# -- what became of the jobs


def removing_checkpoints(handled):
    """What the plugin does when a job has succeeded; then the checkpoints that a group kept are removed."""

    def handle_job_success(self, job):
        handled(self, job)
        members = job.jobs if job.is_group() else []
        folders = {Path(path).parent for one in members if one.name == "train" for path in one.output}
        with contextlib.suppress(OSError):  # no reason to end a run
            for checkpoint in (path for folder in folders for path in folder.glob("resume-*.ckpt")):
                checkpoint.unlink()

    return handle_job_success


def tasks(number):
    """The jobs that a line of squeue or sacct is about: 7, 7_2, or 7_[2-4,9-15:3%2] of tasks that wait."""
    array, bracket, ranges = number.partition("_[")
    if not bracket:
        return [number]
    bounds = re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", re.sub(r"%\d+", "", ranges))
    return [
        f"{array}_{task}"
        for low, high, step in bounds
        for task in range(int(low), int(high or low) + 1, int(step or 1))
    ]


def query(asked):
    """The plugin's question for the states of all jobs, with an answer that it understands."""

    async def query_job_status(command, logger):
        answer, seconds = await asked(command.replace("JobIdRaw", "JobID"), logger)
        if answer is not None:
            answer = {
                task: state.partition(" ")[0] for number, state in answer.items() for task in tasks(number)
            }
            LAST.update(states=answer, complete=command.startswith("squeue"))  # sacct learns of jobs later
        return answer, seconds

    return query_job_status


def patient(checked):
    """The plugin's look at its jobs: what it takes to be running is still there, and nothing is forgotten."""

    async def check_active_jobs(self, active_jobs):
        # the thread that looks is there before what the plugin counts with, and before any job
        answers = getattr(self, "_status_query_calls", 0)
        doubts, self.doubts = getattr(self, "doubts", {}), {}
        async for info in checked(self, active_jobs):
            number = info.external_jobid
            all_known = LAST["complete"] and not self._submitted_job_clusters
            state = LAST["states"].get(number, "forgotten" if all_known else "not known yet")
            if state in ("PREEMPTED", "NODE_FAIL", "forgotten"):
                self.doubts[number] = doubts.get(number, 0) + 1
            if self.doubts.get(number, 0) < LOOKS:
                yield info
                continue
            cancel = ["scancel", number]  # that it never runs beside the next attempt
            subprocess.run(cancel, capture_output=True)
            message = f"SLURM-job '{number}' was not queued again, SLURM status is: '{state}'. "
            self.report_job_error(info, msg=message, aux_logs=[str(info.aux["slurm_logfile"])])
        if active_jobs and self._status_query_calls == answers:
            self.logger.warning("SLURM does not answer; its jobs go on, and it will be asked again.")
            for info in active_jobs:
                yield info

    return check_active_jobs
