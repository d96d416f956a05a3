"""Draws robust accuracy against the iterations of an attack, for one experiment's activations."""

import argparse

from kafnets.report import manifest
from kafnets.report.plots import iterations, style
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="the runs, one JSON object a line")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--attack", required=True, help="one of those that were run, such as pgd")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    curves, robust, examples = {}, {}, set()
    for run in manifest.read_manifest(arguments.manifest, arguments.experiment):
        if arguments.attack not in run.evaluations:
            known = ", ".join(run.evaluations)
            raise UserError(f"--attack: {arguments.attack!r} is not run on {run}; choose one of {known}")
        record = manifest.evaluation_record(run, arguments.attack)
        if record["accuracy_by_iteration"] is None:
            raise UserError(
                f"--attack: {arguments.attack!r} has no accuracy by iteration; choose an iterative one"
            )
        curves.setdefault(run.activation, []).append(record["accuracy_by_iteration"])
        robust.setdefault(run.activation, []).append(record["accuracy"])
        examples.add(record["examples"])
    means = {activation: sum(values) / len(values) for activation, values in robust.items()}
    style.save(iterations.draw(curves, means, min(examples)), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
