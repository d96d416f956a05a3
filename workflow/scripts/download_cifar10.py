"""Downloads the official CIFAR-10 archive, verified by its checksums."""

import argparse
from pathlib import Path

from kafnets.data.cifar10 import download_cifar10
from kafnets.runtime import cli


def main(arguments=None, **settings):
    """The command line; `settings` go to `kafnets.data.download.download`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, type=Path, help="where cifar-10-python.tar.gz goes")
    options = parser.parse_args(arguments)
    download_cifar10(options.output, **settings)


if __name__ == "__main__":
    cli.run(main)
