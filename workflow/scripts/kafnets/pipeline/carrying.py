"""An unfinished grid in one archive, and put in its place on another machine.

The archive holds the files of `results/` as they are, with their dates, Snakemake's notes on them (of which
inputs, settings and code they were made: without them it would plan every job again), and a manifest with
the checksum of each. A state of an unfinished training or attack is named by the fingerprint of its
settings, data and code; nothing here changes it.
"""

import base64
import binascii
import contextlib
import fcntl
import glob
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from ..runtime.errors import UserError
from ..runtime.files import atomic_path, json_text, read_json, sha256
from .precedence import choose

FORMAT = "kafnets-carried-1"
MANIFEST = "manifest.json"
RESULTS, NOTES = "results", "snakemake"  # folders of the archive
DATA, REFERENCE = "data", "reference"  # folders of results/: prepared data, and what is committed
RAW = "raw"  # of data/: the downloaded archive
_PIECE = 1 << 20


def pack(place, results, output, part_size=None, with_data=False):
    """Packs the results of a grid on which nobody works.

    Args:
        place (Path): the folder that Snakemake runs in.
        results (str): the configuration's `output`, seen from there.
        output (Path): written: the archive (tar, xz), or its parts OUTPUT.000, OUTPUT.001, ...
        part_size (int, optional): the most bytes of a part; default: one file.
        with_data (bool): take the prepared data along; else the other machine prepares them again.

    Returns:
        (list of Path, int): the files written, and how many results are in them.

    Raises:
        UserError: when there is nothing to pack, a process is at work there, or the disk is full.
    """
    folder = place / _inside(results, "--results")
    check_idle(place, folder)
    found = {path.relative_to(folder).as_posix(): path for path in _to_carry(folder, with_data)}
    if not found:
        raise UserError(f"{folder}: no results to pack; run snakemake first, or give another --results")
    members = {f"{RESULTS}/{name}": path for name, path in found.items()}
    for key, note in _notes(_notes_folder(place)):
        if key.startswith(f"{results}/") and key.removeprefix(f"{results}/") in found:
            members[f"{NOTES}/{note.relative_to(_notes_folder(place)).as_posix()}"] = note
    files = {name: _facts(path) for name, path in members.items()}
    manifest = json_text({"format": FORMAT, "results": results, "files": files}).encode()
    with atomic_path(output) as temporary, tarfile.open(temporary, "w:xz") as archive:
        _add(archive, MANIFEST, io.BytesIO(manifest), len(manifest))
        for name, path in members.items():
            with open(path, "rb") as file:
                _add(archive, name, file, files[name]["size"])
    return (_split(output, part_size) if part_size else [output]), len(found)


def unpack(place, archive):
    """Puts packed results in their place, each checked; what is there already and as good or better stays.

    Args:
        place (Path): the folder that Snakemake runs in; the results go where they were, seen from there.
        archive (Path): what :func:`pack` wrote; of parts the name without its number.

    Returns:
        (list of str, list of str): the files put in place, and a line for each result that stayed as it was.

    Raises:
        UserError: when the archive is absent, damaged or not one of these, or a process is at work there;
            then nothing has been changed.
    """
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(_whole(archive))
        try:
            source = stack.enter_context(tarfile.open(fileobj=whole, mode="r:xz"))
            manifest = _read_manifest(archive, source)
            folder = place / _inside(manifest["results"], archive)
            check_idle(place, folder)
            folder.mkdir(parents=True, exist_ok=True)
            # on the same file system, so that a file takes its place in one step
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".carried-", dir=folder)))
            _extract(archive, source, manifest["files"], scratch)
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise UserError(f"{archive}: damaged ({error}); pack or copy it again") from None
        carried = sorted(name.removeprefix(f"{RESULTS}/") for name in manifest["files"] if _is_result(name))
        placed, kept = choose(carried, scratch / RESULTS, folder)
        for name in placed:
            _move(scratch / RESULTS / name, folder / name)
        _move_notes(scratch / NOTES, place, {f"{manifest['results']}/{name}" for name in placed})
    return placed, kept


def check_idle(place, folder):
    """Checks that nobody works on the results in `folder`.

    Raises:
        UserError: when a snakemake or a job holds a lock.
    """
    for path in (place / ".snakemake" / "holders", *folder.rglob("*.lock")):
        if path.is_file() and _is_locked(path):
            raise UserError(
                f"{path}: a process is at work there; stop it (Ctrl-C: trainings save their state), try again"
            )


