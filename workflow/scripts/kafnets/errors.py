"""Errors that are the user's to mend."""

import re

# torch says it by OutOfMemoryError, by AcceleratorError, or by a plain RuntimeError of a library beneath it.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|_ALLOC(ATION)?_FAILED|can(no|')t allocate memory|not enough memory",
    re.IGNORECASE,
)


class UserError(ValueError):
    """Wrong input. The message is one line: what is wrong, and what to write or do instead."""


def is_out_of_memory(error):
    """Whether an exception says that the memory, the device's or the host's, does not hold something."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
