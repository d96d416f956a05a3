"""Draws what an attack does to each layer, and how steep the layers are, for one experiment's activations."""

import argparse

from kafnets.report import cards
from kafnets.report.plots import depth, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="a card of each activation (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    found = {card.activation: card for card in map(cards.read, arguments.cards)}
    style.save(depth.draw(found), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
