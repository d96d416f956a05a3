"""What a command has made already is not made again."""

import functools
import hashlib
from pathlib import Path

from ..runtime import records
from ..runtime.progress import line

_LIBRARY = Path(__file__).resolve().parents[1]


@functools.cache
def code_checksum():
    """Of all code of the library, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _LIBRARY.rglob("*") if path.suffix in (".py", ".cpp")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(_LIBRARY).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


def is_made(record, facts, files):
    """Whether a record says that the very same was made by the very same code; said in a line.

    Unlike in a pipeline nothing is removed that says otherwise: it is replaced once the new one is whole.

    Args:
        record (Path): the record.
        facts (dict): what it must say.
        files (dict): key of the record to the file whose checksum the key holds.
    """
    if not records.describes(record, facts, files):
        return False
    line(f"{record}: made already by the same command; delete it to have it made again")
    return True
