"""Whether this machine has a GPU, without torch, which is not where Snakemake itself may run."""

import ctypes
import uuid
from pathlib import Path

from .errors import UserError


def has_gpu():
    """Whether a driver finds a GPU: NVIDIA's, or AMD's, whose build of torch calls it "cuda" too."""
    driver = _driver()
    return Path("/dev/kfd").exists() if driver is None else _count(driver) > 0


def gpus():
    """The identities of NVIDIA's GPUs that this process may use, as torch writes them and in its order."""
    driver = _driver()
    found = []
    for number in range(0 if driver is None else _count(driver)):
        device, identity = ctypes.c_int(), ctypes.create_string_buffer(16)
        if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetUuid_v2(identity, device):
            return []
        found.append(str(uuid.UUID(bytes=identity.raw)))
    return found


def _driver():
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _count(driver):
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def check_gpu():
    """Checks that `device: cuda` can be had here.

    Raises:
        UserError: when no driver finds a GPU.
    """
    if not has_gpu():
        raise UserError('device: "cuda" is asked for, but this machine has no GPU; write auto or cpu')
