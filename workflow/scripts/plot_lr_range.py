"""Draws learning-rate range tests: one panel for each pair of files of lr_range.py."""

import argparse
import csv
from pathlib import Path

from kafnets.report.plots import lr_range, style
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json, sha256


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", required=True, nargs="+", help="the losses of each test")
    parser.add_argument("--json", required=True, nargs="+", help="the record of each test, in the same order")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    if len(arguments.csv) != len(arguments.json):
        raise UserError(f"--json: {len(arguments.csv)} files are needed, one for each of --csv")
    tests = [read(losses, path) for losses, path in zip(arguments.csv, arguments.json, strict=True)]
    style.save(lr_range.draw(tests), arguments.pdf, arguments.png)


def read(losses, path):
    """The activation of a test, the columns of its CSV file, and the range that its record suggests.

    Raises:
        UserError: when either file is absent or damaged, or the test ended before its first step.
    """
    record = read_json(path)
    if not Path(losses).is_file() or sha256(losses) != record.get("csv_sha256"):
        raise UserError(f"{losses}: its checksum is not the one in {path}; delete both to test again")
    return record["activation"], read_losses(losses), record["suggested"]


def read_losses(path):
    """The columns of a test's CSV file as lists.

    Raises:
        UserError: when the test ended before its first step.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{path}: the test ended at its first step; lower lr_range.min in config.yaml")
    return {name: [float(row[name]) for row in rows] for name in ("learning_rate", "loss", "smoothed_loss")}


if __name__ == "__main__":
    cli.run(main)
