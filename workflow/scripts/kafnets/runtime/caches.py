"""Where what is made or fetched once is kept between runs: compiled code, networks, data sets."""

import os
from pathlib import Path

from .errors import UserError

VARIABLE = "KAFNETS_CACHE"


def is_named():
    """Whether the user names the folder; then there is no other."""
    return bool(os.environ.get(VARIABLE))


def folder():
    """The folder: in `KAFNETS_CACHE`, else of the user's folder for caches; None where there is no home.

    It need not be there.
    """
    if is_named():
        return Path(os.environ[VARIABLE])
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return caches / "kafnets" if caches.is_absolute() else None  # without a home "~" stays as it is


def file(*parts):
    """The path of a file in the folder, which need not be there.

    Raises:
        UserError: where there is no home.
    """
    if folder() is None:
        raise UserError(f"there is no home folder to keep {parts[-1]} in; let {VARIABLE} name a folder")
    return folder().joinpath(*parts)


def to_write(path):
    """A path of :func:`file`, its folder made.

    Raises:
        UserError: where nothing can be written there.
    """
    if not is_writable(path.parent):
        raise UserError(f"{path.parent}: cannot be written to; let {VARIABLE} name a folder that can")
    return path


def is_writable(folder):
    """Whether files can be written to a folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
