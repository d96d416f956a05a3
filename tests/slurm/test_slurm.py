"""The workflow on a real SLURM with two (fake) GPUs: see cluster.py."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster, unavailable

from tests.repository import (
    OUT,
    TINY,
    cell,
    copy_repository,
    finish,
    processes,
    run,
    start,
    verdicts,
    weights,
    words,
)

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

PROFILE = [
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--latency-wait",
    "5",
    "--max-status-checks-per-second",
    "1",
]


@pytest.fixture(scope="module")
def cluster():
    # not pytest's folder: munge's user must be able to look into it
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(Cluster(folder / "cluster"))
        except (OSError, RuntimeError) as error:  # a sandbox may forbid what its daemons need
            pytest.skip(f"SLURM is installed but does not start here: {str(error).splitlines()[0]}")
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A copy of the repository with the data prepared."""
    folder = copy_repository(tmp_path_factory.mktemp("prepared"))
    run(folder, f"{OUT}/data/digits.json")
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def undisturbed(prepared, tmp_path, *arguments):
    """A folder in which the same was computed on this machine, without SLURM."""
    folder = tmp_path / "undisturbed"
    shutil.copytree(prepared, folder, symlinks=True)
    run(folder, *arguments)
    return folder


@pytest.fixture
def slurm(cluster, tally):
    """Starts snakemake with the profile of this repository; what still runs after a test is killed."""
    started, folders = [], []

    def start_one(folder, *arguments, config=()):
        folders.append(folder)
        arguments = [*arguments, *PROFILE, "--config", "device=cpu", *config]
        started.append(start(folder, *arguments, profile="profiles/slurm"))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()
    cluster.run("scancel", "--user=root")
    tally.figure("jobs through SLURM", sum(map(jobs_of, folders)))


def jobs_of(folder):
    return words(folder).count("has been submitted with SLURM jobid")


class Watch(threading.Thread):
    """Looks again and again which SLURM jobs compute, and on which GPU."""

    def __init__(self, folder, seconds=0.2):
        super().__init__(daemon=True)
        self.folder, self.seconds = folder, seconds
        self.seen, self.ended = [], threading.Event()

    def run(self):
        while not self.ended.wait(self.seconds):
            now = {}
            for script in ("train.py", "evaluate.py"):
                for _, environment, _ in processes(self.folder, script):
                    if "SLURM_JOB_ID" in environment:
                        now.setdefault(environment["SLURM_JOB_ID"], []).append(
                            environment.get("CUDA_VISIBLE_DEVICES")
                        )
            self.seen.append(now)

    def stop(self):
        self.ended.set()
        self.join()
        return self.seen


def one_job_on_a_gpu(seen):
    """Of what :class:`Watch` saw: every job computes on one of two GPUs and no two on the same."""
    gpus = {job: set(devices) for now in seen for job, devices in now.items()}
    assert gpus and all(len(devices) == 1 and devices <= {"0", "1"} for devices in gpus.values()), gpus
    for now in seen:
        devices = [next(iter(set(devices))) for devices in now.values()]
        assert len(devices) == len(set(devices)) <= 2, f"two jobs on one GPU: {now}"


def freeze(folder, activations, already=0):
    """Stops each training once it has a checkpoint: its pid and its SLURM job, by activation.

    What is stopped cannot end before it is disturbed, however quick the machine is. `already`: how many other
    trainings are done.
    """
    running, frozen, end = {}, {}, time.monotonic() + 300
    while len(frozen) < len(activations):
        assert time.monotonic() < end, f"no checkpoint of {set(activations) - set(frozen)}\n{words(folder)}"
        for activation in set(activations) - set(running):
            for pid, environment, _ in processes(folder, "train.py", f"{OUT}/models/tiny/{activation}/"):
                running[activation] = pid, environment["SLURM_JOB_ID"]
        for activation in set(running) - set(frozen):
            if any(cell(folder, activation).glob("resume-*.ckpt")):
                os.kill(running[activation][0], signal.SIGSTOP)
                frozen[activation] = running[activation]
        time.sleep(0.005)
    assert len(weights(folder)) == already, "too quick to be disturbed"
    return frozen


def training_log(folder, activation):
    return (folder / OUT / f"logs/train/tiny/{activation}/seed0.log").read_text()


