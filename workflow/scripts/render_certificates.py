"""Writes the certificates of one experiment as a table: CSV, Markdown, LaTeX and JSON."""

import argparse

from kafnets.report import certificates, certified_table, json_tables, typesetting
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="title, activations, certificates, ... (JSON)")
    parser.add_argument("--records", required=True, nargs="+", help="of its networks' certifications (JSON)")
    parser.add_argument("--csv", required=True)
    parser.add_argument("--md", required=True)
    parser.add_argument("--tex", required=True)
    parser.add_argument("--json", help="for the results page")
    arguments = parser.parse_args()

    found = [certificates.read(path) for path in arguments.records]
    table = certified_table.build(found, found[0].experiment, cli.settings_argument(arguments.settings))
    outputs = {
        arguments.csv: typesetting.to_csv,
        arguments.md: typesetting.to_markdown,
        arguments.tex: typesetting.to_tex,
    }
    if arguments.json:
        outputs[arguments.json] = json_tables.to_json
    for path, text in outputs.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text(table), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
