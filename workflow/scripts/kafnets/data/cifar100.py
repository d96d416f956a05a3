"""CIFAR-100, from the official archive or its unpacked folder."""

import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch

from ..runtime.errors import UserError, optional
from .dataset import Dataset
from .official import FILES, advice, check

_ARCHIVE = "cifar-100-python.tar.gz"
ADVICE = advice("cifar100", f"the official {_ARCHIVE} or the folder cifar-100-python")


def prepare_cifar100(source=None, reader=None, archive=FILES[_ARCHIVE]):
    """CIFAR-100: 50,000 training and 10,000 test images of a hundred classes.

    torchvision reads the files, which are pickles, after their MD5; of an archive also size and SHA-256 are
    compared before, and only its three files are unpacked, into a temporary folder. Source: A. Krizhevsky,
    "Learning Multiple Layers of Features from Tiny Images", 2009.

    Args:
        source (str or Path): the official archive, or the folder cifar-100-python, or one that holds it.
        reader (type): of torchvision, with other checksums for tests.
        archive (Official): what an archive must be.

    Raises:
        UserError: when the source is absent, damaged or something else.
    """
    if source is None:
        raise UserError(f"cifar100: no source; {ADVICE}")
    reader = reader or optional("torchvision.datasets", "data").CIFAR100
    source = Path(source)
    if source.is_dir():
        inner = source / reader.base_folder
        return _read(reader, inner if inner.is_dir() else source)
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder; {ADVICE}")
    check(source, archive, ADVICE)
    with tempfile.TemporaryDirectory() as scratch:
        _unpack(source, reader, scratch)
        return _read(reader, Path(scratch, reader.base_folder))


def _files(reader):
    """The names of the files, with their MD5."""
    return dict([*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])])


def _unpack(source, reader, folder):
    wanted = [f"{reader.base_folder}/{name}" for name in _files(reader)]
    try:
        with tarfile.open(source) as archive:
            for name in wanted:
                archive.extract(name, folder, filter="data")
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        raise UserError(f"{source}: cannot be unpacked ({error}); {ADVICE}") from None


def _read(reader, folder):
    for name, md5 in _files(reader).items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file; {ADVICE}")
        if not optional("torchvision.datasets.utils", "data").check_integrity(path, md5):
            raise UserError(f"{path}: its checksum is not the official file's; {ADVICE}")
    here = type("Here", (reader,), {"base_folder": folder.name})
    train, test = (here(folder.parent, train=train) for train in (True, False))
    return Dataset(
        name="cifar100",
        train_images=_images(train.data),
        train_labels=torch.tensor(train.targets),
        test_images=_images(test.data),
        test_labels=torch.tensor(test.targets),
        classes=tuple(train.classes),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
    )


def _images(rows):
    """Images with their channels last -> first."""
    return torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2)))
