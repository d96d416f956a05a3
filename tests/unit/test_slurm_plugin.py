"""What mends the SLURM executor plugin; with a real SLURM: tests/slurm/."""

import importlib.metadata

import pytest
import slurm_plugin


def test_the_mended_version_is_installed():
    """Another version needs a look: what is mended there by now, what is called otherwise."""
    assert importlib.metadata.version("snakemake-executor-plugin-slurm") == slurm_plugin.VERSION


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
    assert slurm_plugin.tasks(number) == tasks


@pytest.mark.parametrize(
    "sizes, parts",
    [
        ([4, 4, 4], [[4, 4], [4]]),
        ([10], [[10]]),
        ([11, 1, 9, 1], [[11], [1, 9], [1]]),
    ],
)
def test_scripts_stay_below_the_limit(sizes, parts):
    assert [sizes[part] for part in slurm_plugin.parts(sizes, 10)] == parts
