"""Draws accuracy against robustness of one experiment's activations."""

import argparse

from kafnets.report import manifest, summary
from kafnets.report.plots import style, tradeoff
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summary", required=True, help="summary.csv of aggregate.py")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--settings", required=True, help="title, activations, reference, headline, attacks")
    parser.add_argument("--published", help="thesis_results.yaml; needed when the settings name a reference")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    published = manifest.read_published(arguments.published, settings["reference"])
    rows = summary.read_rows(arguments.summary, arguments.experiment)
    style.save(tradeoff.draw(rows, settings, published), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
