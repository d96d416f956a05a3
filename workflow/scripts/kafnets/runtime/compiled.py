"""C++ sources of the library, compiled on first use for this very processor and kept in a cache."""

import ctypes
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

from .errors import UserError
from .files import atomic_path

_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


class NotCompiled(Exception):
    """Why there is no compiled library, in words."""


def load(source):
    """The shared library of a C++ file, compiled now unless an equal one is in the cache.

    Args:
        source (Path): a single file without dependencies.

    Returns:
        ctypes.CDLL

    Raises:
        NotCompiled: where it cannot be built or loaded.
    """
    try:
        return ctypes.CDLL(str(_built(source)))
    except (OSError, UserError, subprocess.SubprocessError) as error:
        raise NotCompiled(str(error)) from None


def _built(source):
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    # -march=native: a home shared by unlike machines holds one library for each kind.
    key = hashlib.sha256(b"\0".join([source.read_bytes(), version, _cpu().encode(), repr(_FLAGS).encode()]))
    target = _cache() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial:
            _compile(compiler, source, partial)
    return target


def _compiler():
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise OSError("no C++ compiler found (install g++, or set CXX)")


def _compile(compiler, source, target):
    """Compiles with OpenMP and for this very processor where the compiler can."""
    for extra in (("-march=native", "-fopenmp"), ("-march=native",), ()):
        command = [compiler, *_FLAGS, *extra, str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode == 0:
            return
    raise OSError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")


def _cpu():
    """What names this kind of processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _cache():
    """A folder of this user's for compiled code."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(os.environ.get("KAFNETS_CACHE") or os.path.join(home, "kafnets"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return pathlib.Path(tempfile.mkdtemp(prefix="kafnets-"))
    return folder if os.access(folder, os.W_OK) else pathlib.Path(tempfile.mkdtemp(prefix="kafnets-"))