def _is_locked(path):
    # Snakemake's lock is a lockf, a job's a flock
    with open(path, "r+b") as file:
        for lock in (fcntl.lockf, fcntl.flock):
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:  # a file system without locks
                continue
    return False


def _inside(name, source):
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise UserError(f"{source}: {name!r} is not below the folder that Snakemake runs in; write results")
    return path


def _to_carry(folder, with_data):
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        # of killed writers, and of those that wait for each other
        if any(part.startswith(".") for part in parts) or path.suffix == ".lock":
            continue
        if parts[0] == REFERENCE or (parts[0] == DATA and not (with_data and parts[1:2] != (RAW,))):
            continue
        if path.is_file() and not path.is_symlink():
            yield path


def _notes_folder(place):
    return place / ".snakemake" / "metadata"


def _notes(folder):
    """The paths that Snakemake has a note on, and the note's file: its name is the path, in base64.

    A long name is divided into folders that begin with "@".
    """
    for path in sorted(folder.rglob("*")):
        name = "".join(part.removeprefix("@") for part in path.relative_to(folder).parts)
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            if path.is_file():
                yield base64.b64decode(name, altchars=b"-_", validate=True).decode(), path


def _facts(path):
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256(path)}


def _add(archive, name, file, size):
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, file)


def _split(output, part_size):
    """The file cut into parts, which take its place."""
    parts = []
    with open(output, "rb") as whole:
        while piece := whole.read(part_size):
            parts.append(output.with_name(f"{output.name}.{len(parts):03d}"))
            with atomic_path(parts[-1]) as temporary:
                temporary.write_bytes(piece)
    output.unlink()
    for left in glob.glob(f"{glob.escape(str(output))}.[0-9][0-9][0-9]"):
        if Path(left) not in parts:  # of an earlier, larger archive
            Path(left).unlink()
    return parts


@contextlib.contextmanager
def _whole(archive):
    """The archive as one open file."""
    parts = sorted(map(Path, glob.glob(f"{glob.escape(str(archive))}.[0-9][0-9][0-9]")))
    parts = [archive] if archive.is_file() else parts
    if not parts:
        raise UserError(f"{archive}: no such file, and no parts {archive}.000, ... of it")
    with tempfile.TemporaryFile() as whole:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole, _PIECE)
        whole.seek(0)
        yield whole


def _read_manifest(archive, source):
    first = source.next()
    if first is None or first.name != MANIFEST:
        raise UserError(f"{archive}: not packed results; write what pack_results.py has written")
    content = source.extractfile(first).read()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MANIFEST
        path.write_bytes(content)
        manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{archive}: packed by another version ({manifest.get('format')}); unpack it with that one"
        )
    for name in manifest["files"]:
        if _inside(name, archive).parts[0] not in (RESULTS, NOTES):
            raise UserError(f"{archive}: {name!r} belongs nowhere; pack it again")
    return manifest


def _extract(archive, source, files, folder):
    """Writes the members, each of them as the manifest tells, with its date."""
    missing = set(files)
    while member := source.next():  # after the manifest, which was the first
        if not member.isfile() or member.name not in missing:
            raise UserError(f"{archive}: {member.name!r} is not in its manifest; pack it again")
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, content = hashlib.sha256(), source.extractfile(member)
        with open(target, "wb") as file:
            while piece := content.read(_PIECE):
                digest.update(piece)
                file.write(piece)
        facts = files[member.name]
        if digest.hexdigest() != facts["sha256"]:
            raise UserError(
                f"{archive}: {member.name}: damaged, its checksum is another; pack or copy it again"
            )
        os.utime(target, ns=(facts["mtime_ns"], facts["mtime_ns"]))
        missing.remove(member.name)
    if missing:
        raise UserError(f"{archive}: {min(missing)} is missing; pack or copy it again")


def _is_result(name):
    return name.startswith(f"{RESULTS}/")


def _move(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def _move_notes(carried, place, keys):
    """Snakemake's notes on the files with these paths."""
    for key, path in _notes(carried):
        if key in keys:
            _move(path, _notes_folder(place) / path.relative_to(carried))
