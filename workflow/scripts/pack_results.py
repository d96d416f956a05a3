"""Packs the results of an unfinished grid, to go on with it on another machine, and unpacks them there.

    python workflow/scripts/pack_results.py --output carried.tar.xz [--part-size 15M]
    python workflow/scripts/pack_results.py --unpack carried.tar.xz && snakemake --cores 8

Both in the folder that Snakemake runs in. Finished results, the states of unfinished ones, logs and
Snakemake's notes go along; prepared data only with --with-data. Unpacking checks every file, and leaves in
place what is there already and finished, newer or further.
"""

import argparse
import re
from pathlib import Path

from kafnets.pipeline import carrying
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--output", type=Path, help="pack: the archive to write")
    action.add_argument("--unpack", type=Path, metavar="ARCHIVE", help="of parts the name without number")
    parser.add_argument(
        "--results", default="results", help="to pack: the folder that config.yaml calls `output`"
    )
    parser.add_argument("--part-size", type=size, help="cut the archive into parts of so many bytes, as 15M")
    parser.add_argument("--with-data", action="store_true", help="pack the prepared data too")
    arguments = parser.parse_args()
    place = Path.cwd()
    if arguments.output:
        given = (arguments.results, arguments.output, arguments.part_size, arguments.with_data)
        written, count = carrying.pack(place, *given)
        total = sum(path.stat().st_size for path in written)
        print(f"{count:,} files of {arguments.results} in {total / 1e6:.1f} MB:")
        for path in written:
            print(f"  {path}")
        return
    placed, kept = carrying.unpack(place, arguments.unpack)
    for line in kept:
        print(f"kept as it is: {line}")
    print(f"{len(placed):,} files put in place, {len(kept):,} results kept; go on: snakemake --cores 8")


def size(text):
    match = re.fullmatch(r"(\d+)([kMG]?)", text)
    if match is None or int(match[1]) == 0:
        raise UserError(f"--part-size: {text!r}; write a number of bytes, as 15M (k, M, G: 10^3, 10^6, 10^9)")
    return int(match[1]) * _UNITS[match[2]]


if __name__ == "__main__":
    cli.run(main)
