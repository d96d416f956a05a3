"""Prints the tables of a finished run, the main one of each experiment last, and where its files are."""

import argparse
from pathlib import Path

from kafnets.runtime import cli
from kafnets.runtime.errors import UserError

FOLDERS = ("tables", "plots", "evaluations", "models")
BESIDE = ("_attacks", "_differences")  # the ends of the names of the tables beside the main one


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", default="results", help="the folder that config.yaml calls `output` (default: results)"
    )
    parser.add_argument("--experiments", nargs="*", help="only the tables of these (default: all tables)")
    arguments = parser.parse_args()

    output = Path(arguments.output)
    names = arguments.experiments or table_names(output / "tables")
    if not names:
        raise UserError(f"{output}/tables: no table yet; run snakemake first, or give another --output")
    for name in names:
        path = output / "tables" / f"{name}.md"
        if not path.is_file():
            raise UserError(f"{path}: no such table; run snakemake first")
        text = path.read_text(encoding="utf-8")
        if arguments.experiments or has_rows(text):
            print(f"\n{name}\n\n{text}")
    print("Files:")
    for path in (output / "summary.csv", *(output / folder for folder in FOLDERS)):
        if path.exists():
            print(f"  {path}{'/' if path.is_dir() else ''}")


def table_names(folder):
    """The names of the tables in `folder`: of each experiment those beside the main one, then that."""
    names = {path.stem for path in folder.glob("*.md")}
    beside = {f"{name}{end}" for name in names for end in BESIDE}
    return [one for name in sorted(names - beside) for one in (*_present(names, name), name)]


def _present(names, name):
    return [f"{name}{end}" for end in BESIDE if f"{name}{end}" in names]


def has_rows(text):
    """Whether there is a row below the heads of a Markdown table."""
    return sum(line.startswith("|") for line in text.splitlines()) > 2


if __name__ == "__main__":
    cli.run(main)
