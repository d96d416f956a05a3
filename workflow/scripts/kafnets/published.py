"""The ResNet20 networks that the thesis's author published, as networks of this library.

    model = kafnets.published.load("kaf_elu", "folder/of/converted/files")

The pipeline makes these files (workflow/rules/published.smk): the author's archives, converted. A file holds
the tensors of one row of the thesis's table by the names of :func:`kafnets.create_model`, but for a KAF's:
`coef` is alpha, `dict` the dictionary.
"""

import hashlib
from pathlib import Path

import numpy
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .registry import PUBLISHED, is_trainable
from .runtime.errors import UserError
from .runtime.filetypes import SAFETENSORS, recognise

# Of the converted tensors, see `checksum`: two files of the same tensors may differ in their headers.
SHA256 = {
    "relu": "3e626324402081c74a7bb0f81bc10105968e56c58cd576ed2ce5fe9be377945c",
    "elu": "1b8782d55081f5003c08b43444ccfa9de85661fb61c1189d619c78a974a7dbef",
    "kaf": "a7dce7476bc998d71429475e8cef66d626e4bf9a72717764b59898e0cadc910b",
    "kaf_relu": "326b27869480f63d48979e9c21554585e61bde6b7c8d816d9743c83c367657f9",
    "kaf_elu": "77d3bdd4299f46b2e0d9f261fd9ec8ecf2976e69f2a44b830d2d0dc36bf8bdc4",
    "swish": "f3aad4c0bea95c4eff404c09d7aceb75dfe159a2d1c75ce080e458b3c6c4988b",
    "kaf_swish": "2b766c16492e451ae3e62a97dee03305dd2683b714cd614f2933375f1530b754",
    "kaf_free": "c914523ceecece2b9e7f7975b486b44b1b41915b4fe4c3aa6e61d84390538c0e",
}

ARCHITECTURE = {"architecture": "resnet20", "block": "thesis"}
_KAF_NAMES = {"coef": "alpha", "dict": "dictionary", "bandwidth": "bandwidth"}


def load(row, folder, **activation_arguments):
    """The network of one row of the thesis's ResNet20 table, in evaluation mode.

    Args:
        row (str): its activation, a name of `kafnets.registry.PUBLISHED`.
        folder (str or Path): where the converted files are.
        **activation_arguments: for every activation, e.g. ``arithmetic="float16"`` to compute the KAFs as the
            original did.

    Shape:
        - Input: :math:`(N, 3, 32, 32)`, pixels in [0, 1]
        - Output: :math:`(N, 10)` logits

    Raises:
        UserError: for an unknown row, a file that is absent or no safetensors file, a tensor that is missing
            or does not belong, or weights that are not the author's.

    Source: F. Peconi, MSc thesis, Sapienza 2020, and the weights published with it (MIT licence).
    """
    return load_weights(row, Path(folder) / f"{_known(row)}.safetensors", **activation_arguments)


def load_weights(row, path, **activation_arguments):
    """As :func:`load`, from the file `path`."""
    import torch

    from .models import create_model, load_tensors

    _known(row)
    tensors = read(path)
    model = create_model(activation=row, activation_arguments=activation_arguments, **ARCHITECTURE)
    expected = model.state_dict()
    renamed = {}
    for name, values in tensors.items():
        layer, _, last = name.rpartition(".")
        ours = f"{layer}.{_KAF_NAMES.get(last, last)}"
        tensor = torch.from_numpy(values)
        if ours in expected and expected[ours].dim() == 0 and tensor.shape == (1,):
            tensor = tensor.reshape(())  # a bandwidth that all channels share
        renamed[ours] = tensor
    # torch counts the batches that a normalisation has seen; Keras does not
    counters = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    load_tensors(model, {**counters, **renamed}, path)
    check(row, tensors, path)
    return model.eval()


def read(path):
    """The tensors of a converted file, name to NumPy array.

    Raises:
        UserError: when it is absent or no safetensors file.
    """
    found = recognise(path)
    if found != SAFETENSORS:
        raise UserError(f"{path}: is {found}, not the converted weights (safetensors)")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot read the published weights ({error})") from None


def check(row, tensors, source):
    """Checks that `tensors`, which came from `source`, are the published weights of `row`.

    Raises:
        UserError: when they are not.
    """
    found, expected = checksum(tensors), SHA256[row]
    if found != expected:
        raise UserError(
            f"{source}: not the published weights of {row}: the tensors' SHA-256 is {found}, "
            f"expected {expected}; fetch the file again"
        )


def checksum(tensors):
    """The SHA-256 over names, shapes, types and little-endian values of `tensors`, ordered by name."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.shape} {values.dtype.name}\n".encode())
        digest.update(numpy.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def layers(row):
    """The layers of a row's network in the order in which Keras numbers them, as (name, kind).

    The kinds: "conv", "bn", "kaf", "dense". Activations without weights have no number.
    """
    kaf = is_trainable(row)

    def site(name):
        return [(name, "kaf")] if kaf else []

    found = [("stem.conv", "conv"), ("stem.bn", "bn"), *site("stem.act")]
    for stage in (1, 2, 3):
        for block in range(3):
            at = f"layer{stage}.{block}"
            found += [(f"{at}.conv1", "conv"), (f"{at}.bn1", "bn"), *site(f"{at}.act1")]
            found += [(f"{at}.conv2", "conv")]
            if stage > 1 and block == 0:
                found += [(f"{at}.skip", "conv")]
            found += [(f"{at}.bn2", "bn"), *site(f"{at}.act2")]
    return [*found, ("fc", "dense")]


def _known(row):
    if row not in PUBLISHED:
        raise UserError(f"published: no network of {row!r}; choose one of {', '.join(PUBLISHED)}")
    return PUBLISHED[row]
