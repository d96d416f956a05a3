"""Random crops and flips of a whole batch in one gather."""

import torch


def crop_flip(images, rows=None, padding=4):
    """Zero-pads by `padding` pixels, crops back at a random place and flips every second image at random.

    Args:
        images (Tensor): uint8, :math:`(N, C, H, W)`, on any device.
        rows (Tensor, optional): int64, which of them, and in which order. Default: all
        padding (int): pixels on each side.

    Returns:
        Tensor: uint8, the shape of those images, channels-last in memory.
    """
    _, channels, height, width = images.shape
    device = images.device
    count = len(images) if rows is None else len(rows)
    corners = torch.randint(0, 2 * padding + 1, (2, count, 1), device=device)
    mirrored = torch.rand(count, 1, device=device) < 0.5
    numbers = torch.arange(max(count, height, width), device=device)  # of images, rows, columns
    lines, columns = corners + numbers[: max(height, width)]
    lines, columns = lines[:, :height], columns[:, :width]
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = images.new_zeros(count, channels, height + 2 * padding, width + 2 * padding)
    inside = padded[:, :, padding : padding + height, padding : padding + width]
    if rows is None:
        inside.copy_(images)
    else:
        torch.index_select(images, 0, rows, out=inside)
    cropped = padded[numbers[:count, None, None], :, lines[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def unchanged(images, rows):
    """No augmentation."""
    return images[rows]


AUGMENTATIONS = {"none": unchanged, "crop_flip": crop_flip}
