"""Writes the results page: one HTML file with tables, figures, networks and the study."""

import argparse
import os
import urllib.parse
from pathlib import Path

from kafnets.report.page import document, reading
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="what stands on the page (JSON)")
    parser.add_argument("--folder", required=True, type=Path, help="of tables, plots and cards")
    parser.add_argument("--manifest", required=True, help="the runs of the grid, one JSON object a line")
    parser.add_argument("--summary", required=True, help="summary.csv of aggregate.py")
    parser.add_argument("--captions", required=True, nargs="*", type=Path, help="of the kinds of figures")
    parser.add_argument("--study", type=Path, help="study.md of render_study.py")
    parser.add_argument("--output", required=True, type=Path, help="written")
    arguments = parser.parse_args()

    captions = {path.stem: _read(path) for path in arguments.captions}
    found = reading.experiments(
        cli.settings_argument(arguments.settings),
        arguments.folder,
        arguments.manifest,
        arguments.summary,
        captions,
    )
    study = _read(arguments.study) if arguments.study else None
    text = document.render(found, study, link=lambda path: _address(path, arguments.output.parent))
    with atomic_path(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None


def _address(path, folder):
    """A file's address from a page in `folder`."""
    return urllib.parse.quote(os.path.relpath(path, folder).replace(os.sep, "/"))


if __name__ == "__main__":
    cli.run(main)
