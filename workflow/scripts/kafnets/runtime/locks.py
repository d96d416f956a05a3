"""Which processes have what: places on GPUs, and locks that end with their process. Without torch."""

import contextlib
import errno
import itertools
import os
import stat
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: as on a file system without locks
    fcntl = None


def take(file, wait=False):
    """Takes the lock of an open file for this process, until it is closed or the process ends.

    Raises:
        BlockingIOError: when another process has it; with `wait` never.
        OSError: where there are no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "this system has no such locks")
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


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
        folder = private_folder() if folder is None else folder
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
        take(file)
        return True
    os.close(file)
    return False


def private_folder():
    """A folder that nobody else can write to.

    Raises:
        OSError: when there is none, or something else of its name.
    """
    if not hasattr(os, "getuid"):
        raise OSError(errno.ENOSYS, "this system has no users of the kind that own files")
    folder = Path(tempfile.gettempdir()) / f"kafnets-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder}: not this user's own")
    return folder


@contextlib.contextmanager
def locked(path):
    """Within the block no other process has the lock of that file, which is made if need be.

    Who has it may remove the file.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            take(file, wait=True)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    yield
                    return
        finally:
            os.close(file)
