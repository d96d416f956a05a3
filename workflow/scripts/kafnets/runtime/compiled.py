"""C++ sources of the library, compiled on first use for this very processor and kept in a cache.

Where there is no compiler, libraries that were compiled beforehand are used (a container's image has such):

    KAFNETS_CACHE=/opt/compiled python -m kafnets.runtime.compiled

and `KAFNETS_COMPILED=/opt/compiled` names them afterwards, whatever the cache is then.
"""

import ctypes
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

from . import caches
from .errors import UserError
from .files import atomic_path

_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
# Kinds of processors that are compiled for beforehand, the most able first, and what one says it has.
_LEVELS = {
    "x86_64": {
        "x86-64-v4": {"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
        "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
    },
}
# names a folder of libraries that were compiled beforehand, which is only read
BEFOREHAND = "KAFNETS_COMPILED"
_ANY = "any"  # every processor of this architecture

log = logging.getLogger("kafnets")


class NotCompiled(Exception):
    """Why there is no compiled library, in words."""


def load(source):
    """The shared library of a C++ file, compiled now unless it is in the cache.

    The cache is the folder in `KAFNETS_CACHE`; without that variable the first of these that can be written
    to: the user's folder for caches, the source's own `__pycache__`, the user's folder for a session. Where
    there is none, the library is compiled for this process alone, and nothing of it stays.

    Args:
        source (Path): a single file without dependencies.

    Returns:
        ctypes.CDLL

    Raises:
        NotCompiled: where it cannot be built or loaded.
    """
    try:
        found = _found(source, _name(source, "native", _cpu()))
        return ctypes.CDLL(str(found)) if found else _compiled(source)
    except (OSError, UserError, subprocess.SubprocessError) as error:
        raise NotCompiled(str(error)) from None


def _found(source, name):
    """The library of that name in one of the caches, or compiled beforehand; or None."""
    beforehand = os.environ.get(BEFOREHAND)
    folders = [*_caches(source), *([pathlib.Path(beforehand)] if beforehand else [])]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _compiled(source):
    """The library compiled now, or without a compiler the best of those compiled beforehand."""
    try:
        compiler = _compiler()
    except OSError:
        for level in _levels(flags=_cpu_flags()):
            if found := _found(source, _name(source, level)):
                return ctypes.CDLL(str(found))
        raise
    # -march=native: a home shared by unlike machines holds one library for each kind.
    name = _name(source, "native", _cpu())
    folder = next(filter(caches.is_writable, _caches(source)), None)
    if folder is not None:
        _build(compiler, source, folder / name, "native")
        return ctypes.CDLL(str(folder / name))
    log.warning(
        "%s is compiled anew by each process, for no folder can be written to; set KAFNETS_CACHE", source.stem
    )
    with tempfile.TemporaryDirectory(prefix="kafnets-") as folder:  # what is loaded needs its file no more
        _build(compiler, source, pathlib.Path(folder) / name, "native")
        return ctypes.CDLL(os.path.join(folder, name))


def _name(source, level, *facts):
    """A library's file name: another source, other flags or another kind of processor is another library.

    The compiler is no part of it: where a library is used there may be none.
    """
    parts = [source.read_bytes(), repr(_FLAGS).encode(), *(fact.encode() for fact in facts)]
    return f"{source.stem}-{level}-{hashlib.sha256(bytes(1).join(parts)).hexdigest()[:16]}.so"


def _compiler():
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise OSError("no C++ compiler found (install g++, or set CXX)")


def _build(compiler, source, target, level):
    with atomic_path(target) as partial:
        _compile(compiler, source, partial, [] if level == _ANY else [f"-march={level}"])


def _compile(compiler, source, target, march):
    """Compiles with OpenMP and for that kind of processor where the compiler can."""
    for extra in ((*march, "-fopenmp"), march, ()):
        command = [compiler, *_FLAGS, *extra, str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode == 0:
            return
    raise OSError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")


def _cpu_lines():
    try:
        return pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _cpu():
    """What names this kind of processor."""
    named = {line for line in _cpu_lines() if line.startswith(("model name", "flags", "Features"))}
    return "".join(sorted(named)) or platform.processor() + platform.machine()


def _cpu_flags():
    """The extensions that this processor says it has."""
    return {word for line in _cpu_lines() if line.startswith("flags") for word in line.split()}


def _levels(flags=None):
    """The kinds of processors to compile for beforehand; with `flags` those that this processor is one of."""
    levels = _LEVELS.get(platform.machine(), {})
    return [*(name for name, needed in levels.items() if flags is None or needed <= flags), _ANY]


def _caches(source):
    """The folders for compiled code, the first the one to be preferred; they need not be there."""
    own = caches.folder()
    if caches.is_named():
        return [own]
    session = os.environ.get("XDG_RUNTIME_DIR")
    return [
        *([own] if own else []),
        source.parent / "__pycache__",
        *([pathlib.Path(session, "kafnets")] if session and os.path.isabs(session) else []),
    ]


def _sources():
    return sorted(pathlib.Path(__file__).resolve().parents[1].rglob("*.cpp"))


def main():
    """Compiles all sources for every kind of processor, into the first cache; prints the files."""
    compiler = _compiler()
    for source in _sources():
        for level in _levels():
            target = _caches(source)[0] / _name(source, level)
            _build(compiler, source, target, level)
            print(target)


if __name__ == "__main__":
    main()
