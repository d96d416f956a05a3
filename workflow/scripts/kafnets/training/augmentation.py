"""Random crops and flips of a whole batch in one gather."""

import torch
from torch.nn import functional


def crop_flip(images, padding=4):
    """Zero-pads by `padding` pixels, crops back at a random place and flips every second image at random.

    Args:
        images (Tensor): uint8, :math:`(N, C, H, W)`, on any device.
        padding (int): pixels on each side.

    Returns:
        Tensor: uint8, the same shape, channels-last in memory.
    """
    count, _, height, width = images.shape
    device = images.device
    corners = torch.randint(0, 2 * padding + 1, (2, count, 1), device=device)
    mirrored = torch.rand(count, 1, device=device) < 0.5
    numbers = torch.arange(max(count, height, width), device=device)  # of images, rows, columns
    rows, columns = corners + numbers[: max(height, width)]
    rows, columns = rows[:, :height], columns[:, :width]
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4)
    cropped = padded[numbers[:count, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def unchanged(images):
    """No augmentation."""
    return images


AUGMENTATIONS = {"none": unchanged, "crop_flip": crop_flip}
