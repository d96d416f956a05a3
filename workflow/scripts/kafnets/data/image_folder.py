"""Data sets in a folder of images, in ImageNet's layout."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .. import sources
from ..runtime.errors import UserError, is_out_of_memory, optional
from .dataset import Dataset, room

# Of a PNG file: what it begins with, and where it says bits and kind of a pixel.
_PNG, _GREY_OF_16_BITS = b"\x89PNG\r\n\x1a\n", b"\x10\x00"


def prepare_folder(source=None, name="images", size=32, channels=3):
    """A data set of images of one's own: train/CLASS/ and test/CLASS/ (or val/CLASS/) of a folder.

    An image is decoded by Pillow, scaled (bilinearly, with antialiasing) until its shorter side is `size`,
    and cropped around its middle, as the literature does with ImageNet; one of `size` x `size` stays as it
    is.

    Args:
        source (str or Path): the folder.
        name (str): of the data set.
        size (int): rows and columns of an image.
        channels (int): 3, or 1 for grey images.

    Raises:
        UserError: when the folder is absent or something else, or an image cannot be decoded.
    """
    if source is None:
        raise UserError(f"{name}: no source; write datasets.{name}.source, the path of a folder of images")
    train, test = sources.images(Path(source))
    classes = tuple(train)
    tensors = {}
    for split, found in (("train", train), ("test", test)):
        files = [(file, classes.index(one)) for one, files in found.items() for file in files]
        tensors[f"{split}_images"] = decoded([file for file, _ in files], size, channels)
        tensors[f"{split}_labels"] = torch.tensor([label for _, label in files])
    return Dataset(name, classes=classes, source="images of the user's own", **tensors)


def decoded(files, size, channels=3):
    """Images as uint8 of shape :math:`(N, C, S, S)`, where :func:`kafnets.data.dataset.room` has them.

    Raises:
        UserError: naming the file that cannot be decoded.
    """
    made = room((len(files), channels, size, size))
    optional("torchvision.transforms.functional", "data")  # before there are threads

    def read(number):
        made[number] = _decoded(files[number], size, channels)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        for _ in readers.map(read, range(len(files))):  # raises what a reader raised
            pass
    return made


def _decoded(file, size, channels):
    loader = optional("torchvision.datasets.folder", "data").pil_loader
    functional = optional("torchvision.transforms.functional", "data")
    try:
        with open(file, "rb") as opened:
            begin = opened.read(26)
        if begin.startswith(_PNG) and begin[24:26] == _GREY_OF_16_BITS:
            raise UserError(f"{file}: has 16 bits a pixel; save it with 8")
        image = loader(str(file))
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"{file}: cannot be decoded ({error}); repair it or remove it") from None
    if channels == 1:
        image = functional.to_grayscale(image)
    image = functional.center_crop(functional.resize(image, size, antialias=True), size)
    return functional.pil_to_tensor(image)
