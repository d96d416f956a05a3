"""Whether this machine has a GPU, without torch, which is not where Snakemake itself may run."""

import ctypes
from pathlib import Path

from .errors import UserError


def has_gpu():
    """Whether a driver finds a GPU: NVIDIA's, or AMD's, whose build of torch calls it "cuda" too."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def check_gpu():
    """Checks that `device: cuda` can be had here.

    Raises:
        UserError: when no driver finds a GPU.
    """
    if not has_gpu():
        raise UserError('device: "cuda" is asked for, but this machine has no GPU; write auto or cpu')
