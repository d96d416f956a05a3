"""A conda channel of stubs: conda-forge's names and versions, and inside links to what is installed here.

A stub of Python is a virtual environment, so its own version is that of these tests, whatever it is called.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

from tests import standin
from tests.conda_forge import CONDA_FORGE, NOT_IN_CONDA_FORGE, NOT_PYTHON, PYPI

SITE_PACKAGES = standin.site_packages("").as_posix()


def write(folder):
    """Writes the channel conda-forge to `folder`; CONDA_CHANNEL_ALIAS is to be its address.

    It has what the tables of tests/conda_forge.py say, and all that these require.
    """
    channel = folder / "conda-forge"
    records = [_package(channel, "python", CONDA_FORGE["python"][0], [], _python())]
    records.append(_package(channel, "cxx-compiler", CONDA_FORGE["cxx-compiler"][0], [], {}))
    names = {standin.canonical(PYPI.get(name, name)): name for name in CONDA_FORGE}
    newest = {name: version for name, (version, *_) in (NOT_IN_CONDA_FORGE | CONDA_FORGE).items() if version}
    wanted = [PYPI.get(name, name) for name in newest.keys() - NOT_PYTHON]
    for home, distribution in standin.required([*wanted, "pip"]).items():
        name = names.get(home, home)
        needed = [names.get(other, other) for other in standin.required([distribution.name]) if other != home]
        version = newest.get(name, distribution.version)
        records.append(_package(channel, name, version, ["python", *needed], _links(folder, distribution)))
    for subdir in ("linux-64", "noarch"):
        (channel / subdir).mkdir(exist_ok=True)
        found = {record["fn"]: record for record in records} if subdir == "linux-64" else {}
        content = {"info": {"subdir": subdir}, "packages": found, "packages.conda": {}}
        (channel / subdir / "repodata.json").write_text(json.dumps(content))


def _python():
    """The files of a virtual environment, as `venv` writes them."""
    base = sys._base_executable  # as `venv` itself takes it
    home = f"home = {Path(base).parent}\ninclude-system-site-packages = false\n"
    return {"pyvenv.cfg": home, "bin/python": Path(base), f"{SITE_PACKAGES}/stub.txt": ""}


def _links(folder, distribution):
    """A file that puts a folder of links to one distribution on Python's path."""
    links = folder / "links" / distribution.name
    links.mkdir(parents=True)
    for target in standin.contents(distribution.name):
        (links / target.name).symlink_to(target)
    return {f"{SITE_PACKAGES}/{distribution.name}-stub.pth": f"{links}\n"}


def _package(channel, name, version, depends, files):
    """Writes one package to the channel; returns its line of repodata.json."""
    (channel / "linux-64").mkdir(parents=True, exist_ok=True)
    index = {
        "name": name,
        "version": version,
        "build": "0",
        "build_number": 0,
        "depends": depends,
        "subdir": "linux-64",
        "arch": "x86_64",
        "platform": "linux",
    }
    path = channel / "linux-64" / f"{name}-{version}-0.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        _add(archive, "info/index.json", json.dumps(index))
        _add(archive, "info/files", "".join(f"{file}\n" for file in files))
        for file, content in files.items():
            _add(archive, file, content)
    content = path.read_bytes()
    sums = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
    return {**index, **sums, "fn": path.name, "size": len(content)}


def _add(archive, name, content):
    """Adds a file of this text, or a link to this path."""
    member = tarfile.TarInfo(name)
    if isinstance(content, Path):
        member.type, member.linkname = tarfile.SYMTYPE, str(content)
        archive.addfile(member)
    else:
        member.size, member.mode = len(content.encode()), 0o644
        archive.addfile(member, io.BytesIO(content.encode()))
