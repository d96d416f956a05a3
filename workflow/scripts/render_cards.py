"""Writes the evaluation cards of one experiment as a table: CSV, Markdown and JSON."""

import argparse

from kafnets.report import card_table, cards, json_tables, typesetting
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", required=True, nargs="+", help="the cards of its networks (JSON)")
    parser.add_argument("--title", required=True, help="of the experiment")
    parser.add_argument("--csv", required=True)
    parser.add_argument("--md", required=True)
    parser.add_argument("--json", help="for the results page")
    arguments = parser.parse_args()

    table = card_table.build([cards.read(path) for path in arguments.cards], arguments.title)
    outputs = {arguments.csv: typesetting.to_csv(table), arguments.md: typesetting.to_markdown(table)}
    if arguments.json:
        outputs[arguments.json] = json_tables.to_json(table)
    for path, text in outputs.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
