"""Writes the tables of one experiment's detectors under attacks: LaTeX, CSV, Markdown and JSON."""

import argparse
from pathlib import Path

from kafnets.report import detection_table, detections, json_tables, typesetting
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", required=True, nargs="+", help="of its detectors and attacks (JSON)")
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--output", required=True, type=Path, help="PATH.md, PATH_attacks.md ... are written")
    arguments = parser.parse_args()
    settings = cli.settings_argument(arguments.settings)
    guarded = detections.guarded([detections.read(path) for path in arguments.records], settings)
    tables = {
        "": detection_table.build(guarded, settings),
        "_attacks": detection_table.of_attacks(guarded, settings),
    }
    kinds = {
        "csv": typesetting.to_csv,
        "md": typesetting.to_markdown,
        "tex": typesetting.to_tex,
        "json": json_tables.to_json,
    }
    for name, table in tables.items():
        for kind, text in kinds.items():
            with atomic_path(f"{arguments.output}{name}.{kind}") as temporary:
                temporary.write_text(text(table), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
