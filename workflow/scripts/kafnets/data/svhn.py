"""SVHN, the cropped house numbers, from its official files."""

from pathlib import Path

import numpy as np
import torch

from ..runtime.errors import UserError, optional
from .dataset import Dataset
from .official import FILES, advice, check

NAMES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
ADVICE = advice("svhn", f"the folder of {' and '.join(NAMES.values())}")


def prepare_svhn(source=None, reader=None, files=FILES):
    """SVHN: 73,257 training and 26,032 test images of the ten digits, 32 x 32 in colour.

    torchvision reads the files, with SciPy, after size and checksums are compared; a label 10 is the digit 0.
    The `extra` images are left out. Source: Y. Netzer et al., "Reading Digits in Natural Images with
    Unsupervised Feature Learning", NIPS workshop 2011.

    Args:
        source (str or Path): the folder of the files train_32x32.mat and test_32x32.mat.
        reader (type): of torchvision, with other checksums for tests.
        files (dict): what the files must be, `Official` by their names.

    Raises:
        UserError: when the source is absent, damaged or something else.
    """
    if source is None:
        raise UserError(f"svhn: no source; {ADVICE}")
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {ADVICE}")
    reader = reader or optional("torchvision.datasets", "data").SVHN
    optional("scipy.io", "data")
    tensors = {}
    for split, name in NAMES.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; {ADVICE}")
        check(folder / name, files[name], ADVICE)
        read = reader(folder, split)
        tensors[f"{split}_images"] = torch.from_numpy(np.ascontiguousarray(read.data))
        tensors[f"{split}_labels"] = torch.from_numpy(read.labels)
    classes = tuple(map(str, range(10)))
    return Dataset("svhn", classes=classes, source="https://ufldl.stanford.edu/housenumbers/", **tensors)
