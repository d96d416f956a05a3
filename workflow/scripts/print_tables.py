"""Prints the tables of a finished run, the main one of each experiment last, and where its files are."""

import argparse
from pathlib import Path

from kafnets.report import printing
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", default="results", help="the folder that config.yaml calls `output` (default: results)"
    )
    parser.add_argument("--experiments", nargs="*", help="only the tables of these (default: all tables)")
    arguments = parser.parse_args()
    for text in printing.of_folder(Path(arguments.output), arguments.experiments or ()):
        print(text)


if __name__ == "__main__":
    cli.run(main)
