"""Detectors made from names, and as files: the head's tensors, and what it was made from."""

import json

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..attacks.base import device_of, seeded
from ..registry import DETECTORS, lookup
from ..runtime.errors import UserError
from ..runtime.files import MADE_BY, atomic_path

_METADATA = "kafnets_detector"
_AGAIN = "delete it to have it trained again"


def create_detector(method, network, image_shape=(3, 32, 32), seed=0, **settings):
    """A fresh detector beside a network.

    Args:
        method (str): a name of `kafnets.registry.DETECTORS`.
        network (nn.Module): classifier of images in [0, 1].
        image_shape (tuple): channels, rows and columns of the images.
        seed (int): of its start; torch's random numbers go on as if nothing had happened.
        **settings: of that detector, see its class.

    Returns:
        Detector: where the network is.

    Raises:
        UserError: for an unknown name or wrong settings.
    """
    entry = lookup(DETECTORS, method, "detector")
    image = torch.zeros(1, *image_shape)
    device = device_of(network, image)
    dtype = next((one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32)
    with seeded(seed, device):
        try:
            detector = entry.load()(network, image.to(device, dtype), **{**entry.arguments, **settings})
        except TypeError as error:
            raise UserError(f"settings of {method}: {error}") from None
    detector.made_from = {"method": method, "image_shape": list(image_shape), "settings": settings}
    return detector.eval()


def save_detector(detector, path):
    """Writes the head of a detector of :func:`create_detector`, atomically; the network is not in it."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in detector.head().items()}
    content = save(tensors, metadata={_METADATA: json.dumps(detector.made_from, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_detector(path, network):
    """The detector that :func:`save_detector` wrote to `path`, beside the network that it was trained for.

    Raises:
        UserError: when the file is absent, damaged, no detector's, or of another kind of network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of a detector; {MADE_BY}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); {_AGAIN}") from None
    try:
        told = json.loads(metadata[_METADATA])
        made = {"method": told["method"], "image_shape": tuple(told["image_shape"]), **told["settings"]}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not the file of a detector ({error}); {_AGAIN}") from None
    detector = create_detector(made.pop("method"), network, made.pop("image_shape"), **made)
    detector.load_head(tensors)
    return detector
