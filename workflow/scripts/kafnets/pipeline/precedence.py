"""Which of two states of the same results goes on: the finished, the further, the newer one."""

import re
from pathlib import PurePosixPath

from ..runtime import checkpoint
from ..runtime.errors import UserError
from ..runtime.files import read_json, sha256

# Folders whose files belong together: weights with their record, verdicts with theirs.
KINDS = ("models", "evaluations", "cards", "certificates", "detectors", "detections", "lr_range")
RECORD = "record"  # the stem of a training's record; its folder is one training's
_STATE = re.compile(r"resume-(.+)-([0-9a-f]{16})\.ckpt")


def choose(names, carried, here):
    """Which of the carried files take their place.

    A result is finished where its record is whole and its files are those that the record tells of. A
    finished one stays, unless the carried one was finished later; it takes the place of an unfinished one. Of
    two states of the same unfinished run the one that is further goes on. Of any other file the newer counts.

    Args:
        names (list of str): files of the folder `carried`.
        carried, here (Path): two folders of results.

    Returns:
        (list of str, list of str): the files, records last, and a line for each result that stays.
    """
    groups = {}
    for name in names:
        groups.setdefault(result_of(name), []).append(name)
    placed, kept = [], []
    for result, files in groups.items():
        files = [name for name in files if not _same(carried / name, here / name)]
        if not files:
            continue
        if result is None or not _is_finished_one(result, carried, here):
            for name in files:
                if _is_further(carried / name, here / name):
                    placed.append(name)
                else:
                    kept.append(f"{name}: the one here is as new, or further")
            continue
        ours, theirs = finished(here, result), finished(carried, result)
        if theirs is not None and (ours is None or theirs > ours):
            placed += files
        else:
            kept.append(f"{'/'.join(result)}: finished here ({ours}), carried: {theirs or 'not finished'}")
    return sorted(placed, key=lambda name: (name.endswith(".json"), name)), kept


def result_of(name):
    """The result that a file is a part of, as (folder, stem of its record); None: a file of its own."""
    path = PurePosixPath(name)
    if path.parts[0] not in KINDS or len(path.parts) < 3:  # of all its networks: a table
        return None
    if path.parts[0] == "models":
        return str(path.parent), RECORD
    state = _STATE.fullmatch(path.name)
    return str(path.parent), state[1] if state else path.stem


def finished(folder, result):
    """When a result was finished, as its record says; None where it is not, or is not what that tells of."""
    parent, stem = folder / result[0], result[1]
    try:
        record = read_json(parent / f"{stem}.json")
        if stem == RECORD:
            told = {"model_sha256": "model.safetensors", "history_sha256": "history.csv"}
        else:
            names = {"verdicts": "safetensors", "tensors": "safetensors", "csv": "csv"}
            told = {f"{kind}_sha256": f"{stem}.{ending}" for kind, ending in names.items()}
        if any(key in record and record[key] != sha256(parent / name) for key, name in told.items()):
            return None
    except (UserError, OSError):
        return None
    return record.get("finished", "")


def _is_finished_one(result, *folders):
    return any(finished(folder, result) is not None for folder in folders)


def _same(one, other):
    return other.is_file() and one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)


def _is_further(carried, here):
    if not here.exists():
        return True
    state = _STATE.fullmatch(here.name)
    if state:
        return advance(carried, state[2]) > advance(here, state[2])
    return carried.stat().st_mtime_ns > here.stat().st_mtime_ns


def advance(path, fingerprint):
    """How far a state is: a training's epoch and step, an attack's seconds; a damaged one less than any."""
    try:
        state = checkpoint.read(path, fingerprint)
    except UserError:
        state = None
    if state is None:
        return (-1,)
    position = state.get("position", state)
    return tuple(position[key] for key in ("epoch", "step", "seconds") if key in position)
