"""Tables of what is there already, and a list of what is missing."""

import argparse
from pathlib import Path

from kafnets.report import manifest, summary, tables
from kafnets.runtime import cli
from kafnets.runtime.files import atomic_path

MOST_LINES = 40  # on the screen


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", required=True, help="the runs of the grid, one JSON object a line")
    parser.add_argument("--settings", required=True, help="experiment -> settings of its table")
    parser.add_argument("--published", required=True, help="thesis_results.yaml")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    arguments = parser.parse_args()

    missing = []
    runs = manifest.read_manifest(arguments.manifest)
    rows = summary.summarize(runs, missing)
    summary.write_rows(arguments.output / "summary.csv", rows)
    _write(arguments.output / "missing.txt", "".join(f"{line}\n" for line in missing))
    for experiment, settings in cli.settings_argument(arguments.settings).items():
        if not (rows["experiment"] == experiment).any():
            continue
        published = manifest.read_published(arguments.published, settings["reference"])
        texts = tables.texts(rows, runs, experiment, settings, published, missing)
        for suffix, text in texts.items():
            _write(arguments.output / f"{experiment}{suffix}", text)
        print(f"\n{experiment}\n\n{texts['.md']}")
    lines = tell(missing)
    for line in (
        *lines[:MOST_LINES],
        *([f"... {len(lines) - MOST_LINES} more lines"] * (len(lines) > MOST_LINES)),
    ):
        print(line)
    where = f"; all of them: {arguments.output}/missing.txt" if missing else ""
    print(f"{len(rows)} results in {arguments.output}/summary.csv; {len(missing)} missing{where}")


def tell(missing):
    """What is not made yet, a line a network, then what is there and cannot be used."""
    waiting = {}
    for one in missing:
        if one.problem is None:
            experiment, activation, seed, *attack = one.name.split("/")
            network = f"{experiment}/{activation}/{seed}"
            waiting.setdefault(network, []).append("/".join(attack) or "its training, and so its attacks")
    bad = [str(one) for one in missing if one.problem is not None]
    return [
        *(["Not made yet (snakemake makes it):"] if waiting else []),
        *(f"  {network}: {', '.join(attacks)}" for network, attacks in waiting.items()),
        *(["Damaged, or made with other settings:"] if bad else []),
        *(f"  {line}" for line in bad),
    ]


def _write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
