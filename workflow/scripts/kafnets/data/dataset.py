"""A prepared data set: one safetensors file of images and labels, with a JSON record beside it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ..runtime.errors import UserError
from ..runtime.files import MADE_BY, atomic_path, json_text, read_json

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into a training and a test set.

    Args:
        name (str): the name in registry.DATASETS.
        train_images (Tensor): uint8, 0 to 255, of shape :math:`(N, 3, 32, 32)`.
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

    The same images give the same bytes in both files, wherever and whenever they are prepared.

    Raises:
        UserError: when the files cannot be written; neither is left half-written then.
    """
    facts = {"name": dataset.name, "classes": list(dataset.classes), "source": dataset.source}
    # One metadata key: safetensors writes several in an order that differs between processes.
    content = safetensors.torch.save(
        {name: getattr(dataset, name).contiguous() for name in TENSORS}, {"kafnets": json.dumps(facts)}
    )
    facts["train_examples"] = len(dataset.train_labels)
    facts["test_examples"] = len(dataset.test_labels)
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    with atomic_path(path) as tensors_file, atomic_path(record) as record_file:
        tensors_file.write_bytes(content)
        record_file.write_text(json_text(facts), encoding="utf-8")


def load(path, train_examples=None, test_examples=None):
    """Loads a prepared data set, verified against the JSON record beside it (same name, suffix .json).

    A subset takes the same images on every machine, as many of each class as of any other (one more or
    less where the number does not divide evenly), spread over the whole set; a smaller subset is a part of
    every larger one. Images keep their order in the file.

    Args:
        path (str or Path): the safetensors file.
        train_examples (int, optional): how many training images to keep. Default: all.
        test_examples (int, optional): how many test images to keep. Default: all.

    Raises:
        UserError: when a file is absent or its bytes are not the ones that were prepared, or when more
            examples are asked for than there are.
    """
    path = Path(path)
    content, checksum = _verified(path, path.with_suffix(".json"))
    header_size = int.from_bytes(content[:8], "little")
    facts = json.loads(json.loads(content[8 : 8 + header_size])["__metadata__"]["kafnets"])
    tensors = safetensors.torch.load(content)
    for split, examples in (("train", train_examples), ("test", test_examples)):
        if examples is not None:
            labels = tensors[f"{split}_labels"]
            _check_examples(f"{split}_examples", examples, len(labels), facts["name"])
            kept = torch.from_numpy(np.sort(balanced_order(labels.numpy())[:examples]))
            tensors[f"{split}_images"] = tensors[f"{split}_images"][kept]
            tensors[f"{split}_labels"] = labels[kept]
    return Dataset(
        facts["name"],
        classes=tuple(facts["classes"]),
        source=facts["source"],
        sha256=checksum,
        **tensors,
    )


def _verified(path, record):
    """The bytes of `path` and their SHA-256: read once, so that what was verified is what is used."""
    again = f"delete {path} and {record} to have them prepared again"
    for file in (path, record):
        if not file.is_file():
            raise UserError(f"{file}: no such file; {MADE_BY}")
    facts = read_json(record)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {again}") from None
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != facts.get("sha256"):
        raise UserError(f"{path}: its checksum is not the one in its record; {again}")
    return content, checksum


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
