"""Data sets that a command line names, prepared in the cache."""

import re
from dataclasses import replace

from ..data.dataset import Dataset, save
from ..runtime import caches
from ..runtime.errors import UserError

CIFAR10 = "cifar10"
# The advice of a preparation, which is for who writes a configuration.
_ADVICE = re.compile(r"; (if it cannot be had, )?set data\.\S+ in config\.yaml .*")


def prepared(name, entry, source=None):
    """The prepared file of a data set in the cache: made now, unless it is there and complete.

    Args:
        name (str): of the registry, or "module:name" of a function of the user's own.
        entry (Entry): its entry.
        source (Path, optional): archive or folder. Without one what has official files is downloaded.

    Raises:
        UserError: when the source is absent or something else.
    """
    path = caches.file("data", f"{name.replace(':', '.')}.safetensors")
    record = path.with_suffix(".json")
    if path.is_file() and record.is_file() and source is None and not entry.own:
        return path  # `load` compares it with its record
    try:
        if source is None:
            source = entry.source or _downloaded(name, entry.files, path.parent / "raw")
        dataset = entry.load()(source, **entry.arguments)
    except UserError as error:
        advice = "; let --source name a copy of the official archive, or its unpacked folder"
        raise UserError(_ADVICE.sub(advice, str(error))) from None
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"--data: {entry.target} returns a {type(dataset).__name__}; let it return a kafnets.data.Dataset"
        )
    # what only judges may give the same images twice, and a file holds each by itself
    separate = {name: getattr(dataset, name).clone() for name in ("test_images", "test_labels")}
    save(replace(dataset, **separate), caches.to_write(path), record)
    return path


def _downloaded(name, files, folder):
    """The official file of a data set, or the folder of several; None where it has none."""
    for file in files:
        if name == CIFAR10:
            from ..data.cifar10 import download_cifar10

            download_cifar10(caches.to_write(folder / file))
        else:
            from ..data.official import fetch

            fetch(file, caches.to_write(folder / file))
    if not files:
        return None
    return folder / files[0] if len(files) == 1 else folder
