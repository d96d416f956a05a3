"""Fetches networks and data sets into the cache ($KAFNETS_CACHE, else ~/.cache/kafnets), each verified.

    kafnets download published/kaf_elu cifar10

What is there already is not fetched again. A name that others begin with stands for all of them: `published`.
"""

import shutil
from pathlib import Path

from .. import model_zoo, registry
from ..runtime.errors import UserError
from ..runtime.files import atomic_path
from . import networks


def options(parser):
    parser.add_argument("names", nargs="+", help="of `kafnets list models` and `kafnets list datasets`")
    parser.add_argument(
        "--source", type=Path, help="of a data set: a local archive or folder, not fetched then"
    )
    parser.add_argument("--output", type=Path, help="a folder that gets a copy of each")


def run(arguments):
    names = [one for given in arguments.names for one in matching(given)]
    if arguments.source is not None and (len(names) > 1 or names[0] not in registry.DATASETS):
        raise UserError("--source: is for one data set; write its name alone")
    for name in names:
        path = (
            networks.data_file(name, arguments.source)
            if name in registry.DATASETS
            else model_zoo.file_of(name)
        )
        if arguments.output is not None:
            path = _copied(path, arguments.output / f"{name}{path.suffix}", name in registry.DATASETS)
        print(f"{name}: {path}")


def matching(name):
    """The names that a name stands for.

    Raises:
        UserError: for none.
    """
    if name in registry.DATASETS or name in model_zoo.index():
        return [name]
    below = [one for one in model_zoo.index() if one.startswith(f"{name.rstrip('/')}/")]
    if below:
        return below
    raise UserError(
        f"{name!r}: not known; write one of {', '.join([*registry.DATASETS, *model_zoo.index()])}, "
        "or what several of them begin with"
    )


def _copied(path, target, with_record):
    for source, copy in [(path, target), (path.with_suffix(".json"), target.with_suffix(".json"))]:
        if source == path or with_record:
            with atomic_path(copy) as temporary:
                shutil.copyfile(source, temporary)
    return target
