"""Collects the records of every run that a manifest lists into one tidy table, summary.csv."""

import argparse

from kafnets.report import manifest, summary
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="runs to collect, one JSON object a line")
    parser.add_argument("--output", required=True, help="summary.csv: one row a run and attack")
    parser.add_argument("--partial", metavar="FILE", help="leave missing or stale cells out, listed in FILE")
    arguments = parser.parse_args()

    missing = [] if arguments.partial else None
    rows = summary.summarize(manifest.read_manifest(arguments.manifest), missing)
    summary.write_rows(arguments.output, rows)
    if arguments.partial:
        with atomic_path(arguments.partial) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in missing), encoding="utf-8")
    print(f"{arguments.output}: {len(rows)} rows" + (f", {len(missing)} cells missing" if missing else ""))


if __name__ == "__main__":
    cli.run(main)
