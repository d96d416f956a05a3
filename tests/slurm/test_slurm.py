"""The workflow on a real SLURM with two (fake) GPUs: see cluster.py."""

import contextlib
import json
import os
import re
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
    REQUIRED,
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

pytestmark = pytest.mark.skipif(not REQUIRED and unavailable() is not None, reason=unavailable() or "")

OFTEN = Path(__file__).with_name("often.py")
PROFILE = [
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--latency-wait",
    "5",
    "--max-status-checks-per-second",
    "1",
]


@contextlib.contextmanager
def running(**options):
    """A cluster; the test is skipped where a sandbox forbids what its daemons need."""
    if reason := unavailable(**options):
        pytest.fail(reason)
    # not pytest's folder: munge's user must be able to look into it
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(Cluster(folder / "cluster", **options))
        except (OSError, RuntimeError) as error:
            if REQUIRED:
                raise
            pytest.skip(f"SLURM is installed but does not start here: {str(error).splitlines()[0]}")
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(request):
    """One for all tests; the one that wants accounts, by a parameter, gets another."""
    with running(accounting=getattr(request, "param", False)) as cluster:
        yield cluster


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
        started.append(start(folder, *arguments, profile="profiles/slurm", program=[OFTEN]))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()
    cluster.run("scancel", "--user=root")
    tally.figure("jobs through SLURM", sum(map(jobs_of, folders)))


def submissions(folder):
    """The submitted arrays, their rule or group and number of tasks by id; and the ids of other jobs."""
    output = words(folder)
    arrays = re.findall(r"(\d+) jobs of (\S+) are the tasks of the array with SLURM jobid (\d+)", output)
    single = re.findall(r"has been submitted with SLURM jobid (\d+)", output)
    return {number: (kind, int(tasks)) for tasks, kind, number in arrays}, single


def jobs_of(folder):
    """How many SLURM jobs there were; every task of an array is one."""
    arrays, single = submissions(folder)
    return sum(tasks for _, tasks in arrays.values()) + len(single)


def slurm_job(environment):
    """The id of the SLURM job or task with this environment, as SLURM's commands take it, or None."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


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
                    if job := slurm_job(environment):
                        now.setdefault(job, []).append(environment.get("CUDA_VISIBLE_DEVICES"))
            self.seen.append(now)

    def stop(self):
        self.ended.set()
        self.join()
        return self.seen


def one_job_on_a_gpu(seen, jobs):
    """Of what :class:`Watch` saw: `jobs`, each on one of two GPUs, never two on one, at times on both."""
    gpus = {job: set(devices) for now in seen for job, devices in now.items()}
    assert len(gpus) == jobs and all(
        len(devices) == 1 and devices <= {"0", "1"} for devices in gpus.values()
    ), gpus
    for now in seen:
        devices = [next(iter(set(devices))) for devices in now.values()]
        assert len(devices) == len(set(devices)) <= 2, f"two jobs on one GPU: {now}"
    assert any(len(now) == 2 for now in seen)


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
                running[activation] = pid, slurm_job(environment)
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
    """Tasks of an array requeued, cancelled, over time: they go on to the bits of an undisturbed run.

    Beside these three one that diverges. None asks for a GPU, so that all four run at once.
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
    # by SLURM as the same task, by Snakemake as another job
    ends = {name: (cluster.job(job)["JobState"], cluster.job(job)["Restarts"]) for name, job in jobs.items()}
    assert ends == {"relu": ("COMPLETED", "1"), "kaf": ("CANCELLED", "0"), "swish": ("TIMEOUT", "0")}
    tally.bits("SLURM: a training requeued, cancelled, over its time limit", 3)

    ((array, submitted),) = submissions(folder)[0].items()
    assert submitted == ("rule_train", 4) and {job.partition("_")[0] for job in jobs.values()} == {array}
    log = f"{OUT}/logs/train/tiny/kaf_free/seed0.log"
    blocks = re.findall(rf"log: {log}, (\S+) \(check log file", output)
    assert (
        len(blocks) == 3 and f"rule_train/{array}_" in blocks[0] and all(Path(one).exists() for one in blocks)
    )
    assert "error: training stopped at epoch" in output and not list(
        cell(folder, "kaf_free").glob("*.safetensors")
    )
    tally.held("SLURM: a training that fails")


