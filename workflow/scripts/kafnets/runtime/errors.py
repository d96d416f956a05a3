"""Errors that are the user's to mend."""

import importlib
import re

# torch says it by OutOfMemoryError, by AcceleratorError, or by a plain RuntimeError of a library beneath it.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|_ALLOC(ATION)?_FAILED|can(no|')t allocate memory|not enough memory",
    re.IGNORECASE,
)


class UserError(ValueError):
    """Wrong input. The message is one line: what is wrong, and what to write or do instead."""


def optional(name, extra):
    """The module `name` of a package that only some of the library needs.

    Args:
        extra (str): under which pyproject.toml lists the package.

    Raises:
        UserError: saying what to install, when it is absent.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"this needs the package {package} ({error}); write in the folder of kafnets: "
            f"pip install '.[{extra}]'"
        ) from None


def is_out_of_memory(error):
    """Whether an exception says that the memory, the device's or the host's, does not hold something."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
