"""Downloads one official file of a data set, verified by its checksums."""

import argparse
from pathlib import Path

from kafnets.data.official import FILES, fetch
from kafnets.runtime import cli


def main(arguments=None, **settings):
    """The command line; `settings` go to `kafnets.data.download.download`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", required=True, choices=FILES)
    parser.add_argument("--output", required=True, type=Path, help="where it goes")
    options = parser.parse_args(arguments)
    fetch(options.file, options.output, **settings)


if __name__ == "__main__":
    cli.run(main)
