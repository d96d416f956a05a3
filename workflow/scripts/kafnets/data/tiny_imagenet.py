"""Tiny ImageNet, from the official archive or its unpacked folder."""

import tempfile
import zipfile
import zlib
from pathlib import Path

import torch

from ..runtime.errors import UserError
from .dataset import Dataset
from .image_folder import decoded
from .official import FILES, advice, check

FOLDER = "tiny-imagenet-200"
SIZE = 64
ADVICE = advice("tiny_imagenet", f"the official {FOLDER}.zip or its unpacked folder {FOLDER}")


def prepare_tiny_imagenet(source=None, archive=FILES[f"{FOLDER}.zip"], examples=(100_000, 10_000)):
    """Tiny ImageNet: 100,000 training images of 200 classes, 64 x 64; to test, its validation's 10,000.

    The labels of the test images proper were never published. Of an archive size and checksums are compared;
    of the unpacked files none are known. Source: Y. Le and X. Yang, "Tiny ImageNet Visual Recognition
    Challenge", Stanford CS 231N, 2015.

    Args:
        source (str or Path): the official archive, or the folder tiny-imagenet-200, or one that holds it.
        archive (Official): what an archive must be.
        examples (pair of ints): how many images there must be.

    Raises:
        UserError: when the source is absent, damaged or something else.
    """
    if source is None:
        raise UserError(f"tiny_imagenet: no source; {ADVICE}")
    source = Path(source)
    if source.is_dir():
        return _read(source / FOLDER if (source / FOLDER).is_dir() else source, examples)
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder; {ADVICE}")
    check(source, archive, ADVICE)
    with tempfile.TemporaryDirectory() as scratch:
        _unpack(source, Path(scratch))
        return _read(Path(scratch, FOLDER), examples)


def _unpack(source, scratch):
    """All but the test images, which have no labels."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = [name for name in archive.namelist() if not name.startswith(f"{FOLDER}/test/")]
            archive.extractall(scratch, names)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{source}: cannot be unpacked ({error}); {ADVICE}") from None


def _read(folder, examples):
    classes = sorted(_lines(folder / "wnids.txt"))
    numbers = {name: number for number, name in enumerate(classes)}
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    found = {
        "train": [
            (file, numbers[name])
            for name in classes
            for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))
        ],
        "test": [
            (folder / "val" / "images" / name, numbers[label])
            for name, label, *_ in map(str.split, _lines(folder / "val" / "val_annotations.txt"))
            if label in numbers
        ],
    }
    tensors = {}
    for (split, files), wanted in zip(found.items(), examples, strict=True):
        if len(files) != wanted:
            raise UserError(f"{folder}: has {len(files)} {split} images, the official set {wanted}; {ADVICE}")
        tensors[f"{split}_images"] = decoded([file for file, _ in files], SIZE)
        tensors[f"{split}_labels"] = torch.tensor([label for _, label in files])
    return Dataset(
        name="tiny_imagenet",
        classes=tuple(words.get(name, name).partition(",")[0] for name in classes),
        source="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        **tensors,
    )


def _lines(path):
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); {ADVICE}") from None
