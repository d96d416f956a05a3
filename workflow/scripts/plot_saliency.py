"""Draws the gradients of networks with respect to the pixels, clean-trained ones beside robust ones."""

import argparse

from kafnets.report import cards
from kafnets.report.plots import pictures, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="their cards (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    found = [cards.read(path) for path in arguments.cards]
    drawn = pictures.saliency(found, [cards.tensors(card) for card in found])
    style.save(drawn, arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
