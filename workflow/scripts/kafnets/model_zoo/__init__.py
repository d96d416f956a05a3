"""Networks by name: what the index lists, fetched once, verified, kept in a cache.

    kafnets.load_model("published/kaf_elu")
    kafnets.leaderboard()

The index (index.json) has for each name what the network is, how it was trained, how it fared under which
attack, and where its file is with its checksum. docs/index.py writes it from the records of
results/reference; no number in it is typed.
"""

import difflib
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..registry import PUBLISHED
from ..runtime import caches
from ..runtime.errors import UserError, optional
from ..runtime.files import sha256

if TYPE_CHECKING:  # what only lists names has neither
    import pandas
    import torch

_INDEX = Path(__file__).with_name("index.json")
_CHECKOUT = Path(__file__).resolve().parents[4]
# A folder of the converted files of the thesis's networks, resnet20_*.safetensors, where there is one.
_CONVERTED = "KAFNETS_PUBLISHED"
COLUMNS = (
    "name",
    "architecture",
    "activation",
    "dataset",
    "training",
    "attack",
    "eps",
    "examples",
    "clean",
    "robust",
    "source",
)


@functools.cache
def index():
    """The index: name to entry; not to be changed."""
    return json.loads(_INDEX.read_text(encoding="utf-8"))


def describe(name):
    """The entry of a network.

    Raises:
        UserError: for an unknown name, with the closest known one.
    """
    if name in index():
        return index()[name]
    close = difflib.get_close_matches(str(name), index(), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"model: {name!r} is not known; {hint}choose one of {', '.join(index())}, or give a file")


def load_model(source: str | os.PathLike, device: "str | torch.device" = "cpu") -> "torch.nn.Module":
    """A network by its name in the index, or from a file of :func:`kafnets.save_model`, in evaluation mode.

    What is not in the cache is downloaded once, and verified by its checksum before it is opened; with the
    file there, nothing is asked of the network. The cache is ``$KAFNETS_CACHE``, else ``~/.cache/kafnets``.

    Args:
        source (str or Path): such as ``"published/kaf_elu"``, or the path of a file.
        device: of the network. Default: ``"cpu"``

    Shape:
        - Input: :math:`(N, 3, 32, 32)`, or as the network was made for, pixels in [0, 1]
        - Output: :math:`(N, \\text{classes})` logits

    Raises:
        UserError: for an unknown name; when a file cannot be had or is not the one that it should be, and as
            :func:`kafnets.models.load_model` for a file.
    """
    from ..models import load_model as load_file

    if not _is_name(source):
        return load_file(source, device)
    row = describe(source).get("row")
    if row is None:
        return load_file(file_of(source), device)
    from ..published import load_weights

    return load_weights(row, file_of(source)).to(device)


def file_of(source):
    """The file of a network, downloaded now if need be; a path is returned as it is.

    Raises:
        UserError: as :func:`load_model`.
    """
    if not _is_name(source):
        path = Path(source)
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return path
    entry = describe(source)
    return _published(source, entry) if "row" in entry else _kept(source, entry)


def leaderboard() -> "pandas.DataFrame":
    """How the networks of the index fared: a DataFrame with a row for each of their evaluations.

    Its columns are `COLUMNS`; clean and robust are shares of `examples` test images, `source` says where the
    numbers come from. Only rows of the same attack and eps on as many images can be compared.
    """
    pandas = optional("pandas", "report")
    rows = [
        {"name": name, **{key: entry.get(key) for key in COLUMNS if key in entry}, **evaluation}
        for name, entry in index().items()
        for evaluation in entry["evaluations"]
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def _is_name(source):
    """Whether `source` means a name of the index: a known one, or what looks like no file."""
    if not isinstance(source, str) or Path(source).exists():
        return False
    return source in index() or not Path(source).suffix


def _kept(name, entry):
    """The file of a network that is kept as this library writes it."""
    own = _CHECKOUT / entry["path"]
    if _is_that(own, entry):
        return own
    cached = caches.file("models", f"{name}.safetensors")
    if _is_that(cached, entry):
        return cached
    if entry["url"] is None:
        raise UserError(
            f"{name}: is not in this installation; it is {entry['path']} of a clone of the repository (copy "
            f"it to {cached}, or install the library from the clone with pip install -e .)"
        )
    _download(name, entry, cached)
    return cached


def _is_that(path, entry):
    return path.is_file() and sha256(path) == entry["sha256"]


def _published(name, entry):
    """The converted file of one of the thesis's networks: given, in the cache, or made of the archive now."""
    row = entry["row"]
    given = os.environ.get(_CONVERTED)
    if given:
        return Path(given) / f"{PUBLISHED[row]}.safetensors"
    converted = caches.file("models", f"{name}.safetensors")
    if not converted.is_file():
        from ..archives import convert_archive

        archive = caches.file("models", f"{name}.zip")
        _download(name, entry, archive)
        convert_archive(row, archive, entry["sha256"], converted)
        archive.unlink()
    return converted


def _download(name, entry, path):
    from ..data.download import DownloadError, download

    try:
        download(entry["url"], caches.to_write(path), entry["bytes"], {"sha256": entry["sha256"]})
    except DownloadError as error:
        hint = f", or let {_CONVERTED} name a folder of the converted files" if "row" in entry else ""
        raise DownloadError(f"{name}: {error}; fetch it elsewhere and copy it to {path}{hint}") from None
