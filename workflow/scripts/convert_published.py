"""Converts an archive of the thesis's author, a network saved by Keras, to safetensors.

    python workflow/scripts/convert_published.py --row kaf_elu --archive resnet20_kafelu_ocrob_lrf.zip \\
        --sha256 0123... --output resnet20_kafelu_ocrob_lrf.safetensors

It reads the variables; nothing of the saved program is run.
"""

import argparse
from pathlib import Path

from kafnets import archives, published
from kafnets.runtime import cli


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", required=True, choices=published.SHA256, help="whose network it is")
    parser.add_argument("--archive", required=True, type=Path, help="the author's .zip")
    parser.add_argument("--sha256", required=True, help="the archive's checksum, hexadecimal")
    parser.add_argument("--output", required=True, type=Path, help="written: the tensors, .safetensors")
    arguments = parser.parse_args()
    archives.convert_archive(arguments.row, arguments.archive, arguments.sha256, arguments.output)


if __name__ == "__main__":
    cli.run(main)
