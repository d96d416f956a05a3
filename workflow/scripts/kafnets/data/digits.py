"""Handwritten digits: real images that need no download."""

import numpy as np
import torch

from ..runtime.errors import UserError, optional
from .dataset import Dataset, balanced_order

TEST_EXAMPLES = 397


def prepare_digits(source=None, name="digits", size=32):
    """The 1,797 handwritten digits that scikit-learn bundles: 1,400 to train, 397 to test, balanced by class.

    The 8x8 images are resized bilinearly and repeated in three equal channels. Source: E. Alpaydin and C.
    Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    Args:
        source: None.
        name (str): of the data set.
        size (int): rows and columns of its images; 8 leaves them as they are.

    Raises:
        UserError: when a source is given; there is none to choose.
    """
    load_digits = optional("sklearn.datasets", "data").load_digits

    if source is not None:
        raise UserError(f"{name}: takes no source, its images come with scikit-learn; remove {source}")
    digits = load_digits()
    brightness = _resize(digits.images, size) * (255 / 16)  # the images count 0 to 16
    images = torch.from_numpy(np.rint(brightness).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = balanced_order(labels.numpy())
    test, train = np.sort(order[:TEST_EXAMPLES]), np.sort(order[TEST_EXAMPLES:])
    return Dataset(
        name=name,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple(str(name) for name in digits.target_names),
        source="scikit-learn, load_digits",
    )


def _resize(images, size):
    """Bilinear interpolation of square images (N, s, s) to (N, size, size), pixel centres aligned."""
    old = images.shape[-1]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    weights = np.stack([np.interp(centres, np.arange(old), pixel) for pixel in np.eye(old)], axis=1)
    return weights @ images @ weights.T
