"""The state of an unfinished training or attack on disk.

One file that names the run's settings by a fingerprint, carries its own checksum, and is opened only when
both agree.
"""

import hashlib
import io
import json
import os
import re

import torch

from . import files
from .errors import UserError
from .progress import line

_MAGIC = b"kafnets-checkpoint-1\n"


def fingerprint(settings):
    """A short name for `settings` (anything JSON can hold): equal exactly when they are equal."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def beside(record, name):
    """The file of the state of what will end in the file `record`, by its fingerprint."""
    return record.with_name(f"resume-{record.stem}-{name}.ckpt")


def discard(path, keep=False):
    """Removes the states beside a record, what killed writers left of them too.

    Those of other settings, data or code as well: the record that is written now is in the place of theirs.

    Args:
        path (Path): what :func:`beside` returned.
        keep (bool): leave `path` itself.
    """
    record = path.stem.rpartition("-")[0]
    name = re.compile(rf"\.?({re.escape(record)}-[0-9a-f]{{16}}\.ckpt)(\..*)?")
    matches = [match for match in map(name.fullmatch, os.listdir(path.parent)) if match]
    for found in {match[1] for match in matches}:
        if found != path.name or not keep:
            files.discard(path.with_name(found))


def write(path, state):
    """Writes `state` (tensors, numbers, strings, lists and dicts of them) atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(_MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read(path, expected_fingerprint):
    """The state in the file `path`, or None when the file is absent, or damaged (a line says so).

    Raises:
        UserError: when the file cannot be read, or belongs to a run with other settings.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; mend that, or delete it to begin again"
        ) from None
    header, digest, body = content[: len(_MAGIC)], content[len(_MAGIC) :][:64], content[len(_MAGIC) + 65 :]
    if header != _MAGIC or hashlib.sha256(body).hexdigest().encode() != digest:
        line(f"{path}: damaged, its checksum is another; beginning again")
        return None
    state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if state["fingerprint"] != expected_fingerprint:
        raise UserError(
            f"{path}: belongs to a run with other settings ({state['fingerprint']}, "
            f"this run is {expected_fingerprint}); delete it to begin again"
        )
    return state
