"""Draws accuracy without an attack, under one, and certified, for one experiment's activations."""

import argparse

from kafnets.report import certificates, summary
from kafnets.report.plots import certified_accuracy, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="title, activations, certificates, ... (JSON)")
    parser.add_argument("--records", required=True, nargs="+", help="of its networks' certifications (JSON)")
    parser.add_argument("--summary", required=True, help="summary.csv of aggregate.py")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    found = [certificates.read(path) for path in arguments.records]
    rows = summary.read_rows(arguments.summary, arguments.experiment)
    drawn = certified_accuracy.draw(found, rows, cli.settings_argument(arguments.settings))
    style.save(drawn, arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
