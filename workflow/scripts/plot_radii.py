"""Draws robust accuracy against the radius of the attack, for one experiment's activations."""

import argparse

from kafnets.report import cards
from kafnets.report.plots import radii, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="their cards (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    found = {}
    for path in arguments.cards:
        card = cards.read(path)
        found.setdefault(card.activation, []).append(card)
    style.save(radii.draw(found), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
