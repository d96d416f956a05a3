"""Draws the learning-rate schedule of each activation of an experiment."""

import argparse

from kafnets.report.plots import schedule, style
from kafnets.runtime import cli
from kafnets.training.schedule import learning_rates


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help='{"activations": {name: its training settings}}')
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    rates = {
        activation: learning_rates(training, schedule.POINTS_PER_EPOCH)
        for activation, training in settings["activations"].items()
    }
    style.save(schedule.draw(rates), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
