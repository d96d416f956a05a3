"""Draws what an attack does to each layer, and how steep the layers are, for one experiment's activations."""

import argparse

from kafnets.diagnostics import reading
from kafnets.report.plots import depth, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="a card of each activation (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    cards = {card.activation: card for card in map(reading.read, arguments.cards)}
    style.save(depth.draw(cards), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
