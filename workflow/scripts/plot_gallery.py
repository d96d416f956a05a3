"""Draws attacked images of one network, with what it says of them."""

import argparse

from kafnets.report import cards
from kafnets.report.plots import pictures, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", required=True, help="the network's card (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    card = cards.read(arguments.card)
    style.save(pictures.gallery(card, cards.tensors(card)), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