@pytest.mark.slow
def test_trainings_that_take_turns_in_one_job(cluster, slurm, folder, prepared, tmp_path, tally):
    """An array of two tasks with two trainings each, one after another; a task is cancelled in its second.

    Snakemake throws its first away with it: that one is written again from its checkpoint, not trained again.
    """
    group = ["--groups", "train=train", "--group-components", "train=2", "--resources", "slot=1"]
    group += ["--set-resource-scopes", "slot=local"]
    config = ["experiments={tiny: {training: {epochs: 6}}}"]
    watch = Watch(folder)
    watch.start()
    process = slurm(folder, "models", *group, config=config)

    first, number = {}, None

    def a_second_training_is_on():
        nonlocal number
        for pid, environment, command in processes(folder, "train.py", f"{OUT}/models"):
            model = re.search(r"--model (\S+)", command)[1]
            job = slurm_job(environment)
            if first.setdefault(job, model) != model and any((folder / model).parent.glob("resume-*.ckpt")):
                os.kill(pid, signal.SIGSTOP)
                number = job
                break  # the other job's second may have a checkpoint too, and shall go on
        return number

    cluster.until(a_second_training_is_on, "a second training", 300)
    job = cluster.job(number)
    assert job["TimeLimit"] == "1-00:00:00" and job["NumCPUs"] == "1" and "mem=6000M" in job["TRES"], job
    assert job["TresPerNode"] == "gres:gpu:1" and job["ArrayJobId"] == number.partition("_")[0]
    tally.tried("SLURM: a job of several trainings cancelled when one was done")
    cluster.run("scancel", number)
    reference = undisturbed(prepared, tmp_path, "models", "--config", *config)
    finish(process, folder, 900)
    assert len(weights(folder)) == 4 and weights(folder) == weights(reference)
    log = folder / first[number].replace("models", "logs/train", 1).replace("/model.safetensors", ".log")
    assert "resuming at epoch 7, step 1" in log.read_text(), log.read_text()
    assert not list(folder.rglob("resume-*")), "checkpoints of what is done are removed at the end"
    assert list(submissions(folder)[0].values()) == [("group_train_train", 2), ("group_train_train", 1)]
    one_job_on_a_gpu(watch.stop(), 3)
    tally.bits("SLURM: a job of several trainings cancelled when one was done")


