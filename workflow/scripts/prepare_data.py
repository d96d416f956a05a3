"""Prepares a data set: its verified source -> one safetensors file of uint8 images, and its record."""

import argparse
from pathlib import Path

from kafnets import registry
from kafnets.data.dataset import save
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help=f"one of {', '.join(registry.DATASETS)}")
    parser.add_argument("--source", type=Path, help="archive or folder; none for an embedded data set")
    parser.add_argument("--output", required=True, type=Path, help="safetensors file to write")
    parser.add_argument("--record", required=True, type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    entry = registry.lookup(registry.DATASETS, options.dataset, "--dataset")
    dataset = entry.load()(options.source, **entry.arguments)
    _check(dataset, options.dataset, entry)
    save(dataset, options.output, options.record)
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    print(f"{options.output}: {train:,} training and {test:,} test images of {len(dataset.classes)} classes")


def _check(dataset, name, entry):
    """Checks that a data set is what its entry says: networks are made by that."""
    said = (entry.classes, (entry.channels, entry.size, entry.size))
    found = (len(dataset.classes), tuple(dataset.train_images.shape[1:]))
    if said != found:
        raise UserError(f"{name}: has {_facts(*found)}, its entry says {_facts(*said)}; correct one of them")


def _facts(classes, shape):
    return f"{classes} classes and images of {' x '.join(map(str, shape))}"


if __name__ == "__main__":
    cli.run(main)
