"""Prints records of evaluations as one table, or the tables of a folder of results.

kafnets table results/mine/*.json
kafnets table results
"""

from pathlib import Path

from ..runtime.errors import UserError


def options(parser):
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[Path("results")],
        help="records (.json), or one folder, the `output` of config.yaml (default: results)",
    )
    parser.add_argument("--experiments", nargs="*", default=(), help="of a folder only the tables of these")


def run(arguments):
    from ..report import printing

    folders = [path for path in arguments.paths if path.suffix != ".json"]
    if not folders:
        print(printing.of_records(arguments.paths))
        return
    if len(arguments.paths) > 1:
        raise UserError(f"{folders[0]}: is no record; write one folder, or records (.json) alone")
    for text in printing.of_folder(folders[0], arguments.experiments):
        print(text)
