"""Converts an archive of the thesis's author, a network saved by Keras, to safetensors.

    python workflow/scripts/convert_published.py --row kaf_elu --archive resnet20_kafelu_ocrob_lrf.zip \\
        --output resnet20_kafelu_ocrob_lrf.safetensors

The only place that needs TensorFlow (envs/convert.yaml). It reads the variables; nothing of the saved program
is run.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import numpy
from kafnets import cli, published
from kafnets.errors import UserError
from kafnets.files import atomic_path
from safetensors.numpy import save

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_MOST_BYTES = 10_000_000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", required=True, choices=published.SHA256, help="whose network it is")
    parser.add_argument("--archive", required=True, type=Path, help="the author's .zip")
    parser.add_argument("--output", required=True, type=Path, help="written: the tensors, .safetensors")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        tensors = convert(arguments.row, extract(arguments.archive, Path(folder)), arguments.archive)
    published.check(arguments.row, tensors, arguments.archive)
    metadata = {"source": arguments.archive.name, "activation": arguments.row}
    with atomic_path(arguments.output) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def extract(archive, folder):
    """Writes the variables in the archive to `folder`; returns the prefix that TensorFlow reads."""
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                inner, _, name = member.filename.rpartition("/")
                if not inner.endswith("/variables") or not name:
                    continue
                if member.file_size > _MOST_BYTES:
                    raise UserError(f"{archive}: {member.filename} is too large to be these weights")
                (folder / name).write_bytes(file.read(member))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: cannot read the archive ({error}); fetch it again") from None
    if not (folder / "variables.index").is_file():
        raise UserError(f"{archive}: holds no variables of a saved model; fetch it again")
    return folder / "variables"


def convert(row, prefix, source):
    """The tensors of a row's network from `source`, by the names of the converted files."""
    import tensorflow

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
