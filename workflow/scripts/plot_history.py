"""Draws the training curves of one experiment's activations."""

import argparse

from kafnets.report import manifest
from kafnets.report.plots import history, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="the runs, one JSON object a line")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    histories = {}
    for run in manifest.read_manifest(arguments.manifest, arguments.experiment):
        histories.setdefault(run.activation, []).append(manifest.read_history(run))
    style.save(history.draw(histories), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
