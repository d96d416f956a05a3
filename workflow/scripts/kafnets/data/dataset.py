"""A prepared data set: one safetensors file of images and labels, with a JSON record beside it."""

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ..runtime.errors import UserError
from ..runtime.files import MADE_BY, atomic_path, json_text, read_json, sha256

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
# What takes more bytes stays in a file, mapped into memory: only the images in use are there.
MAPPED_BYTES = 1 << 30
_SLICE = 1 << 24
# in a file the wider type comes first
_TYPES = {torch.int64: "I64", torch.uint8: "U8"}


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into a training and a test set.

    Args:
        name (str): the name in registry.DATASETS.
        train_images (Tensor): uint8, 0 to 255, of shape :math:`(N, C, H, W)`.
        train_labels (Tensor): int64 indices into `classes`, of shape :math:`(N,)`.
        test_images (Tensor): as `train_images`.
        test_labels (Tensor): as `train_labels`.
        classes (tuple of str): the names of the classes.
        source (str): where the images come from.
        sha256 (str): the checksum of the file it was loaded from; empty before it is saved.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    source: str
    sha256: str = ""


def save(dataset, path, record):
    """Writes a data set as safetensors to `path` and the JSON record that `load` verifies it against.

    The same images give the same bytes in both files, wherever and whenever they are prepared. They are
    written slice by slice, so that the data set may be larger than the memory.

    Raises:
        UserError: when the images are not uint8 or the labels not int64, or the files cannot be written;
            neither is left half-written then.
    """
    facts = {"name": dataset.name, "classes": list(dataset.classes), "source": dataset.source}
    digest = hashlib.sha256()
    with atomic_path(path) as tensors_file, atomic_path(record) as record_file:
        with open(tensors_file, "wb") as file:
            for part in _parts(dataset, facts):
                file.write(part)
                digest.update(part)
        facts["train_examples"] = len(dataset.train_labels)
        facts["test_examples"] = len(dataset.test_labels)
        facts["sha256"] = digest.hexdigest()
        record_file.write_text(json_text(facts), encoding="utf-8")


def _parts(dataset, facts):
    """The bytes of a safetensors file, as that library writes them, in slices."""
    tensors = {name: getattr(dataset, name).contiguous() for name in sorted(TENSORS)}
    wrong = next((name for name, tensor in tensors.items() if tensor.dtype not in _TYPES), None)
    if wrong is not None:
        raise UserError(f"{wrong}: is {tensors[wrong].dtype}; prepare uint8 images and int64 labels")
    tensors = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    # One metadata key: safetensors writes several in an order that differs between processes.
    header, start = {"__metadata__": {"kafnets": json.dumps(facts)}}, 0
    for name, tensor in tensors:
        end = start + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in tensors:
        yield from (part.numpy() for part in tensor.flatten().view(torch.uint8).split(_SLICE))


def room(shape, dtype=torch.uint8):
    """An empty tensor; one of more than `MAPPED_BYTES` lies in a temporary file that has no name any more.

    Raises:
        UserError: when the folder of temporary files has no room.
    """
    count = math.prod(shape)
    if count * dtype.itemsize <= MAPPED_BYTES:
        return torch.empty(shape, dtype=dtype)
    try:
        with tempfile.NamedTemporaryFile(prefix="kafnets-") as file:
            # all of it at once: a disk that is full later would end the process
            os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
            return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(shape)
    except OSError as error:
        raise UserError(
            f"cannot keep {count * dtype.itemsize} bytes in {tempfile.gettempdir()} ({error.strerror}); let "
            "the environment variable TMPDIR name a folder with room"
        ) from None


def chosen(tensor, numbers):
    """The rows `numbers` of a tensor, where :func:`room` has it."""
    made = room((len(numbers), *tensor.shape[1:]), tensor.dtype)
    return torch.index_select(tensor, 0, numbers, out=made)


def load(path, train_examples=None, test_examples=None):
    """Loads a prepared data set, verified against the JSON record beside it (same name, suffix .json).

    A subset takes the same images on every machine, as many of each class as of any other (one more or
    less where the number does not divide evenly), spread over the whole set; a smaller subset is a part of
    every larger one. Images keep their order in the file. A file of more than `MAPPED_BYTES` is not read but
    mapped into memory: while it is in use it may be replaced, never changed.

    Args:
        path (str or Path): the safetensors file.
        train_examples (int, optional): how many training images to keep. Default: all.
        test_examples (int, optional): how many test images to keep. Default: all.

    Raises:
        UserError: when a file is absent or its bytes are not the ones that were prepared, or when more
            examples are asked for than there are.
    """
    path = Path(path)
    text, tensors, checksum = _verified(path, path.with_suffix(".json"))
    facts = json.loads(text)
    for split, examples in (("train", train_examples), ("test", test_examples)):
        if examples is not None:
            labels = tensors[f"{split}_labels"]
            _check_examples(f"{split}_examples", examples, len(labels), facts["name"])
            kept = torch.from_numpy(np.sort(balanced_order(labels.numpy())[:examples]))
            tensors[f"{split}_images"] = chosen(tensors[f"{split}_images"], kept)
            tensors[f"{split}_labels"] = labels[kept]
    return Dataset(
        facts["name"],
        classes=tuple(facts["classes"]),
        source=facts["source"],
        sha256=checksum,
        **tensors,
    )


def _verified(path, record):
    """The facts, tensors and SHA-256 of `path`: read once, so that what was verified is what is used."""
    again = f"delete {path} and {record} to have them prepared again"
    for file in (path, record):
        if not file.is_file():
            raise UserError(f"{file}: no such file; {MADE_BY}")
    facts = read_json(record)
    try:
        if path.stat().st_size > MAPPED_BYTES:
            checksum, parse = sha256(path), partial(_mapped, path)
        else:
            content = path.read_bytes()
            checksum, parse = hashlib.sha256(content).hexdigest(), partial(_parsed, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {again}") from None
    if checksum != facts.get("sha256"):
        raise UserError(f"{path}: its checksum is not the one in its record; {again}")
    return *parse(), checksum


def _parsed(content):
    header_size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_size])["__metadata__"]
    return metadata["kafnets"], safetensors.torch.load(content)


def _mapped(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()["kafnets"], {name: file.get_tensor(name) for name in TENSORS}


def _check_examples(key, examples, available, name):
    if isinstance(examples, bool) or not isinstance(examples, int) or not 1 <= examples <= available:
        raise UserError(
            f"{key}: {examples!r} is not possible, {name} has {available} {key.partition('_')[0]} images; "
            f"write a whole number from 1 to {available}, or null for all"
        )


def balanced_order(labels):
    """Indices in an order of which every beginning holds equally many examples of each class.

    The example that comes k-th among those of its class in a fixed permutation has rank k; the order goes by
    rank, and within a rank by that permutation.
    """
    # RandomState, because its streams are frozen for good; those of numpy's newer Generator are not.
    order = np.random.RandomState(0).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels[order] == label
        rank[members] = np.arange(members.sum())
    return order[np.argsort(rank, kind="stable")]
