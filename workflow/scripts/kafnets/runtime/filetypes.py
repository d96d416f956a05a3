"""What a file is by its first bytes, for those who were given another kind than they read."""

import json
import os
import zipfile
from pathlib import Path

from .errors import UserError

SAFETENSORS, TORCH = "a safetensors file", "a PyTorch file (torch.save)"

_BY_HAND = (
    "give its arrays this network's names and axis orders, and pass that dict to kafnets.load_state_dict"
)
_KERAS = f"(Keras, TensorFlow), whose names and axis orders are others: {_BY_HAND}"
_TORCHSCRIPT = (
    "a TorchScript file: pass torch.jit.load(path).state_dict() to kafnets.load_state_dict, if you trust its "
    "author: it holds code"
)
_PICKLE = (
    "a Python pickle, which can run code and is not opened: where it was made, write its state_dict with "
    "torch.save or safetensors"
)
_COMPRESSED = "a compressed file or an archive: unpack it first"
_PAGE = "a web page: the address led to a page about the file; download the file itself"
_STARTS = (
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file {_KERAS}"),
    (b"\x93NUMPY", f"a NumPy file: {_BY_HAND}"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    *(
        (start, _COMPRESSED)
        for start in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
    ),
    *((bytes((0x80, protocol)), _PICKLE) for protocol in range(2, 6)),
)
_TORCH_BEFORE_1_6 = b"l\xfc\x9cF\xf9 j\xa8P\x19."  # in the pickle that such a file starts with
# A zip file is what it holds: (the end of a member's name, what that makes of it), the first that fits.
_MEMBERS = (
    ("/constants.pkl", _TORCHSCRIPT),
    ("data.pkl", TORCH),
    ("models/model.json", f"a program of torch.export: pass torch.export.load(path).state_dict: {_BY_HAND}"),
    (".weights.h5", f"a .keras file {_KERAS}"),
    ("saved_model.pb", f"a zipped SavedModel {_KERAS}"),
    (".npy", f"a NumPy .npz file: {_BY_HAND}"),
)


def recognise(path):
    """Which kind of weights file `path` is: :data:`SAFETENSORS` or :data:`TORCH`.

    A safetensors file has a header that is JSON and all the bytes which that promises.

    Raises:
        UserError: when it is absent, a folder, unreadable, empty, cut short or of another kind; the message
            says which, and what to do.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is {_folder(path)}")
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(512)
            found = _kind(file, start, size)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if found in (SAFETENSORS, TORCH):
        return found
    raise UserError(f"{path}: is {found}")


def _kind(file, start, size):
    if not start:
        return "empty: copy or download it again"
    if start.startswith(b"PK\x03\x04"):
        return _zip(file)
    if _TORCH_BEFORE_1_6 in start[:32]:
        return TORCH
    # before the others: the size of a header may begin as a pickle does (0x280 = 640, 0x380, ...)
    if start[4:9] == b"\0\0\0\0{":
        return _safetensors(file, size)
    for beginning, found in _STARTS:
        if start.startswith(beginning):
            return found
    if start[257:262] == b"ustar":
        return _COMPRESSED
    if start[8:9] == b"{":
        return _safetensors(file, size)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return _PAGE
    if text.startswith((b"{", b"[")):
        return "JSON text, not weights"
    return "no weights file of a known kind (safetensors and torch.save are read)"


def _folder(path):
    if (path / "saved_model.pb").is_file():
        return f"a SavedModel folder {_KERAS}"
    inside = sorted(name for name in os.listdir(path) if name.endswith((".safetensors", ".pt", ".pth")))
    return f"a folder; give the file in it: {path / inside[0]}" if inside else "a folder, not a weights file"


def _zip(file):
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "cut short or damaged (a zip file, as torch.save and Keras write): copy or download it again"
    for end, found in _MEMBERS:
        if any(name.endswith(end) for name in names):
            return found
    return _COMPRESSED


def _safetensors(file, size):
    """A header's size in 8 bytes, the header, and the bytes of which it says where each tensor ends."""
    file.seek(0)
    header_size = int.from_bytes(file.read(8), "little")
    again = "copy or download it again"
    if header_size > size - 8:
        return f"a safetensors file cut short, or no weights file: {again}"
    try:
        header = json.loads(file.read(header_size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + header_size + max(ends, default=0)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return f"a safetensors file with a damaged header: {again}"
    if size < whole:
        return f"a safetensors file cut short ({size:,} of {whole:,} bytes are there): {again}"
    return SAFETENSORS
