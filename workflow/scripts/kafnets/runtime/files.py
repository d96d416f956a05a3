"""Files that are either whole or absent."""

import contextlib
import glob
import hashlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from . import locks, turns
from .errors import UserError

CHECKSUM = "checksum"
SEAL = ".sha256"
MADE_BY = "snakemake makes it (or, by hand, the script whose output it is)"


@contextlib.contextmanager
def atomic_path(path):
    """A temporary path beside `path`, which takes its place when the block ends without an error.

    The bytes reach the disk before the rename, so a crash leaves the old file or the new one, never half.
    What a process left that was killed while it wrote `path` is removed here, by the next that writes it.

    Raises:
        UserError: when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        handle, temporary = _temporary(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows syncs only what is open to be written
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        if os.name == "nt":  # it renames no open file
            os.close(handle)
            handle = None
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if handle is not None:
            os.close(handle)
        temporary.unlink(missing_ok=True)


def _temporary(path):
    """A new file beside `path`, locked as long as its writer lives: by that a leftover is known."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: nothing is taken for a leftover there
            locks.take(handle)
        if os.path.exists(name):  # else another took it for a leftover before it was locked
            return handle, Path(name)
        os.close(handle)


def _remove_leftovers(path):
    for name in glob.glob(f".{glob.escape(path.name)}.*", root_dir=path.parent):
        leftover = path.parent / name
        with contextlib.suppress(OSError), open(leftover, "r+b") as file:
            locks.take(file)  # its writer lives: BlockingIOError
            leftover.unlink()


def discard(path):
    """Removes a file, if it is there, and what killed writers left of it."""
    _remove_leftovers(path)
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path):
    """No second process makes the file `path` within the block: it waits, and says for whom.

    A process whose snakemake was killed works on, and the next snakemake starts the same job again. It waits
    rather than ends, because an error would use up Snakemake's retries while nothing is wrong. The kernel
    gives the lock back when a process ends, however it ends; over NFS the server does, once the lease of a
    machine that died is over. On a file system without locks the block runs unguarded, and a line says so.

    Yields:
        bool: whether another was at it: what it has made is there, whole.

    Raises:
        UserError: when the folder cannot be written or the disk is full.
    """
    lock = Path(path).with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file, waited = _locked(lock)
    except OSError as error:
        raise UserError(f"cannot write {lock}: {error.strerror}") from None
    try:
        yield waited
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)


def _locked(lock):
    """The lock file, open and locked, and whether another process had it."""
    waited = False
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        waited |= _wait_for(file, lock)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(lock)):
                break
        os.close(file)  # whoever had it has removed it
    with contextlib.suppress(OSError):  # on a full disk it has no name, and locks all the same
        os.truncate(file, 0)
        os.write(file, _who().encode())
    return file, waited


def _wait_for(file, lock):
    """Takes the lock of an open file; whether another process had it."""
    try:
        if _has_got(file):
            return False
        other = os.pread(file, 1000, 0).decode(errors="replace") or "another process"
        _say(f"{lock}: {other} is at it; waiting until it ends")
        if turns.current():  # who has it may be another job of this process, which must go on
            turns.until(lambda: _has_got(file), seconds=0.1)
        else:
            locks.take(file, wait=True)
        return True
    except OSError as error:
        print(
            f"{lock}: cannot be locked ({error.strerror}); start nothing twice", file=sys.stderr, flush=True
        )
        return False


def _has_got(file):
    with contextlib.suppress(BlockingIOError):
        locks.take(file)
        return True
    return False


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _who():
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {platform.node()}" + (f", SLURM job {job}" if job else "")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value):
    """Writes an object as JSON, atomically, with a checksum of its content as the last key, `checksum`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value):
    """What :func:`write_json` writes."""
    value = {**value, CHECKSUM: _checksum(value)}
    return json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n"


def read_json(path):
    """The object of a JSON file that :func:`write_json` wrote.

    Raises:
        UserError: when the file is absent, not a JSON object, or not what its `checksum` is of.
    """
    again = "delete it to have it made again"
    content = _bytes(path)
    try:
        value = json.loads(content)
        found = _checksum(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); {again}") from None
    if found is None:
        raise UserError(f"{path}: not a record; {again}")
    if CHECKSUM not in value:
        raise UserError(f"{path}: lacks {CHECKSUM}; {again}")
    if value[CHECKSUM] != found:
        raise UserError(f"{path}: damaged, its checksum is another; {again}")
    return value


def write_sealed(path, text):
    """Writes a text atomically, and its checksum beside it (PATH.sha256, as `sha256sum -c` reads it)."""
    path = Path(path)
    content = text.encode()
    seal = path.with_name(path.name + SEAL)
    with atomic_path(path) as temporary, atomic_path(seal) as temporary_seal:
        temporary.write_bytes(content)
        temporary_seal.write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n", encoding="utf-8")


def read_sealed(path):
    """The text that :func:`write_sealed` wrote.

    Raises:
        UserError: when it or its checksum is absent, or it is damaged.
    """
    content = _bytes(path)
    seal = f"{path}{SEAL}"
    if _bytes(seal).split()[:1] != [hashlib.sha256(content).hexdigest().encode()]:
        raise UserError(
            f"{path}: damaged, its checksum is not the one in {seal}; delete both to have them made again"
        )
    return content.decode()


def _bytes(path):
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {MADE_BY}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _checksum(value):
    content = {key: item for key, item in value.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
