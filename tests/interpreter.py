"""Triton's interpreter, where NumPy has become stricter than it knows."""

import os
import subprocess
import sys

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# tests/conftest.py chooses by it: in the interpreter's process these, elsewhere all others
inside = pytest.mark.interpreted
outside = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter's process")


def run(file, tests=""):
    """Runs the tests of a file in Triton's interpreter, those whose names `tests` chooses (pytest -k).

    In a process of its own: Triton looks at the environment when it is imported.
    """
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", tests]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def mend():
    """Lets the bounds of a loop be values of the kernel: arrays of one element, no index for NumPy 2.4."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = mended
