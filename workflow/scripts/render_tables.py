"""Writes the table of one experiment, like the thesis's: LaTeX, CSV and Markdown."""

import argparse

from kafnets import cli, summary, tables
from kafnets.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", required=True, help="summary.csv of aggregate.py")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--settings", required=True, help="title, activations, reference, headline, attacks")
    parser.add_argument("--published", help="thesis_results.yaml; needed when the settings name a reference")
    for kind in ("tex", "csv", "md"):
        parser.add_argument(f"--{kind}", required=True, help=f"the table, .{kind}")
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    published = summary.read_published(arguments.published, settings["reference"])
    rows = summary.read_rows(arguments.summary)
    table = tables.build(rows, arguments.experiment, settings, published)
    outputs = {
        arguments.tex: tables.to_tex(table),
        arguments.csv: tables.to_csv(table),
        arguments.md: tables.to_markdown(table),
    }
    for path, text in outputs.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    cli.run(main)
