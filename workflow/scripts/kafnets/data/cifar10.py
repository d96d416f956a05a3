"""CIFAR-10, from the official archive or its unpacked folder."""

import contextlib
import gzip
import hashlib
import pickle  # nosec B403
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..runtime.errors import UserError, optional
from .dataset import Dataset
from .download import DownloadError, download


@dataclass(frozen=True)
class Member:
    """One file of a data set's archive: its size in bytes and its checksums."""

    size: int
    md5: str
    sha256: str


FOLDER = "cifar-10-batches-py"

# md5 as published with torchvision; sizes and SHA-256 taken from files with those md5.
MEMBERS = {
    "data_batch_1": Member(
        31035704,
        "c99cafc152244af753f735de768cd75f",
        "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    ),
    "data_batch_2": Member(
        31035320,
        "d4bba439e000b95fd0a9bffe97cbabec",
        "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    ),
    "data_batch_3": Member(
        31035999,
        "54ebc095f3ab1f0389bbae665268c751",
        "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    ),
    "data_batch_4": Member(
        31035696,
        "634d18415352ddfa80567beed471001a",
        "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    ),
    "data_batch_5": Member(
        31035623,
        "482c414d41f54cd18b22e5b47cb7c3cb",
        "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    ),
    "test_batch": Member(
        31035526,
        "40351d587109b95175f43aff81a1287e",
        "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    ),
    "batches.meta": Member(
        158,
        "5ff9c542aee3614f3951f8cda6e48888",
        "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
    ),
}

# An archive is read member by member, in memory. One that goes on beyond these is not the official one.
MAXIMUM_MEMBERS = 64
ARCHIVE_OVERHEAD = 1 << 20

ARCHIVE_SIZE = 170_498_071
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"

ADVICE = (
    "set data.cifar10.source in config.yaml to the official cifar-10-python.tar.gz or the folder "
    f"{FOLDER}, or to null to have it downloaded (delete a damaged download first)"
)


def download_cifar10(path, **settings):
    """Downloads the official archive, of the address and MD5 that torchvision publishes, to `path`.

    Args:
        path (str or Path): where cifar-10-python.tar.gz goes.
        settings: other arguments of `kafnets.data.download.download`; they take the place of the official
            ones, for tests.

    Raises:
        UserError: when it does not arrive whole, or cannot be written.
    """
    CIFAR10 = optional("torchvision.datasets", "data").CIFAR10

    official = {
        "url": CIFAR10.url,
        "size": ARCHIVE_SIZE,
        "checksums": {"md5": CIFAR10.tgz_md5, "sha256": ARCHIVE_SHA256},
    }
    try:
        download(path=path, **{**official, **settings})
    except DownloadError as error:
        raise UserError(
            f"{error}; if it cannot be had, set data.cifar10.source in config.yaml to a copy of "
            f"cifar-10-python.tar.gz or of the folder {FOLDER}"
        ) from None


def prepare_cifar10(source=None, members=MEMBERS):
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes.

    Only the official files are read, each up to its official size, and none is unpickled before its
    checksums are verified. Nothing is extracted to disk. Source: A. Krizhevsky, "Learning Multiple Layers of
    Features from Tiny Images", 2009.

    Args:
        source (str or Path): the official archive, packed or repacked as .tar.gz or .tar, or the folder
            cifar-10-batches-py, or a folder that holds it.
        members (dict): name to `Member` of every file to read.

    Raises:
        UserError: when the source is absent, damaged or something else.
    """
    if source is None:
        raise UserError(f"cifar10: no source; {ADVICE}")
    source = Path(source)
    try:
        contents = _read_folder(source, members) if source.is_dir() else _read_archive(source, members)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}); {ADVICE}") from None
    # The checksums have shown that these are the official bytes: the only pickles this project opens.
    batches = {
        name: pickle.loads(content, encoding="latin1")  # noqa: S301  # nosec B301
        for name, content in contents.items()
    }
    train = [name for name in members if name.startswith("data_batch")]
    images = np.concatenate([batches[name]["data"] for name in train])
    labels = np.concatenate([batches[name]["labels"] for name in train])
    return Dataset(
        name="cifar10",
        train_images=_images(images),
        train_labels=torch.from_numpy(labels),
        test_images=_images(batches["test_batch"]["data"]),
        test_labels=torch.tensor(batches["test_batch"]["labels"]),
        classes=tuple(batches["batches.meta"]["label_names"]),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
    )


def _images(rows):
    """Rows of 3,072 bytes, channel by channel -> images."""
    return torch.from_numpy(rows).view(-1, 3, 32, 32)


def _read_folder(folder, members):
    """The verified contents of the files `members` of a folder, by name."""
    inner = folder / FOLDER
    if inner.is_dir():
        folder = inner
    contents = {}
    for name, member in members.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; {ADVICE}")
        with open(path, "rb") as file:
            contents[name] = _verified_member(file.read(member.size + 1), member, path)
    return contents


def _read_archive(path, members):
    """The verified contents of the files `members` of a tar archive, by name."""
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; {ADVICE}")
    contents = {}
    limit = sum(member.size for member in members.values()) + ARCHIVE_OVERHEAD
    try:
        # As a stream: an entry costs no more than the bytes read to pass it, and those are limited.
        with (
            _open_tar(path) as file,
            tarfile.open(fileobj=_Limited(file, limit, path), mode="r|") as archive,
        ):
            for count, entry in enumerate(archive):
                if count == MAXIMUM_MEMBERS:
                    raise UserError(f"{path}: more than {MAXIMUM_MEMBERS} entries; {ADVICE}")
                folder, _, name = entry.name.removeprefix("./").rpartition("/")
                if folder != FOLDER or name not in members:
                    continue
                content = _read_entry(archive, entry, members[name], f"{path}, {entry.name}")
                contents[name] = content
                if len(contents) == len(members):
                    break
    except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: truncated, damaged or no archive ({reason}); {ADVICE}") from None
    missing = [name for name in members if name not in contents]
    if missing:
        raise UserError(f"{path}: {FOLDER}/{missing[0]} is not in it; {ADVICE}")
    return contents


@contextlib.contextmanager
def _open_tar(path):
    """The bytes of a tar archive, uncompressed if it was gzipped."""
    with open(path, "rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not gzipped:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as file:
            yield file


class _Limited:
    """A file for reading that refuses to give more than `limit` bytes."""

    def __init__(self, file, limit, path):
        self.file, self.left, self.path = file, limit, path

    def read(self, size):
        self.left -= size
        if self.left < 0:
            raise UserError(f"{self.path}: unpacks to more than CIFAR-10 holds; {ADVICE}")
        return self.file.read(size)


def _read_entry(archive, entry, member, where):
    if not entry.isreg():
        raise UserError(f"{where}: is a link or special entry, not a file; {ADVICE}")
    if entry.size != member.size:
        raise UserError(f"{where}: has {entry.size} bytes, the official file {member.size}; {ADVICE}")
    return _verified_member(archive.extractfile(entry).read(member.size), member, where)


def _verified_member(content, member, where):
    if len(content) != member.size:
        raise UserError(f"{where}: has not the {member.size} bytes of the official file; {ADVICE}")
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if (md5, hashlib.sha256(content).hexdigest()) != (member.md5, member.sha256):
        raise UserError(f"{where}: its checksum is not the official file's; {ADVICE}")
    return content
