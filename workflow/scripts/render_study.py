"""Writes the page of a study: study.md, and study.csv with every planned comparison."""

import argparse
import csv
from pathlib import Path

from kafnets.report import manifest, planned, study, summary
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", required=True, help="summary.csv of aggregate.py")
    parser.add_argument("--manifest", required=True, help="the runs of the grid, one JSON object a line")
    parser.add_argument("--settings", required=True, help="study of the configuration, with its experiments")
    parser.add_argument("--template", required=True, type=Path, help="the page without its numbers")
    parser.add_argument("--md", required=True, type=Path, help="written")
    parser.add_argument("--csv", required=True, type=Path, help="written")
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    rows, runs = summary.read_rows(arguments.summary), manifest.read_manifest(arguments.manifest)
    headline = next(iter(settings["experiments"].values()))["headline"]
    tested = planned.planned(runs, rows, headline, settings)
    text = study.page(arguments.template.read_text(encoding="utf-8"), rows, runs, tested, settings)
    with atomic_path(arguments.md) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(arguments.csv) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, planned.FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(planned.record, tested))


if __name__ == "__main__":
    cli.run(main)
