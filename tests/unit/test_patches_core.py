"""The changes to Snakemake, in a workflow of four rules."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_patches import core

from tests.planner import Planner
from tests.repository import ENVIRONMENT, ROOT
from tests.scripts import until

SNAKEFILE = f"""
import sys
sys.path.insert(0, {str(ROOT / "workflow")!r})
from snakemake_patches import core
core.apply()

rule waits:
    output: "waited"
    log: "logs/waits.log"
    shell: "echo words >> {{log}}; until [ -e go ]; do sleep 0.05; done; touch {{output}}"

rule by_its_own_snakemake:
    output: "own"
    run:
        open(output[0], "w").close()

rule dated_before_it_began:
    output: "dated"
    shell: "touch -d '1 hour ago' {{output}}"

rule shown:
    output: report("shown.csv")
    shell: "touch {{output}}"

rule one_of_many:
    output: "many/{{number}}"
    shell: "sleep {{config[seconds]}}; date +%s.%N > {{output}}"
"""

# notes each time that jobs to start are looked for
COUNTED = """
from snakemake.scheduling.job_scheduler import JobScheduler

def counted(select):
    def job_selector(self, jobs):
        with open("looked", "a") as file:
            file.write(".")
        return select(self, jobs)
    return job_selector

JobScheduler.job_selector = counted(JobScheduler.job_selector)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function: the exit code of a snakemake and its words."""
    words = tmp_path_factory.mktemp("planner") / "log"
    with Planner() as planner:
        yield lambda folder, *arguments: planner.run(folder, words, "--rerun-incomplete", *arguments)


def log(folder):
    path = folder / "logs" / "waits.log"
    return path.read_text().splitlines() if path.exists() else []


def killed(folder):
    """The folder after the `kill -9` of a snakemake and of its job, which had begun."""
    process = start(folder, "waited")
    until(lambda: "words" in log(folder))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (folder / "go").touch()


def test_the_version_that_is_changed_is_installed():
    """Another one needs a look: what it has corrected by now, what is named otherwise."""
    assert importlib.metadata.version("snakemake") == core.VERSION


def test_after_a_kill_the_same_command_goes_on_and_the_log_is_kept(run, folder):
    killed(folder)
    code, words = run(folder, "waited")
    assert code == 0 and "its lock is removed" in words, words
    first, before, second, after = log(folder)
    assert before == after == "words"
    assert first.startswith("--- started 20") and second.startswith("--- started 20")
    assert not (folder / ".snakemake" / "locks").exists()


def test_a_lock_is_left_to_whoever_lives(run, folder):
    process = start(folder, "waited")
    until(lambda: "words" in log(folder))
    code, words = run(folder, "waited")
    assert code == 1 and "LockException" in words and "Locked by a snakemake on" in words, words
    # the one that was refused has taken nothing away
    code, words = run(folder, "waited")
    assert code == 1 and "LockException" in words, words
    (folder / "go").touch()
    words, _ = process.communicate(timeout=120)
    assert process.returncode == 0, words


def test_a_lock_of_another_machine_is_left(run, folder):
    """Or of nobody knows whom: a Snakemake of another version."""
    killed(folder)
    for holders in ("another 0123456789\n", f"{core.machine()}\nanother 0123456789\n", ""):
        (folder / ".snakemake" / "holders").write_text(holders)
        code, words = run(folder, "waited")
        assert code == 1 and "LockException" in words and "--unlock" in words, words
        assert f"snakemake on {'another' if holders else 'a machine that is not known'}" in words, words
    assert run(folder, "waited", "--unlock")[0] == 0
    assert run(folder, "waited")[0] == 0


def test_jobs_end_after_they_began(run, folder):
    """The second time too: not the start of the first time is taken."""
    for _ in range(2):
        code, words = run(folder, "--forceall", "own", "dated")
        assert code == 0, words
    records = [json.loads(path.read_text()) for path in (folder / ".snakemake" / "metadata").iterdir()]
    seconds = {record["rule"]: record["endtime"] - record["starttime"] for record in records}
    assert seconds.keys() == {"by_its_own_snakemake", "dated_before_it_began"}
    assert all(0 < value < 60 for value in seconds.values()), seconds
    began = {record["rule"]: record["starttime"] for record in records}
    written = (folder / "own").stat().st_mtime
    assert 0 <= written - began["by_its_own_snakemake"] < 60
    assert not [path for path in (folder / ".snakemake" / "started").rglob("*") if path.is_file()]


def test_a_report_without_results_is_one_line(run, folder):
    code, words = run(folder, "shown.csv", "--report", "report.zip")
    assert code == 2 and "error: a report shows finished results" in words and "shown.csv" in words, words
    assert "Traceback" not in words and not Path(folder, "report.zip").exists()
    assert run(folder, "shown.csv")[0] == 0
    code, words = run(folder, "shown.csv", "--report", "report.zip")
    assert code == 0 and Path(folder, "report.zip").exists(), words


# -- the scheduler


def many(folder, count, *arguments):
    """When each of some jobs ended, in order, and how often jobs to start were looked for."""
    (folder / "Snakefile").write_text(SNAKEFILE + COUNTED)
    files = [f"many/{number}" for number in range(count)]
    process = start(folder, *arguments, "--", *files)
    words = process.communicate(timeout=60)[0]
    assert process.returncode == 0, words
    ended = sorted(float((folder / file).read_text()) for file in files)
    return ended, len((folder / "looked").read_text())


def test_jobs_are_looked_for_when_one_has_ended(folder):
    """Without the change once a second more for each job that has ended: 25 times for these."""
    ended, looked = many(folder, 8, "--config", "seconds=0.7")
    assert ended[-1] - ended[0] > 3 and looked <= 10


def test_a_limit_of_jobs_per_second_is_kept_and_passes(folder):
    limit = ("--cores", "6", "--max-jobs-per-timespan", "2/2s")
    ended, looked = many(folder, 6, "--config", "seconds=0", *limit)
    assert ended[2] - ended[0] > 1.5 and ended[4] - ended[2] > 1.5 and looked < 30
