"""Draws what the detectors of one experiment reject, of clean and of attacked images."""

import argparse

from kafnets.report import detections
from kafnets.report.plots import detection, style
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", required=True, nargs="+", help="of its detectors and attacks (JSON)")
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()
    settings = cli.settings_argument(arguments.settings)
    guarded = detections.guarded([detections.read(path) for path in arguments.records], settings)
    style.save(detection.draw(guarded, settings), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
