"""What a record says of where its numbers come from."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from . import turns
from .errors import UserError
from .files import MADE_BY, read_json, sha256

try:
    import resource
except ImportError:  # Windows
    resource = None

# Beside torch and NumPy, packages whose version may decide a verdict or a number.
PACKAGES = ("foolbox", "pyautoattack", "triton", "scipy")


def environment(device=None):
    """The software and hardware of this process.

    Args:
        device: the torch.device that computes, or None for a step without torch.
    """
    facts = {
        **_git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
    }
    if device is not None:
        import numpy
        import torch

        facts.update(
            torch=torch.__version__,
            numpy=numpy.__version__,
            cuda=torch.version.cuda if device.type == "cuda" else None,
            threads=torch.get_num_threads(),
            packages={name: _version(name) for name in PACKAGES},
            jobs=turns.most(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        )
        if device.type == "cuda":
            facts["float32_convolutions"] = torch.backends.cudnn.conv.fp32_precision  # "tf32" or "ieee"
    return facts


def _version(package):
    """The version of an installed package; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def of_weights(path, weights):
    """The record in the file `path`, of a network whose weights are in the file `weights`.

    Raises:
        UserError: when one is absent or damaged, or they are other weights than the record tells of.
    """
    if not Path(weights).is_file():
        raise UserError(f"{weights}: no such file of weights; {MADE_BY}")
    record = read_json(path)
    if record.get("model_sha256") != sha256(weights):
        raise UserError(f"{weights}: not the weights that {path} tells of; train again or restore the file")
    return record


def checksum_of_weights(weights, record=None):
    """The SHA-256 of a file of weights, which must be those of the record when one is given.

    Raises:
        UserError: as :func:`of_weights`.
    """
    if record is not None:
        return of_weights(record, weights)["model_sha256"]
    if not Path(weights).is_file():
        raise UserError(f"{weights}: no such file of weights; {MADE_BY}")
    return sha256(weights)


def describes(path, facts, files):
    """Whether the file `path` holds a whole record with these keys, and of these files as they are.

    Args:
        path (Path): the record.
        facts (dict): keys and their values.
        files (dict): keys whose values are checksums, and whose.
    """
    try:
        record = read_json(path)
        facts = {**facts, **{key: sha256(file) for key, file in files.items()}}
    except (UserError, OSError):
        return False
    return all(key in record and record[key] == value for key, value in facts.items())


def is_made(path, facts, files, waited=False):
    """Whether the record `path` proves that what a step shall make is there: it need not be made again.

    What proves something else is removed: it would be taken for this step's, should the step fail.

    Args:
        path (Path): the record.
        facts (dict): as :func:`describes` takes them; among them `code`, the version of the code. Where that
            is empty, an earlier call may have run other code: only what was made while we waited counts.
        files (dict): as :func:`describes` takes them.
        waited (bool): whether another process was at it until now.
    """
    if (waited or facts["code"]) and describes(path, facts, files):
        return True
    if facts["code"]:
        for file in (path, *files.values()):
            Path(file).unlink(missing_ok=True)
    return False


def processor():
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git():
    """The commit of the checkout that this file is a part of, and whether its code differs from it.

    Both None where there is none: no git, the code unpacked or installed inside another repository.
    """
    file = Path(__file__).resolve()

    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def ask(*arguments):
        command = ["git", "--no-optional-locks", "-C", file.parent, *arguments]
        done = subprocess.run(command, env=variables, capture_output=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        # the path from the top level of the repository that tracks it: another's would be longer, or an error
        tracked = ask("ls-files", "--full-name", "--error-unmatch", "--", file.name)
        if tracked != f"workflow/scripts/{__name__.replace('.', '/')}.py".encode():
            return {"git_commit": None, "git_dirty": None}
        edited = ask("status", "--porcelain", "--untracked-files=no")
        added = ask("ls-files", "--others", "--exclude-standard", "--", ":/workflow")
        return {"git_commit": ask("rev-parse", "HEAD").decode(), "git_dirty": bool(edited or added)}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}


def peak_memory_bytes(device):
    """The most memory held so far: on the GPU what torch allocated there, else the process's resident set.

    None where the system does not say (Windows).
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def now():
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
