"""A full disk, a read-only one: one clear line, and no half-written file taken for a whole one."""

import os
import subprocess

import pytest
from kafnets.files import sha256
from safetensors import safe_open

from tests.scripts import complete, evaluation_arguments, log_of, outcome, script, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@pytest.fixture
def disk(tmp_path):
    """Mounts a small file system of so many kB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("no tmpfs can be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def failed_with_one_line(process, log, reason):
    process.join(300)
    lines = [line for line in log.read_text().splitlines() if line.startswith("error")]
    assert process.exitcode == 2 and len(lines) == 1 and lines[0].endswith(reason), log.read_text()[-2000:]
    assert "Traceback" not in log.read_text()
    log.unlink()


# kB: not even a checkpoint; a checkpoint but no second one beside it; no model beside it; no record
@pytest.mark.parametrize("size", [100, 700, 850, 1000, 1100, 1200])
def test_a_full_disk_under_a_training(context, data, undisturbed, disk, tally, size):
    expected, _ = undisturbed["relu"]
    folder = disk(f"size={size}k")
    process = start(context, folder, data, "relu")
    tally.tried("full disk or read-only file system")
    failed_with_one_line(process, log_of(folder), "No space left on device")
    assert not list(folder.glob(".*")) and not (folder / "record.json").exists()
    if (folder / "model.safetensors").exists():
        assert sha256(folder / "model.safetensors") == expected[0]
    subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    complete(context, folder, data, "relu")
    assert outcome(folder) == expected
    tally.held("full disk or read-only file system")


def test_a_full_disk_under_an_evaluation(context, data, disk, tmp_path, tally):
    trained = tmp_path / "trained"
    trained.mkdir()
    complete(context, trained, data, "relu")
    folder = disk("size=4k")
    (folder / "filler").write_bytes(bytes(4096))
    arguments = evaluation_arguments(trained, data, "relu", "clean", folder)
    tally.tried("full disk or read-only file system")
    process = context.Process(target=script, args=("evaluate.py", arguments, log_of(folder)))
    process.start()
    failed_with_one_line(process, log_of(folder), "No space left on device")
    assert [path.name for path in folder.iterdir()] == ["filler"]
    subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
    process = context.Process(target=script, args=("evaluate.py", arguments, log_of(folder)))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    with safe_open(folder / "clean.safetensors", framework="pt") as file:
        assert len(file.get_tensor("clean")) == 20
    tally.held("full disk or read-only file system")


def test_a_read_only_file_system(context, data, disk, tally):
    folder = disk("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    tally.tried("full disk or read-only file system")
    process = start(context, folder, data, "relu")
    failed_with_one_line(process, log_of(folder), "Read-only file system")
    tally.held("full disk or read-only file system")
