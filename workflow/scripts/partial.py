"""Tables of what is there already, and a list of what is missing."""

import argparse
from pathlib import Path

from kafnets import cli, summary, tables
from kafnets.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="the runs of the grid, one JSON object a line")
    parser.add_argument("--settings", required=True, help="experiment -> settings of its table")
    parser.add_argument("--published", required=True, help="thesis_results.yaml")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    arguments = parser.parse_args()

    missing = []
    rows = summary.summarize(summary.read_manifest(arguments.manifest), missing)
    summary.write_rows(arguments.output / "summary.csv", rows)
    _write(arguments.output / "missing.txt", "".join(f"{line}\n" for line in missing))
    for experiment, settings in cli.settings_argument(arguments.settings).items():
        chosen = summary.read_rows(arguments.output / "summary.csv", experiment)
        if not chosen:
            continue
        table = tables.build(
            chosen, experiment, settings, summary.read_published(arguments.published, settings["reference"])
        )
        for suffix, convert in (("tex", tables.to_tex), ("csv", tables.to_csv), ("md", tables.to_markdown)):
            _write(arguments.output / f"{experiment}.{suffix}", convert(table))
        print(f"\n{experiment}\n\n{tables.to_markdown(table)}")
    print(f"{len(rows)} results in {arguments.output}/summary.csv; {len(missing)} missing:")
    print("".join(f"  {line}\n" for line in missing), end="")


def _write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    cli.run(main)
