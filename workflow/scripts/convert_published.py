"""Converts an archive of the thesis's author, a network saved by Keras, to safetensors.

    python workflow/scripts/convert_published.py --row kaf_elu --archive resnet20_kafelu_ocrob_lrf.zip \\
        --sha256 0123... --output resnet20_kafelu_ocrob_lrf.safetensors

The only place that needs TensorFlow (envs/convert.yaml). It reads the variables; nothing of the saved program
is run.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import numpy
from kafnets import published
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import atomic_path, sha256
from safetensors.numpy import save

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_FILES = ("variables.index", "variables.data-00000-of-00001")
_MOST_BYTES = 10_000_000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", required=True, choices=published.SHA256, help="whose network it is")
    parser.add_argument("--archive", required=True, type=Path, help="the author's .zip")
    parser.add_argument("--sha256", required=True, help="the archive's checksum, hexadecimal")
    parser.add_argument("--output", required=True, type=Path, help="written: the tensors, .safetensors")
    arguments = parser.parse_args()

    check_archive(arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        tensors = convert(arguments.row, extract(arguments.archive, Path(folder)), arguments.archive)
    published.check(arguments.row, tensors, arguments.archive)
    metadata = {"source": arguments.archive.name, "activation": arguments.row}
    with atomic_path(arguments.output) as temporary:
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
    """Writes the variables in the archive to `folder`; returns the prefix that TensorFlow reads.

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
    return folder / "variables"


def _content(file, member):
    with file.open(member) as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{member.filename} is too large to be these weights")
    return content


def convert(row, prefix, source):
    """The tensors of a row's network from `source`, by the names of the converted files.

    Raises:
        UserError: without TensorFlow, or when they are those of another network.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            f"to read {source} TensorFlow is needed ({error}); run snakemake with --use-conda, or set "
            "data.published.source to a folder of the converted files"
        ) from None

    reader = tensorflow.train.load_checkpoint(str(prefix))
    known = reader.get_variable_to_shape_map()

    def variable(number, name):
        key = f"layer_with_weights-{number}/{name}{_VALUE}"
        return reader.get_tensor(key) if key in known else None

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


if __name__ == "__main__":
    cli.run(main)
