"""The changes to the SLURM executor plugin; with a real SLURM: tests/slurm/."""

import asyncio
import importlib.metadata
from types import SimpleNamespace

import pytest
from snakemake_patches import slurm


def test_the_version_that_is_changed_is_installed():
    """Another one needs a look: what it has corrected by now, what is named otherwise."""
    assert importlib.metadata.version("snakemake-executor-plugin-slurm") == slurm.VERSION


@pytest.mark.parametrize(
    "number, tasks",
    [
        ("7", ["7"]),
        ("7_2", ["7_2"]),
        ("7_[2]", ["7_2"]),
        ("7_[2-4,9]", ["7_2", "7_3", "7_4", "7_9"]),
        ("7_[1-2%1]", ["7_1", "7_2"]),
        ("7_[1-5:2,9%4]", ["7_1", "7_3", "7_5", "7_9"]),
    ],
)
def test_the_jobs_of_a_line_of_squeue(number, tasks):
    assert slurm.tasks(number) == tasks


@pytest.mark.parametrize(
    "sizes, parts",
    [
        ([4, 4, 4], [[4, 4], [4]]),
        ([10], [[10]]),
        ([11, 1, 9, 1], [[11], [1, 9], [1]]),
    ],
)
def test_scripts_stay_below_the_limit(sizes, parts):
    assert [sizes[part] for part in slurm.parts(sizes, 10)] == parts


def test_a_look_before_the_executor_is_complete():
    """The thread that looks at the jobs may be there first; if it died, the jobs' end would never be seen."""

    async def checked(self, active_jobs):
        for info in active_jobs:
            yield info

    async def look():
        return [info async for info in slurm.patient(checked)(SimpleNamespace(), [])]

    assert asyncio.run(look()) == []