def test_what_is_interrupted_goes_on_and_what_fails_names_its_log(
    cluster, slurm, folder, prepared, tmp_path, tally
):
    """Requeued, cancelled, over its time limit: three trainings go on to the bits of an undisturbed run.

    Beside them one that diverges. None asks for a GPU, so that all four run at once.
    """
    training = "training: {epochs: 10, learning_rate: {kaf_free: [100, 100]}}"
    process = slurm(
        folder,
        *("models", "--retries", "2"),
        *("--set-resources", "train:gpu=0", "train:mem_mb=1000", "train:runtime=30m"),
        config=[
            "seeds=[0]",
            f"experiments={{tiny: {{activations: [relu, kaf, swish, kaf_free], {training}}}}}",
        ],
    )
    tally.tried("SLURM: a training requeued, cancelled, over its time limit", 3)
    jobs = {name: job for name, (_, job) in freeze(folder, ["relu", "kaf", "swish"]).items()}
    cluster.run("scontrol", "requeue", jobs["relu"])
    cluster.run("scancel", jobs["kaf"])
    cluster.run("scontrol", "update", f"JobId={jobs['swish']}", "TimeLimit=1")  # a minute from its start
    reference = undisturbed(
        *(prepared, tmp_path, "models", "--config", "seeds=[0]"),
        "experiments={tiny: {activations: [relu, kaf, swish], training: {epochs: 10}}}",
    )
    tally.tried("SLURM: a training that fails")
    output = finish(process, folder, 900, check=False)
    assert process.returncode == 1
    for activation in jobs:
        assert "resuming at epoch" in training_log(folder, activation)
    assert len(weights(folder)) == 3 and weights(folder) == weights(reference)
    tally.held("SLURM: a training requeued, cancelled, over its time limit", 3)
    assert f"{OUT}/logs/train/tiny/kaf_free/seed0.log" in output
    assert "error: training stopped at epoch" in output and not list(
        cell(folder, "kaf_free").glob("*.safetensors")
    )
    tally.held("SLURM: a training that fails")


@pytest.mark.slow
def test_trainings_that_take_turns_in_one_job(cluster, slurm, folder, prepared, tmp_path, tally):
    """Two trainings in one SLURM job, one after another; it is cancelled in the second."""
    group = ["--groups", "train=train", "--group-components", "train=2", "--resources", "slot=1"]
    group += ["--set-resource-scopes", "slot=local"]
    config = ["seeds=[0]", "experiments={tiny: {training: {epochs: 6}}}"]
    process = slurm(folder, "models", *group, config=config)

    cluster.until(lambda: processes(folder, "train.py", f"{OUT}/models"), "the first training", 300)
    ((_, _, command),) = processes(folder, "train.py", f"{OUT}/models")
    second = "kaf" if f"{OUT}/models/tiny/relu/" in command else "relu"
    cluster.until(lambda: cell(folder, second).exists(), "the second training", 300)
    _, number = freeze(folder, [second], already=1)[second]
    assert [job["gres"] for job in cluster.jobs("running")] == ["gres:gpu:1"]
    job = cluster.run("scontrol", "show", "job", number)
    assert "TimeLimit=1-00:00:00" in job and "NumCPUs=1 " in job and "mem=6000M" in job, job
    tally.tried("SLURM: a job of several trainings cancelled when one was done")
    cluster.run("scancel", number)
    reference = undisturbed(prepared, tmp_path, "models", "--config", *config)
    finish(process, folder, 900)
    assert len(weights(folder)) == 2 and weights(folder) == weights(reference)
    tally.held("SLURM: a job of several trainings cancelled when one was done")


def test_a_grid_on_two_gpus(cluster, slurm, folder, prepared, tmp_path, tally):
    """Six jobs for two GPUs; the node is drained in mid-run and comes back."""
    config = ["seeds=[0]", "experiments={tiny: {training: {epochs: 5}}}"]
    watch = Watch(folder)
    watch.start()
    process = slurm(folder, "evaluations", config=config)
    frozen = freeze(folder, ["relu", "kaf"])
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=drain", "reason=test")
    for pid, _ in frozen.values():
        os.kill(pid, signal.SIGCONT)
    # what runs ends, what comes after it waits
    cluster.until(lambda: not cluster.jobs("running") and cluster.jobs("pending"), "the node to drain", 300)
    assert len(weights(folder)) == 2 and not verdicts(folder)
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=resume")
    finish(process, folder, 900)
    one_job_on_a_gpu(watch.stop())
    reference = undisturbed(prepared, tmp_path, "evaluations", "--config", *config)
    jobs = len(weights(folder)) + len(verdicts(folder))
    tally.tried("SLURM: jobs for two GPUs, the node drained in between", jobs)
    assert len(weights(folder)) == 2 and weights(folder) == weights(reference)
    assert len(verdicts(folder)) == 4 and verdicts(folder) == verdicts(reference)
    tally.held("SLURM: jobs for two GPUs, the node drained in between", jobs)


