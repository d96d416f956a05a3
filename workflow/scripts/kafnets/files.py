"""Files that are either whole or absent."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from .errors import UserError

CHECKSUM = "checksum"


@contextlib.contextmanager
def atomic_path(path):
    """A temporary path beside `path`, which takes its place when the block ends without an error.

    The bytes reach the disk before the rename, so a crash leaves the old file or the new one, never half.

    Raises:
        UserError: when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


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
    value = {**value, CHECKSUM: _checksum(value)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n")


def read_json(path):
    """The object of a JSON file.

    Raises:
        UserError: when the file is absent, not JSON, or not what its `checksum` (if it has one) is of.
    """
    try:
        value = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); delete it to have it made again") from None
    if isinstance(value, dict) and CHECKSUM in value and value[CHECKSUM] != _checksum(value):
        raise UserError(f"{path}: damaged, its checksum is another; delete it to have it made again")
    return value


def _checksum(value):
    content = {key: item for key, item in value.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
