"""Images of a user's own, a folder or a file of arrays: what is in it, told without reading an image.

Imports nothing heavy: the workflow reads it in a process that has no torch.
"""

import ast
import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from .runtime.errors import UserError

# What make a `kafnets.data.Dataset` of them.
OF_FOLDERS, OF_ARRAYS = "kafnets.data.image_folder:prepare_folder", "kafnets.data.arrays:prepare_arrays"
ARRAY_FILES = (".npz", ".safetensors")
TRAIN, TESTS = "train", ("test", "val", "valid", "validation")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_LAYOUT = "a folder with train/CLASS/ and test/CLASS/ (or val/CLASS/), the images in these"
_NAMES = {  # of the arrays in a file; the first of each line that is there
    "train_images": ("train_images", "x_train"),
    "train_labels": ("train_labels", "y_train"),
    "test_images": ("test_images", "x_test", "val_images", "x_val"),
    "test_labels": ("test_labels", "y_test", "val_labels", "y_val"),
}
_WHOLE_NUMBERS = {
    "|u1": "B",
    "|i1": "b",
    "<u2": "H",
    "<i2": "h",
    "<u4": "I",
    "<i4": "i",
    "<u8": "Q",
    "<i8": "q",
}
_OF_SAFETENSORS = {"BOOL": "|b1", "F16": "<f2", "F32": "<f4", "F64": "<f8"} | {
    f"{kind.upper()}{8 * int(size)}": f"{order}{kind}{size}" for order, kind, size in _WHOLE_NUMBERS
}
_MOST_HEADER = 100_000_000
_DAMAGE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Stored(NamedTuple):
    """An array in a file, not read."""

    path: Path
    member: str  # of an archive; "" in a file of its own
    start: int  # where its bytes begin, in the member or the file
    kind: str  # of its numbers, as NumPy writes it
    shape: tuple
    in_order: bool  # the last index runs fastest

    @contextlib.contextmanager
    def opened(self):
        """A binary file in which its bytes come next.

        Raises:
            UserError: when it is damaged.
        """
        try:
            with open(self.path, "rb") as file, contextlib.ExitStack() as stack:
                if self.member:
                    archive = stack.enter_context(zipfile.ZipFile(file))
                    file = stack.enter_context(archive.open(self.member))
                file.seek(self.start)
                yield file
        except _DAMAGE as error:
            raise UserError(f"{self.path}: cannot be read ({error}); write a whole file") from None


def described(name, source, size=None, channels=None):
    """What the registry says of a data set of a user's own files: arguments of `Entry`.

    Args:
        name (str): of the data set.
        source (str or Path): the folder or file.
        size (int, optional): rows and columns to which the images of a folder are brought.
        channels (int, optional): of an image of a folder, 1 or 3. Default: 3

    Raises:
        UserError: when it is something else, or too little is known or there.
    """
    path = Path(source)
    if path.is_dir():
        return _of_folder(name, path, size, channels or 3)
    if path.suffix not in ARRAY_FILES or not path.is_file():
        what = f"is no {' or '.join(ARRAY_FILES)} file" if path.is_file() else "does not exist"
        raise UserError(f"{path}: {what}; write {_LAYOUT}, or a file of arrays")
    for key, value in (("size", size), ("channels", channels)):
        if value is not None:
            raise UserError(f"{path}: a file of arrays has its own {key}; leave it out, or write a folder")
    found = arrays(path)
    _, channels, rows, columns = image_shape(found["train_images"], path)
    if rows != columns:
        raise UserError(f"{path}: its images are of {rows} x {columns} pixels; write one with square images")
    return {
        "target": OF_ARRAYS,
        "arguments": {"name": name},
        "examples": tuple(len_of(found[f"{split}_labels"]) for split in ("train", "test")),
        "classes": 1 + max(_highest(found[f"{split}_labels"]) for split in ("train", "test")),
        "channels": channels,
        "size": rows,
    }


# -- folders of images


def _of_folder(name, path, size, channels):
    if size is None:
        raise UserError(f"{path}: is a folder; write size too, the rows of an image, as in size: 64")
    found = images(path)
    return {
        "target": OF_FOLDERS,
        "arguments": {"name": name, "size": size, "channels": channels},
        "examples": tuple(sum(map(len, split.values())) for split in found),
        "classes": len(found[0]),
        "channels": channels,
        "size": size,
    }


def images(path):
    """The training and the test images of a folder: for each a dict of classes to the paths below it.

    Classes and images are in the order of their names, wherever the folder lies.

    Raises:
        UserError: when there are none, or those of the test are not of the training's classes.
    """
    train = _classes(path / TRAIN)
    if len(train) < 2:
        found = f"{TRAIN} has {len(train) or 'no'} folder{'s' * (len(train) != 1)} of a class"
        raise UserError(f"{path}: {found}; write {_LAYOUT}")
    found = {name: _classes(path / name) for name in TESTS}
    test = next((name for name, classes in found.items() if classes), None)
    if test is None:
        raise UserError(f"{path}: has no test images, in {' or '.join(TESTS)}; write {_LAYOUT}")
    strange = sorted(found[test].keys() - train.keys())
    if strange:
        raise UserError(f"{path}: {TRAIN} has no class {strange[0]}, but {test} has it; write {_LAYOUT}")
    for split, classes in ((TRAIN, train), (test, found[test])):
        empty = next((name for name, files in classes.items() if not files), None)
        if empty is not None:
            kinds = ", ".join(IMAGES)
            raise UserError(f"{path}: {split}/{empty} holds no image ({kinds}); write {_LAYOUT}")
    return train, found[test]


