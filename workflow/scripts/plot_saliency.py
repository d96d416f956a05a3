"""Draws the gradients of networks with respect to the pixels, clean-trained ones beside robust ones."""

import argparse

from kafnets.diagnostics import reading
from kafnets.report.plots import pictures, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="their cards (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    cards = [reading.read(path) for path in arguments.cards]
    drawn = pictures.saliency(cards, [reading.tensors(card) for card in cards])
    style.save(drawn, arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
