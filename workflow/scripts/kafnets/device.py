"""Which device computes."""

import torch

from .errors import UserError


def resolve(name):
    """The torch.device of "auto" (the GPU if there is one), "cpu" or "cuda".

    Raises:
        UserError: when "cuda" is asked for and torch finds no GPU, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                "device: cuda was asked for, but torch finds no GPU; "
                "write device: auto or cpu, or see the README's troubleshooting"
            )
        return torch.device("cuda")
    raise UserError(f"device: {name!r} is not known; write auto, cpu or cuda")