@pytest.mark.slow
def test_preempted_by_an_urgent_job(cluster, slurm, folder, prepared, tmp_path, tally):
    """A partition of higher priority takes the node: SIGTERM, a checkpoint, queued again, the same bits.

    By Snakemake, when the training ended within the grace time (to SLURM it failed), else by SLURM.
    """
    config = ["seeds=[0]", "experiments={tiny: {activations: [relu], training: {epochs: 12}}}"]
    process = slurm(folder, "models", config=config)
    freeze(folder, ["relu"])
    tally.tried("SLURM: a training preempted")
    urgent = ["sbatch", "--parsable", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5"]
    cluster.run(*urgent)
    finish(process, folder, 900)
    assert "resuming at epoch" in training_log(folder, "relu")
    reference = undisturbed(prepared, tmp_path, "models", "--config", *config)
    assert weights(folder) == weights(reference)
    tally.held("SLURM: a training preempted")


@pytest.mark.slow
def test_the_nodes_daemon_is_killed(cluster, slurm, folder, prepared, tmp_path, tally):
    """slurmd dies and comes back: the job under it goes on."""
    config = ["seeds=[0]", "experiments={tiny: {activations: [relu], training: {epochs: 12}}}"]
    process = slurm(folder, "models", config=config)
    ((pid, _),) = freeze(folder, ["relu"]).values()
    tally.tried("SLURM: kill -9 of the node's daemon")
    cluster.stop("slurmd", signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    time.sleep(3)  # the job computes without the daemon
    cluster.restart_slurmd()
    finish(process, folder, 900)
    assert weights(folder) == weights(undisturbed(prepared, tmp_path, "models", "--config", *config))
    tally.held("SLURM: kill -9 of the node's daemon")


@pytest.mark.slow
def test_a_thousand_trainings(cluster, slurm, folder, prepared, tmp_path, tally):
    """They take turns, fifty in a job and two jobs at a time; one job is cancelled and made again."""
    seeds = {"seeds": list(range(1000)), "experiments": {"tiny": {"activations": ["relu"]}}}
    seeds["experiments"]["tiny"].update(train_examples=25, training={"epochs": 1})
    (folder / "grid.yaml").write_text(yaml.safe_dump(seeds))
    started = time.monotonic()
    watch = Watch(folder, 2)
    watch.start()
    process = slurm(
        folder,
        *("models", "--configfile", TINY, "grid.yaml", "--groups", "train=train"),
        *("--group-components", "train=50", "--resources", "slot=1", "--set-resource-scopes", "slot=local"),
        *("--set-resources", "train:mem_mb=1000", "train:runtime=10m", "train:slot=1", "train:gpu=0"),
        "train:gres=gpu:1",
    )
    cluster.until(lambda: len(weights(folder)) > 10, "the first trainings", 900)
    tally.tried("SLURM: one job of a large grid cancelled")
    cluster.run("scancel", cluster.jobs("running")[0]["id"])
    finish(process, folder, 3 * 3600)
    minutes = (time.monotonic() - started) / 60
    one_job_on_a_gpu(watch.stop())
    assert len(weights(folder)) == 1000 and jobs_of(folder) == 21
    tally.held("SLURM: one job of a large grid cancelled")
    tally.figure("largest grid run", f"1,000 trainings in 21 SLURM jobs, {minutes:.0f} minutes")
    some = [0, 499, 999]
    reference = undisturbed(
        *(prepared, tmp_path, "models", "--config", f"seeds={some}"),
        "experiments={tiny: {activations: [relu], train_examples: 25, training: {epochs: 1}}}",
    )
    assert len(weights(reference)) == 3 and weights(reference).items() <= weights(folder).items()
