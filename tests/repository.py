"""Runs of the workflow in a copy of the repository, for the tests that break them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests import standin

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "slurm" / "tiny.yaml"
OUT = "results/tiny"
# In CI, where everything is installed: a SLURM that does not start, or a disk that cannot be mounted, is a
# failure there and nothing to skip.
REQUIRED = os.environ.get("KAFNETS_REQUIRE_ALL") == "1"

# As cron calls it, no environment is activated: the jobs find their python by themselves. One thread each,
# because several trainings run at once.
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != BIN),
    "OMP_NUM_THREADS": "1",
}


def copy_repository(target):
    """What git knows of the working tree, with the uncommitted changes."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def make_venv(folder):
    """What `make venv` makes in a copy of the repository, of links to what is installed here.

    It holds requirements.txt, what that requires, and nothing else that the tests brought here.
    """
    lines = (folder / "requirements.txt").read_text().splitlines()
    python = standin.make(folder / ".venv", [line for line in lines if line and not line.startswith("#")])
    script = python.with_name("snakemake")
    script.write_text(f"#!{python}\nimport sys\nfrom snakemake.cli import main\n\nsys.exit(main())\n")
    script.chmod(0o755)
    (folder / ".venv" / ".runtime").touch()


def snakemake(folder, *arguments, prefix=(), check=True, **variables):
    """Runs the snakemake of these tests' environment, which is not activated, in `folder`.

    Args:
        prefix: a command that starts it.
        check (bool): whether it must succeed.
        **variables (str): of its environment.
    """
    result = subprocess.run(
        [*prefix, sys.executable, "-m", "snakemake", "--cores", "2", *map(str, arguments)],
        cwd=folder,
        env={**ENVIRONMENT, **variables},
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
    )
    assert not check or result.returncode == 0, result.stdout[-6000:]
    return result


def planned(output):
    """The job counts of a dry run."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def start(folder, *arguments, profile=None, program=("-m", "snakemake"), **options):
    """Starts snakemake on the tiny grid in `folder`, its words in folder/snakemake.out."""
    command = [sys.executable, *map(str, program), "--configfile", str(TINY)]
    command += ["--workflow-profile", profile] if profile else ["--cores", "2"]
    with open(folder / "snakemake.out", "wb") as output:
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )


def finish(process, folder, seconds=600, check=True):
    """Waits for what :func:`start` started; its words."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"not done after {seconds} s\n{words(folder)[-6000:]}") from None
    if check:
        assert process.returncode == 0, words(folder)[-6000:]
    return words(folder)


def run(folder, *arguments, check=True, **options):
    return finish(start(folder, *arguments, **options), folder, check=check)


def words(folder):
    return (folder / "snakemake.out").read_text(errors="replace")


def cell(folder, activation="relu", seed=0):
    return folder / OUT / "models" / "tiny" / activation / f"seed{seed}"


def weights(folder):
    """The checksum of every trained network below `folder`, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(f"{OUT}/models/*/*/*/model.safetensors"))
    }


def verdicts(folder):
    """The checksum of every verdict file below `folder`, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(f"{OUT}/evaluations/*/*/*/*.safetensors"))
    }


def processes(place, script, within=""):
    """The running Pythons of a workflow's script: their pid, their environment and their command line.

    Args:
        place (Path): the folder that the workflow runs in; other tests run the same script elsewhere.
        script (str): its file name, such as "train.py".
        within (str): a part of the command line.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if len(command) < 2 or not command[1].endswith(f"/{script}") or within not in " ".join(command):
                continue
            if (folder / "cwd").readlink() != place.resolve():
                continue
            lines = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended while we looked
        environment = dict(line.partition("=")[::2] for line in lines if line)
        found.append((int(folder.name), environment, " ".join(command)))
    return found
