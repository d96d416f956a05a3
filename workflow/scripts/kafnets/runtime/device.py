"""Which device computes."""

import contextlib

import torch

from .errors import UserError
from .locks import claim

_settled = []  # the number of the GPU that this process has for good


def resolve(name):
    """The torch.device of "auto" (a GPU if there is one), "cpu" or "cuda".

    Of several GPUs that torch sees (SLURM shows a job its own only) the process takes one for good: processes
    that run at the same time spread over them, see :func:`.locks.claim`.

    Raises:
        UserError: when "cuda" is asked for and torch finds no GPU, or the name is unknown.
    """
    if name == "auto":
        return _gpu() if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                "device: cuda was asked for, but torch finds no GPU; "
                "write device: auto or cpu, or see docs/troubleshooting.md"
            )
        return _gpu()
    raise UserError(f"device: {name!r} is not known; write auto, cpu or cuda")


@contextlib.contextmanager
def exact_convolutions():
    """Within the block a GPU's float32 convolutions read all 24 bits of their inputs, elsewhere 11 (TF32)."""
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _gpu():
    # torch's default, said here because results depend on it: see exact_convolutions
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    count = torch.cuda.device_count()
    if count == 1:
        return torch.device("cuda")
    if not _settled:
        # by their identity: CUDA_VISIBLE_DEVICES may number them otherwise in another process
        uuids = [str(torch.cuda.get_device_properties(number).uuid) for number in range(count)]
        settle(claim(uuids))
    torch.cuda.set_device(_settled[0])  # of this thread
    return torch.device("cuda", _settled[0])


def settle(index):
    """From now on this process computes on that GPU."""
    _settled[:] = [index]
