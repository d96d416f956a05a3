"""The official files of data sets: where they are, their sizes and their checksums."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..runtime.errors import UserError
from ..runtime.files import sha256
from .download import DownloadError, download


@dataclass(frozen=True)
class Official:
    """One file: its address, its size in bytes, and its checksums in hexadecimal."""

    url: str
    size: int
    md5: str
    sha256: str


_SVHN = "https://ufldl.stanford.edu/housenumbers"
# MD5 of the first three as published with torchvision, of the last as many loaders in public repositories
# have it; sizes and SHA-256 as public mirrors of files with those MD5 give them.
FILES = {
    "cifar-100-python.tar.gz": Official(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        169_001_437,
        "eb9058c3a382ffc7106e4002c42a8d85",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    "train_32x32.mat": Official(
        f"{_SVHN}/train_32x32.mat",
        182_040_794,
        "e26dedcc434d2e4c54c9b2d4a06d8373",
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    "test_32x32.mat": Official(
        f"{_SVHN}/test_32x32.mat",
        64_275_384,
        "eb5a983be6a315427106f1b164d9cef3",
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
    "tiny-imagenet-200.zip": Official(
        "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        248_100_043,
        "90528d7ca1a48142e341f4ef8d21d0de",
        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ),
}


def advice(dataset, what):
    """What to do about a source that is not right; `what`: in words what it may be."""
    return (
        f"set data.{dataset}.source in config.yaml to {what}, or to null to have it downloaded (delete a "
        "damaged download first)"
    )


def fetch(name, path, **settings):
    """Downloads the official file `name` to `path`; only its own host is asked.

    Args:
        name (str): of `FILES`.
        path (str or Path): where it goes.
        settings: other arguments of :func:`kafnets.data.download.download`, which take the place of the
            official ones.

    Raises:
        UserError: when it does not arrive whole, or cannot be written.
    """
    file = FILES[name]
    official = {
        "url": file.url,
        "size": file.size,
        "checksums": {"md5": file.md5, "sha256": file.sha256},
        "origins": ("://".join(urlsplit(file.url)[:2]),),
    }
    try:
        download(path=path, **{**official, **settings})
    except DownloadError as error:
        raise UserError(
            f"{error}; if it cannot be had, set data.NAME.source in config.yaml to a copy of {name}"
        ) from None


def check(path, file, to_do):
    """Checks that a file is the official one, whatever it is called.

    Args:
        path (Path): the file.
        file (Official): what it must be.
        to_do (str): what its user may do instead, of :func:`advice`.

    Raises:
        UserError: when it is not.
    """
    try:
        size = Path(path).stat().st_size
        same = size == file.size and _md5(path) == file.md5 and sha256(path) == file.sha256
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {to_do}") from None
    if size != file.size:
        raise UserError(f"{path}: has {size} bytes, the official file {file.size}; {to_do}")
    if not same:
        raise UserError(f"{path}: its checksum is not the official file's; {to_do}")


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