@pytest.mark.slow
def test_trainings_of_one_job_that_share_a_process(cluster, slurm, folder, prepared, tmp_path, tally):
    """An array of one task, two of its trainings at a time; one fails, the task is cancelled in mid-run.

    The one that fails comes first or not: the others are trained to their end in every attempt.
    """
    group = ["--groups", "train=train", "--group-components", "train=4", "--resources", "slot=2"]
    group += ["--set-resource-scopes", "slot=local", "--retries", "1"]
    group += ["--set-resources", "train:together=cpu", "train:slot=1", "train:gpu=0", "train:gres=gpu:1"]
    group += ["train:mem_mb=1500", "train:runtime=12h"]
    training = "training: {epochs: 5, learning_rate: {kaf_free: [100, 100]}}"
    activations = "[relu, kaf, swish, kaf_free]"
    config = ["seeds=[0]", f"experiments={{tiny: {{activations: {activations}, {training}}}}}"]
    process = slurm(folder, "models", *group, config=config)
    trainings, computing = set(), set()

    def two_have_a_checkpoint():
        trainings.add(len(processes(folder, "together.py", " cpu train.py")))
        computing.add(len(processes(folder, "together.py", " serve ")))
        return len(list(folder.rglob("resume-*.ckpt"))) >= 2

    cluster.until(two_have_a_checkpoint, "two checkpoints", 300)
    (first,) = cluster.jobs("running")
    job = cluster.job(first["id"])
    assert job["TimeLimit"] == "1-00:00:00" and job["NumCPUs"] == "2" and "mem=3000M" in job["TRES"], job
    assert job["TresPerNode"] == "gres:gpu:1"
    assert max(trainings) == 2 and max(computing) == 1
    tally.tried("SLURM: a job of trainings in one process cancelled, one of them failing")
    cluster.run("scancel", first["id"])
    reference = undisturbed(
        *(prepared, tmp_path, "models", "--config", "seeds=[0]"),
        "experiments={tiny: {activations: [relu, kaf, swish], training: {epochs: 5}}}",
    )
    finish(process, folder, 900, check=False)
    assert list(submissions(folder)[0].values()) == [("group_train_train", 1)] * 2
    logs = [training_log(folder, activation) for activation in ("relu", "kaf", "swish")]
    assert all("epoch 5/5" in log for log in logs) and sum("resuming at" in log for log in logs) >= 1, logs
    assert "error: training stopped at epoch 1" in training_log(folder, "kaf_free")
    assert not weights(folder), "Snakemake throws away what a failed group has made"
    # without the one that fails they are written from their checkpoints
    config[1] = "experiments={tiny: {activations: [relu, kaf, swish], training: {epochs: 5}}}"
    finish(slurm(folder, "models", *group, config=config), folder, 900)
    assert len(weights(folder)) == 3 and weights(folder) == weights(reference)
    assert all(
        "resuming at epoch 6, step 1" in training_log(folder, name) for name in ("relu", "kaf", "swish")
    )
    tally.bits("SLURM: a job of trainings in one process cancelled, one of them failing")


def test_a_grid_on_two_gpus(cluster, slurm, folder, prepared, tmp_path, tally):
    """Arrays for two GPUs, from what is ready; the node is drained in mid-run and comes back."""
    config = ["seeds=[0]", "experiments={tiny: {training: {epochs: 5}}}"]
    watch = Watch(folder)
    watch.start()
    process = slurm(folder, "evaluations", config=config)
    frozen = freeze(folder, ["relu", "kaf"])
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=drain", "reason=test")
    # what runs ends, what comes after it waits; that of relu is not kept back for that of kaf
    for done, activation in enumerate(frozen, 1):
        os.kill(frozen[activation][0], signal.SIGCONT)
        cluster.until(lambda: len(cluster.jobs("pending")) == 2 * done, f"evaluations of {activation}", 300)  # noqa: B023
    cluster.until(lambda: not cluster.jobs("running"), "the node to drain", 300)
    assert len(weights(folder)) == 2 and not verdicts(folder)
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=resume")
    finish(process, folder, 900)
    one_job_on_a_gpu(watch.stop(), 6)
    arrays, single = submissions(folder)
    assert (
        list(arrays.values()) == [("rule_train", 2), ("rule_evaluate", 2), ("rule_evaluate", 2)]
        and not single
    )
    assert {job.partition("_")[0] for _, job in frozen.values()} == {next(iter(arrays))}
    reference = undisturbed(prepared, tmp_path, "evaluations", "--config", *config)
    jobs = len(weights(folder)) + len(verdicts(folder))
    tally.tried("SLURM: jobs for two GPUs, the node drained in between", jobs)
    assert len(weights(folder)) == 2 and weights(folder) == weights(reference)
    assert len(verdicts(folder)) == 4 and verdicts(folder) == verdicts(reference)
    tally.bits("SLURM: jobs for two GPUs, the node drained in between", jobs)


