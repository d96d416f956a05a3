"""Whether a GPU is there, as its driver says."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.repository import ROOT


@pytest.mark.parametrize(("status", "count", "expected"), [(0, 1, True), (0, 0, False), (100, 1, False)])
def test_a_gpu_is_there_if_the_driver_says_so(tmp_path, status, count, expected):
    """A driver of two functions that answers as CUDA does with a GPU, without one, or with its error 100."""
    source = tmp_path / "driver.c"
    source.write_text(
        f"int cuInit(unsigned flags) {{ return {status}; }}\n"
        f"int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}\n"
    )
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "workflow/scripts"),
        "LD_LIBRARY_PATH": str(tmp_path),
    }
    code = "from kafnets.runtime.driver import has_gpu; print(has_gpu())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(expected), done.stderr
