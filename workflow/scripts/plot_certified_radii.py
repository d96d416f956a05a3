"""Draws certified accuracy against the radius, for one experiment's activations."""

import argparse

from kafnets.report import certificates
from kafnets.report.plots import certified_radii, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="title, activations, certificates, ... (JSON)")
    parser.add_argument("--records", required=True, nargs="+", help="of its networks' certifications (JSON)")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    found = [certificates.read(path) for path in arguments.records]
    drawn = certified_radii.draw(found, cli.settings_argument(arguments.settings))
    style.save(drawn, arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