def _classes(folder):
    """The folders in a folder, each with the images below it; none where there is no such folder."""
    if not folder.is_dir():
        return {}
    try:
        with os.scandir(folder) as found:
            names = sorted(one.name for one in found if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); write {_LAYOUT}") from None
    return {name: _images_below(folder / name) for name in names}


def _images_below(folder):
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(IMAGES) and not name.startswith("."):
                found.append(Path(root, name))
    return sorted(found)


def state(path):
    """A checksum of the names, sizes and times of all files below a folder, in hexadecimal."""
    digest = hashlib.sha256()
    lines = []
    for root, _, files in os.walk(path, followlinks=True):
        for name in files:
            file = Path(root, name)
            try:
                stat = file.stat()
            except OSError:  # a link to nothing
                continue
            lines.append(f"{file.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    for line in sorted(lines):
        digest.update(os.fsencode(line))
    return digest.hexdigest()


# -- files of arrays


def arrays(path):
    """The four arrays of a data set in a file, by the names that `Dataset` has for them.

    Raises:
        UserError: when one of them is not there, or they do not go together.
    """
    there = _stored(path)
    found = {}
    for name, names in _NAMES.items():
        known = next((one for one in names if one in there), None)
        if known is None:
            raise UserError(
                f"{path}: has no array {' or '.join(names)}, but {', '.join(there) or 'none'}; write one "
                f"with {', '.join(_NAMES)}"
            )
        found[name] = there[known]
    for split in ("train", "test"):
        labels, pixels = found[f"{split}_labels"], found[f"{split}_images"]
        if labels.kind not in _WHOLE_NUMBERS or labels.shape[1:] not in ((), (1,)):
            said = f"the {split} labels are {labels.kind} of shape {labels.shape}"
            raise UserError(f"{path}: {said}; write a whole number for each image")
        if pixels.kind != "|u1":
            raise UserError(
                f"{path}: the {split} images are {pixels.kind}; write unsigned bytes (uint8), from 0 to 255"
            )
        if not len_of(pixels) == len_of(labels) or not len_of(labels):
            raise UserError(
                f"{path}: has {len_of(pixels)} {split} images and {len_of(labels)} labels; write as many"
            )
    shapes = [image_shape(found[f"{split}_images"], path)[1:] for split in ("train", "test")]
    if shapes[0] != shapes[1]:
        training, test = (" x ".join(map(str, shape)) for shape in shapes)
        raise UserError(f"{path}: training images are {training}, test images {test}; write one shape")
    return found


def len_of(stored):
    return stored.shape[0] if stored.shape else 0


def image_shape(stored, path):
    """The axis of the channels (None: there is none), and channels, rows and columns of an array of images.

    Raises:
        UserError: when the axis cannot be told.
    """
    shape = stored.shape
    if len(shape) == 3:
        return None, 1, shape[1], shape[2]
    first, last = ((len(shape) == 4 and shape[axis] in (1, 3)) for axis in (1, 3))
    if first == last:
        problem = f"images of shape {shape} say not which axis is that of 1 or 3 channels"
        raise UserError(f"{path}: {problem}; write (images, channels, rows, columns)")
    return (1, *shape[1:]) if first else (3, shape[3], shape[1], shape[2])


def _highest(labels):
    size = int(labels.kind[-1]) * len_of(labels)
    with labels.opened() as file:
        content = file.read(size)
    if len(content) != size:
        raise UserError(f"{labels.path}: ends too early; write a whole file")
    values = memoryview(content).cast(_WHOLE_NUMBERS[labels.kind])
    if min(values) < 0:
        raise UserError(f"{labels.path}: has a label {min(values)}; write labels from 0 on")
    return max(values)


def _stored(path):
    read = _in_npz if path.suffix == ".npz" else _in_safetensors
    try:
        return read(path)
    except (*_DAMAGE, ValueError, SyntaxError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: is no {path.suffix} file ({reason}); write a whole one") from None


def _in_npz(path):
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = _of_npy(path, member, file)
    return found


def _of_npy(path, member, file):
    begin = file.read(8)
    if begin[:6] != b"\x93NUMPY":
        raise ValueError(f"{member} is no array")
    width = 2 if begin[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _MOST_HEADER:
        raise ValueError(f"{member} has no header")
    header = ast.literal_eval(file.read(length).decode("latin1"))
    kind = header["descr"]
    if not isinstance(kind, str):
        raise ValueError(f"{member} is a table")
    shape = tuple(map(int, header["shape"]))
    in_order = not header["fortran_order"] or len(shape) < 2
    return Stored(path, member, 8 + width + length, kind, shape, in_order)


def _in_safetensors(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER:
            raise ValueError("it has no header")
        header = json.loads(file.read(length))
    return {
        name: Stored(
            path,
            "",
            8 + length + facts["data_offsets"][0],
            _OF_SAFETENSORS.get(facts["dtype"], facts["dtype"]),
            tuple(map(int, facts["shape"])),
            True,
        )
        for name, facts in header.items()
        if name != "__metadata__"
    }
