"""Python environments without an installation: their packages are links to those that are installed here.

They hold only the distributions that they are asked for and, recursively, what the metadata of those
requires.
"""

import functools
import re
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def canonical(name):
    """A distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(requirements):
    """The installed distributions that satisfy `requirements`, with all that they require: by canonical name.

    Args:
        requirements: strings as in requirements.txt. Versions are not compared.

    Raises:
        importlib.metadata.PackageNotFoundError: for one that is not installed.
    """
    found, seen, waiting = {}, set(), [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            key = canonical(requirement.name), extra
            if key in seen:
                continue
            seen.add(key)
            found[key[0]] = distribution = metadata.distribution(requirement.name)
            for line in distribution.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return found


def make(folder, requirements):
    """A virtual environment in `folder`, without pip, of links to the distributions of :func:`required`.

    Returns:
        Path: its `python`.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    python = Path(folder) / "bin" / "python"
    packages = site_packages(folder)
    for distribution in required(requirements).values():
        for target in contents(distribution.name):
            link = packages / target.name
            if not link.exists():
                link.symlink_to(target)
    return python


@functools.cache
def contents(name):
    """The files and folders of an installed distribution that lie in site-packages itself."""
    distribution = metadata.distribution(name)
    names = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
    found = [Path(distribution.locate_file(name)) for name in names]
    return [path for path in found if path.suffix != ".pth" and path.exists()]


def site_packages(folder):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Path(folder) / "lib" / version / "site-packages"
