"""Draws the distribution of each layer's activations of one network, clean and attacked."""

import argparse

from kafnets.report import cards
from kafnets.report.plots import layers, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", required=True, help="the network's card (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    card = cards.read(arguments.card)
    style.save(layers.draw(card, cards.tensors(card)), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
