"""Draws accuracy and robustness of each class, for one experiment's activations."""

import argparse

import numpy
from kafnets.config.slices import WORST_CASE
from kafnets.data.dataset import load
from kafnets.report import manifest
from kafnets.report.plots import classes, style
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="the runs, one JSON object a line")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--attack", required=True, help="one of those that were run, or worst_case")
    parser.add_argument("--data", required=True, help="the prepared data set, for the true classes")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    verdicts = {}
    for run in manifest.read_manifest(arguments.manifest, arguments.experiment):
        known = [*run.evaluations, *([WORST_CASE] if run.worst_case else [])]
        if arguments.attack not in known:
            known = ", ".join(known)
            raise UserError(f"--attack: {arguments.attack!r} is not run on {run}; choose one of {known}")
        found = manifest.verdicts(run, arguments.attack)
        verdicts.setdefault(run.activation, []).append(numpy.stack([found["clean"], found["robust"]]))
    counts = {seed.shape[1] for seeds in verdicts.values() for seed in seeds}
    if len(counts) > 1:
        raise UserError(f"{arguments.manifest}: the runs of {arguments.experiment} have {counts} images")
    dataset = load(arguments.data, test_examples=counts.pop())
    shares = {
        activation: by_class(numpy.mean(seeds, axis=0), dataset.test_labels.numpy(), len(dataset.classes))
        for activation, seeds in verdicts.items()
    }
    images = numpy.bincount(dataset.test_labels.numpy(), minlength=len(dataset.classes))
    style.save(classes.draw(shares, dataset.classes, images), arguments.pdf, arguments.png)


def by_class(verdicts, labels, classes):
    """The means of (rows, N) verdicts over each class's images, (rows, classes); NaN where there is none."""
    chosen = labels == numpy.arange(classes)[:, None]
    with numpy.errstate(invalid="ignore"):
        return verdicts @ chosen.T / chosen.sum(1)


if __name__ == "__main__":
    cli.run(main)