@pytest.mark.slow
def test_from_nothing_to_tables(cluster, slurm, tmp_path):
    """The default target in a fresh clone: what needs a GPU goes through SLURM, the rest runs here."""
    folder = copy_repository(tmp_path / "run")
    output = finish(slurm(folder, config=["seeds=[0]"]), folder, 900)
    arrays, single = submissions(folder)
    assert {kind for kind, _ in arrays.values()} == {"rule_train", "rule_evaluate"} and not single
    local = set(re.findall(r"^localrule (\w+):", output, re.MULTILINE))
    assert {"prepare_data", "aggregate", "render_tables", "plot_kafs", "plot_tradeoff", "all"} <= local
    assert (folder / OUT / "tables" / "tiny.md").stat().st_size > 0
    # what the nodes' snakemakes took part in began before it ended
    kept = [
        json.loads(path.read_text())
        for path in (folder / ".snakemake" / "metadata").rglob("*")
        if path.is_file()
    ]
    seconds = {record["rule"]: record["endtime"] - record["starttime"] for record in kept}
    assert {"train", "evaluate"} <= seconds.keys() and min(seconds.values()) > 0, seconds
    assert min(seconds["train"], seconds["evaluate"]) > 0.5, seconds


@pytest.mark.slow
def test_preempted_by_an_urgent_job(cluster, slurm, folder, prepared, tmp_path, tally):
    """A partition of higher priority takes the node: SIGTERM, a checkpoint, queued again, the same bits.

    By Snakemake, since the training ends within the grace time (to SLURM it failed).
    """
    config = ["seeds=[0]", "experiments={tiny: {activations: [relu], training: {epochs: 12}}}"]
    process = slurm(folder, "models", config=config)
    freeze(folder, ["relu"])
    tally.tried("SLURM: a training preempted")
    urgent = ["sbatch", "--parsable", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5"]
    cluster.run(*urgent)
    assert "stopped by SIGTERM" in finish(process, folder, 900)
    assert "resuming at epoch" in training_log(folder, "relu")
    reference = undisturbed(prepared, tmp_path, "models", "--config", *config)
    assert weights(folder) == weights(reference)
    tally.bits("SLURM: a training preempted")


@pytest.mark.slow
def test_preempted_and_not_queued_again(cluster, slurm, folder, prepared, tmp_path, tally):
    """A partition whose preempted jobs are cancelled: Snakemake submits another that goes on."""
    config = ["seeds=[0]", "experiments={tiny: {activations: [relu], training: {epochs: 12}}}"]
    process = slurm(folder, "models", "--set-resources", "train:slurm_partition=lost", config=config)
    ((_, number),) = freeze(folder, ["relu"]).values()
    tally.tried("SLURM: a training preempted and not queued again")
    cluster.run("sbatch", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    finish(process, folder, 900)
    assert cluster.job(number)["JobState"] == "PREEMPTED"
    assert "resuming at epoch" in training_log(folder, "relu")
    reference = undisturbed(prepared, tmp_path, "models", "--config", *config)
    assert weights(folder) == weights(reference)
    tally.bits("SLURM: a training preempted and not queued again")


@pytest.mark.slow
def test_a_waiting_array_is_cancelled(cluster, slurm, folder, tally):
    """By hand, before any of its tasks has started: all of them are submitted again."""
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=drain", "reason=test")
    process = slurm(folder, "models", config=["experiments={tiny: {training: {epochs: 1}}}"])
    cluster.until(lambda: len(cluster.jobs("pending")) == 4, "the array", 300)
    tally.tried("SLURM: an array cancelled in the queue")
    cluster.run("scancel", next(iter(submissions(folder)[0])))
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=resume")
    finish(process, folder, 900)
    assert len(weights(folder)) == 4 and jobs_of(folder) == 8
    tally.held("SLURM: an array cancelled in the queue")


@pytest.mark.slow
def test_the_controller_is_killed(cluster, slurm, folder, prepared, tmp_path, tally):
    """slurmctld dies, a training ends without it, it comes back: nothing is forgotten."""
    config = ["seeds=[0]", "experiments={tiny: {training: {epochs: 12}}}"]
    process = slurm(folder, "models", config=config)
    frozen = freeze(folder, ["relu", "kaf"])
    tally.tried("SLURM: kill -9 of the controller")
    cluster.stop("slurmctld", signal.SIGKILL)
    cluster.until(lambda: "SLURM does not answer" in words(folder), "snakemake to see it", 600)
    for pid, _ in frozen.values():
        os.kill(pid, signal.SIGCONT)
    cluster.until(lambda: len(weights(folder)) == 2, "the trainings to end", 300)
    cluster.restart_slurmctld()
    finish(process, folder, 900)
    assert jobs_of(folder) == 2
    assert weights(folder) == weights(undisturbed(prepared, tmp_path, "models", "--config", *config))
    tally.bits("SLURM: kill -9 of the controller")


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
    tally.bits("SLURM: kill -9 of the node's daemon")


@pytest.mark.slow
@pytest.mark.parametrize("requeue", [1, 0], ids=["queued again", "not queued again"])
def test_the_node_loses_its_power(cluster, slurm, folder, prepared, tmp_path, tally, requeue):
    """Its daemon and all that it ran are gone, and SLURM is told: NODE_FAIL. The training goes on later."""
    config = ["seeds=[0]", "experiments={tiny: {activations: [relu], training: {epochs: 12}}}"]
    process = slurm(folder, "models", config=config)
    ((_, number),) = freeze(folder, ["relu"]).values()
    cluster.run("scontrol", "update", f"JobId={number}", f"Requeue={requeue}")  # clusters may forbid it
    tally.tried("SLURM: a node that fails")
    cluster.power_off()
    cluster.run("scontrol", "update", f"node={cluster.host}", "state=down", "reason=test")
    cluster.restart_slurmd()
    finish(process, folder, 900)
    job = cluster.job(number)
    ended = ("COMPLETED", "1", 1) if requeue else ("NODE_FAIL", "0", 2)
    assert (job["JobState"], job["Restarts"], jobs_of(folder)) == ended
    assert "resuming at epoch" in training_log(folder, "relu")
    reference = undisturbed(prepared, tmp_path, "models", "--config", *config)
    assert weights(folder) == weights(reference)
    tally.bits("SLURM: a node that fails")


@pytest.mark.slow
@pytest.mark.skipif(unavailable(True) is not None, reason=unavailable(True) or "")
@pytest.mark.parametrize("cluster", [True], indirect=True)
def test_with_accounts(cluster, slurm, folder, tally):
    """slurmdbd and MariaDB: what became of arrays, cancelled tasks too, is asked of sacct."""
    process = slurm(
        folder,
        "models",
        "--slurm-status-command",
        "sacct",
        config=["experiments={tiny: {training: {epochs: 4}}}"],
    )
    cluster.until(lambda: len(cluster.jobs("running")) == 2, "the array", 300)
    running = cluster.jobs("running")[0]["id"]
    tally.tried("SLURM with accounts: a task cancelled")
    cluster.run("scancel", running)
    finish(process, folder, 600)
    assert len(weights(folder)) == 4 and jobs_of(folder) == 5
    ends = cluster.run("sacct", "-X", "-n", "-P", "--format=JobID,State").splitlines()
    assert len(ends) == 5 and f"{running}|CANCELLED by 0" in ends, ends
    tally.held("SLURM with accounts: a task cancelled")


@pytest.mark.slow
def test_a_large_grid(cluster, slurm, folder, prepared, tmp_path, tally):
    """An array of twenty tasks of fifty trainings, two at a time; one task is cancelled and made again."""
    count, tasks = 1000, 20
    seeds = {"seeds": list(range(count)), "experiments": {"tiny": {"activations": ["relu"]}}}
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
    one_job_on_a_gpu(watch.stop(), tasks + 1)
    assert len(weights(folder)) == count
    assert list(submissions(folder)[0].values()) == [("group_train_train", tasks), ("group_train_train", 1)]
    tally.held("SLURM: one job of a large grid cancelled")
    tally.figure(
        "large grid run",
        f"{count:,} trainings, an array of {tasks} tasks and one more, {minutes:.0f} minutes",
    )
    some = [0, count // 2, count - 1]
    reference = undisturbed(
        *(prepared, tmp_path, "models", "--config", f"seeds={some}"),
        "experiments={tiny: {activations: [relu], train_examples: 25, training: {epochs: 1}}}",
    )
    assert len(weights(reference)) == 3 and weights(reference).items() <= weights(folder).items()
