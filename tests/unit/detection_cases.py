"""Networks and images that detectors are tried on."""

import torch
from kafnets import create_model

SHAPE = (3, 16, 16)


def images(count, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def network(activation, seed=0, **arguments):
    torch.manual_seed(seed)
    return create_model("resnet8", activation, image_shape=SHAPE, **arguments).eval()


def training_set(count=24):
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randint(256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(10, (count,), generator=generator)
