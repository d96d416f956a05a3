"""Small files of images as people have them, for the tests."""

import numpy
from PIL import Image


def picture(number, size=(9, 9), channels=3):
    """An image of random pixels: the same for the same number."""
    shape = (*size, channels) if channels == 3 else size
    return numpy.random.RandomState(number).randint(0, 256, shape, "uint8")


def image_folder(folder, classes, counts=(4, 2), size=(9, 9), test="test", ending=".png"):
    """A folder of images in ImageNet's layout; a class's pixels are those of its number."""
    number = 0
    for split, count in zip(("train", test), counts, strict=True):
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for image in range(count):
                Image.fromarray(picture(number, size)).save(folder / split / name / f"{image}{ending}")
                number += 1
    return folder


def array_set(train=8, test=4, classes=3, shape=(6, 6, 3)):
    """The four arrays of a data set, images with their channels last."""
    random = numpy.random.RandomState(1)
    return {
        "train_images": random.randint(0, 256, (train, *shape), "uint8"),
        "train_labels": numpy.arange(train) % classes,
        "test_images": random.randint(0, 256, (test, *shape), "uint8"),
        "test_labels": numpy.arange(test) % classes,
    }
