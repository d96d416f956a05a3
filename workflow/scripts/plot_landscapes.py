"""Draws the loss around a few images, for one experiment's activations."""

import argparse

from kafnets.diagnostics import reading
from kafnets.report.plots import pictures, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="a card of each activation (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    cards = [reading.read(path) for path in arguments.cards]
    drawn = pictures.landscapes(cards, [reading.tensors(card) for card in cards])
    style.save(drawn, arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
