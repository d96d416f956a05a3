"""Prints records of evaluations and of certificates as tables, or the tables of a folder of results.

kafnets table results/mine
kafnets table results/mine/*.json
kafnets table results
"""

from pathlib import Path

from ..runtime.errors import UserError
from . import reading


def options(parser):
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[Path("results")],
        help="records (.json), or one folder: of records, or the `output` of config.yaml (default: results)",
    )
    parser.add_argument("--experiments", nargs="*", default=(), help="of a folder only the tables of these")


def run(arguments):
    from ..report import printing

    folders = [path for path in arguments.paths if path.suffix != ".json"]
    if not folders:
        _print_records(arguments.paths)
        return
    if len(arguments.paths) > 1:
        raise UserError(f"{folders[0]}: is no record; write one folder, or records (.json) alone")
    records = [] if (folders[0] / "tables").is_dir() else sorted(folders[0].glob("*.json"))
    kinds = {path: reading.kind_of(path) for path in records}
    if any(kind in printing.KINDS for kind in kinds.values()):
        _print_records([path for path, kind in kinds.items() if kind in printing.KINDS])
        left = [path.name for path, kind in kinds.items() if kind not in printing.KINDS]
        if left:
            print(f"\nNeither of an evaluation nor of a certificate: {', '.join(left)}")
        return
    for text in printing.of_folder(folders[0], arguments.experiments):
        print(text)


def _print_records(paths):
    from ..report import printing

    print("\n\n".join(printing.of_records([(path, reading.record_of(path)) for path in paths])))
