"""Writes the tables of one experiment: LaTeX, CSV, Markdown and JSON.

EXPERIMENT.* is like the thesis's, EXPERIMENT_attacks.* has a row an attack, EXPERIMENT_differences.* a row a
pair of activations.
"""

import argparse
from pathlib import Path

from kafnets.report import cards, manifest, summary, tables
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", required=True, help="summary.csv of aggregate.py")
    parser.add_argument("--manifest", required=True, help="the runs of the grid, one JSON object a line")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--settings", required=True, help="title, activations, reference, headline, attacks")
    parser.add_argument("--published", help="thesis_results.yaml; needed when the settings name a reference")
    parser.add_argument(
        "--cards", nargs="*", default=[], help="evaluation cards: a network that fails a check is marked"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    published = manifest.read_published(arguments.published, settings["reference"])
    rows = summary.read_rows(arguments.summary)
    runs = manifest.read_manifest(arguments.manifest)
    failed = cards.failed_checks([cards.read(path) for path in arguments.cards])
    texts = tables.texts(rows, runs, arguments.experiment, settings, published, failed=failed)
    for suffix, text in texts.items():
        with atomic_path(arguments.output / f"{arguments.experiment}{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
