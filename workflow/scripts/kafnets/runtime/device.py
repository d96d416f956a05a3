"""Which device computes."""

import contextlib
import fcntl
import itertools
import os
import stat
import tempfile
from pathlib import Path

import torch

from .errors import UserError


def resolve(name):
    """The torch.device of "auto" (a GPU if there is one), "cpu" or "cuda".

    Of several GPUs that torch sees (SLURM shows a job its own only) the process takes one for good: processes
    that run at the same time spread over them, see :func:`claim`.

    Raises:
        UserError: when "cuda" is asked for and torch finds no GPU, or the name is unknown.
    """
    if name == "auto":
        return _gpu() if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                "device: cuda was asked for, but torch finds no GPU; "
                "write device: auto or cpu, or see docs/troubleshooting.md"
            )
        return _gpu()
    raise UserError(f"device: {name!r} is not known; write auto, cpu or cuda")


@contextlib.contextmanager
def exact_convolutions():
    """Within the block a GPU's float32 convolutions read all 24 bits of their inputs, elsewhere 11 (TF32)."""
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _gpu():
    # torch's default, said here because results depend on it: see exact_convolutions
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    count = torch.cuda.device_count()
    if count == 1:
        return torch.device("cuda")
    # by their identity: CUDA_VISIBLE_DEVICES may number them otherwise in another process
    index = claim([str(torch.cuda.get_device_properties(number).uuid) for number in range(count)])
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def claim(gpus, folder=None):
    """Takes one of `gpus` for this process, until it ends.

    Each GPU has numbered places, a file each, and who locks the file has the place. A process takes the first
    free one of the first places of all GPUs, then of the second places, and so on: of n processes at most
    ceil(n / len(gpus)) are on one GPU. The kernel gives a lock back when its process ends, however it ends.

    Args:
        gpus (list of str): their names, the same in every process.
        folder (Path, optional): for the files; default: one of this user's among the temporary files.

    Returns:
        int: the index in `gpus`. Where no lock can be had at all (no place for files), one by the process's
        number.
    """
    try:
        folder = _folder() if folder is None else folder
        for place in itertools.count():
            for index, gpu in enumerate(gpus):
                if _lock(folder / f"{gpu}.{place}"):
                    return index
    except OSError:
        return os.getpid() % len(gpus)


def _lock(path):
    """Whether this process has got the file's lock; it keeps it by never closing the file."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    os.close(file)
    return False


def _folder():
    """A folder that nobody else can write to.

    Raises:
        OSError: when there is none, or something else of its name.
    """
    folder = Path(tempfile.gettempdir()) / f"kafnets-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder}: not this user's own")
    return folder
