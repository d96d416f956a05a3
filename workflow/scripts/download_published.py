"""Downloads one archive of the thesis's author, verified by its checksum."""

import argparse
from pathlib import Path

from kafnets.data.download import download
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--bytes", required=True, type=int, help="its size")
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    download(arguments.url, arguments.output, arguments.bytes, {"sha256": arguments.sha256})


if __name__ == "__main__":
    cli.run(main)
