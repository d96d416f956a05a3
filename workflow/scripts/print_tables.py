"""Prints the tables of a finished run, and where its files are."""

import argparse
from pathlib import Path

from kafnets import cli
from kafnets.errors import UserError

FOLDERS = ("tables", "plots", "evaluations", "models")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="the folder that config.yaml calls `output`")
    parser.add_argument("--experiments", nargs="*", help="only the tables of these (default: every table)")
    arguments = parser.parse_args()

    output = Path(arguments.output)
    names = arguments.experiments or sorted(path.stem for path in (output / "tables").glob("*.md"))
    if not names:
        raise UserError(f"{output}/tables: no table yet; run snakemake first")
    for name in names:
        path = output / "tables" / f"{name}.md"
        if not path.is_file():
            raise UserError(f"{path}: no such table; run snakemake first")
        table = path.read_text(encoding="utf-8")
        print(f"\n{name}\n\n{table}")
    print("Files:")
    for path in (output / "summary.csv", *(output / folder for folder in FOLDERS)):
        if path.exists():
            print(f"  {path}{'/' if path.is_dir() else ''}")


if __name__ == "__main__":
    cli.run(main)
