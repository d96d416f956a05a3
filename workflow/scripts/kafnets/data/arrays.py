"""Data sets in a file of arrays: .npz of NumPy, or .safetensors."""

import math
from pathlib import Path

import numpy as np
import torch

from .. import sources
from ..runtime.errors import UserError
from .dataset import Dataset, room

_READ = 1 << 24  # bytes at once


def prepare_arrays(source=None, name="arrays"):
    """A data set of arrays of one's own: `train_images`, `train_labels`, `test_images`, `test_labels`.

    Or `x_train`, `y_train`, `x_test`, `y_test`; without a test set what is called `val`. The classes are
    named by their labels' numbers. Images are read in slices: there may be more than the memory holds.

    Args:
        source (str or Path): a file .npz or .safetensors. Images are unsigned bytes from 0 to 255 of shape
            :math:`(N, H, W)`, :math:`(N, C, H, W)` or :math:`(N, H, W, C)`, with 1 or 3 channels; labels are
            whole numbers from 0 on, one an image. Nothing in it is unpickled.
        name (str): of the data set.

    Raises:
        UserError: when the file is absent, damaged or something else.
    """
    if source is None:
        raise UserError(f"{name}: no source; write datasets.{name}.source, the path of a file of arrays")
    entry = sources.described(name, source)  # all that the workflow checks too
    found = sources.arrays(Path(source))
    tensors = {}
    for split in ("train", "test"):
        tensors[f"{split}_images"] = _images(found[f"{split}_images"])
        (labels,) = _slices(found[f"{split}_labels"], rows=len(tensors[f"{split}_images"]))
        tensors[f"{split}_labels"] = torch.from_numpy(labels.reshape(-1).astype(np.int64))
    return Dataset(
        name, classes=tuple(map(str, range(entry["classes"]))), source="arrays of the user's own", **tensors
    )


def _images(stored):
    axis, channels, rows, columns = sources.image_shape(stored, stored.path)
    made = room((stored.shape[0], channels, rows, columns))
    # one in Fortran's order has no slices of images
    at_once = max(1, _READ // (channels * rows * columns)) if stored.in_order else stored.shape[0]
    start = 0
    for part in _slices(stored, at_once):
        images = part[:, None] if axis is None else np.moveaxis(part, axis, 1)
        made[start : start + len(images)] = torch.from_numpy(np.ascontiguousarray(images))
        start += len(images)
    return made


def _slices(stored, rows):
    """An array in parts of so many rows."""
    kind, inner = np.dtype(stored.kind), stored.shape[1:]
    with stored.opened() as file:
        for start in range(0, stored.shape[0], rows):
            shape = (min(rows, stored.shape[0] - start), *inner)
            content = bytearray(file.read(math.prod(shape) * kind.itemsize))
            if len(content) != math.prod(shape) * kind.itemsize:
                raise UserError(f"{stored.path}: ends too early; write a whole file")
            yield np.frombuffer(content, kind).reshape(shape, order="C" if stored.in_order else "F")
