"""The archives of the thesis's author, networks saved by Keras, as safetensors.

The variables are read; nothing of the saved program is run.
"""

import tempfile
import zipfile
from pathlib import Path

import numpy
from safetensors.numpy import save

from . import published
from .runtime.errors import UserError
from .runtime.files import atomic_path, sha256
from .runtime.tables import read_variables

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_FILES = ("variables.index", "variables.data-00000-of-00001")
_MOST_BYTES = 10_000_000


def convert_archive(row, archive, checksum, output):
    """Writes the tensors of a row's network, from the author's archive, as a safetensors file.

    Args:
        row (str): its activation, a name of `kafnets.registry.PUBLISHED`.
        archive (Path): the .zip.
        checksum (str): its SHA-256, hexadecimal.
        output (Path): written.

    Raises:
        UserError: when the archive is absent or another, or the network not that of the row.
    """
    check_archive(archive, checksum)
    with tempfile.TemporaryDirectory() as folder:
        tensors = convert(row, extract(archive, Path(folder)), archive)
    published.check(row, tensors, archive)
    metadata = {"source": archive.name, "activation": row}
    with atomic_path(output) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def check_archive(archive, expected):
    """Checks that an archive is the one that is meant, before a byte of it is looked at.

    Raises:
        UserError: when it is absent or another.
    """
    try:
        found = sha256(archive)
    except OSError as error:
        raise UserError(f"{archive}: cannot be read: {error.strerror}; fetch it again") from None
    if found != expected:
        raise UserError(f"{archive}: its SHA-256 is {found}, expected {expected}; fetch it again")


def extract(archive, folder):
    """Writes the files of variables in the archive to `folder`; returns that.

    Only files of two known names are written, and no more than so many bytes, whatever the archive says.

    Raises:
        UserError: when they are not there, are too large or damaged.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                inner, _, name = member.filename.rpartition("/")
                if inner.endswith("/variables") and name in _FILES:
                    (folder / name).write_bytes(_content(file, member))
    except Exception as error:  # zipfile lets through whatever a damaged archive makes of its decoders
        raise UserError(f"{archive}: cannot read the archive ({error}); fetch it again") from None
    for name in _FILES:
        if not (folder / name).is_file():
            raise UserError(f"{archive}: holds no {name} of a saved model; fetch it again")
    return folder


def _content(file, member):
    with file.open(member) as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{member.filename} is too large to be these weights")
    return content


def convert(row, folder, source):
    """The tensors of a row's network from the files of its variables, by the names of the converted files.

    Args:
        row (str): its activation.
        folder (Path): where the files are.
        source (Path): where they come from, for errors.

    Raises:
        UserError: when they are those of another network, or damaged.
    """
    variables = read_variables(*(folder / name for name in _FILES))

    def variable(number, name):
        return variables.get(f"layer_with_weights-{number}/{name}{_VALUE}")

    tensors = {}
    for number, (layer, kind) in enumerate(published.layers(row)):
        for name, (keras, arrange) in _TENSORS[kind].items():
            values = variable(number, keras)
            if values is None and name == "bandwidth":
                values = _shared_bandwidth(tensors[f"{layer}.dict"])
            if values is None:
                raise UserError(f"{source}: {layer} has no {keras}; this is not the network of {row}")
            tensors[f"{layer}.{name}"] = numpy.ascontiguousarray(arrange(values), numpy.float32)
    return tensors


def _shared_bandwidth(dictionary):
    """1 / (6 Delta^2), Delta in float32: a constant of the saved program, so not among its variables."""
    step = numpy.float32(6 / (len(dictionary) - 1))
    return numpy.array([1 / (6 * step**2)])


def _as_it_is(values):
    return values


# name of the converted tensor: (name in Keras, how its axes are put)
_TENSORS = {
    "conv": {
        "weight": ("kernel", lambda values: values.transpose(3, 2, 0, 1)),
        "bias": ("bias", _as_it_is),
    },
    "dense": {"weight": ("kernel", numpy.transpose), "bias": ("bias", _as_it_is)},
    "bn": {
        "weight": ("gamma", _as_it_is),
        "bias": ("beta", _as_it_is),
        "running_mean": ("moving_mean", _as_it_is),
        "running_var": ("moving_variance", _as_it_is),
    },
    # (1, 1, 1, C or 1, D) there
    "kaf": {
        "coef": ("mix_coeffs", lambda values: values.reshape(values.shape[-2:])),
        "dict": ("d", lambda values: values.reshape(values.shape[-2:]).squeeze()),
        "bandwidth": ("k_bandw", numpy.ravel),
    },
}
