"""Writes the tables of README.md and docs/thesis.md that come from results/reference/h200-2026-11-27.

PYTHONPATH=workflow/scripts python docs/tables.py [--check]

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. The records there are of an
earlier version, with fewer keys than today's: they are read as they are, and checked against their files.
"""

import argparse
import re
from pathlib import Path

import numpy
from kafnets.registry import label
from kafnets.report.manifest import read_published
from kafnets.report.statistics import wilson
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json, sha256
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "reference" / "h200-2026-11-27"
PAGES = ("README.md", "docs/thesis.md")
WORDS = ("activation", "on, commit, date")  # columns that are no numbers


def trained():
    """The networks trained and attacked so far: rows of the first table."""
    published = read_published(ROOT / "workflow/resources/thesis_results.yaml", "resnet20")["results"]
    rows = []
    for path in sorted(RESULTS.glob("thesis/models/resnet20/*/seed*/record.json")):
        record = read_json(path)
        activation, seed = path.parts[-3:-1]
        _check_files(path.parent, record, model_sha256="model.safetensors", history_sha256="history.csv")
        correct = {}
        for attack in ("clean", "pgd"):
            found = read_json(RESULTS / f"thesis/evaluations/resnet20/{activation}/{seed}/{attack}.json")
            folder = RESULTS / f"thesis/evaluations/resnet20/{activation}/{seed}"
            _check_files(folder, found, verdicts_sha256=f"{attack}.safetensors")
            if found["model_sha256"] != record["model_sha256"]:
                raise UserError(f"{folder}/{attack}.json: of another network than {path}; copy them again")
            correct[attack] = _counted(load_file(folder / f"{attack}.safetensors"), found)
        where = record["environment"]
        rows.append(
            [
                label(activation),
                seed.removeprefix("seed"),
                *(_percent(*correct[attack]) for attack in ("clean", "pgd")),
                f"{published[activation]['accuracy']:.2f}",
                f"{published[activation]['robustness']:.2f}",
                f"{record['wall_seconds']:.0f} s",
                f"{where['device']}, `{where['git_commit'][:7]}`, {record['finished'][:10]}",
            ]
        )
    heads = ["activation", "seed", "accuracy", "PGD-50-10", "published accuracy", "published robustness"]
    return [*heads, "training", "on, commit, date"], rows


def judged():
    """The thesis's own networks under PGD-50-10: rows of the second table."""
    published = read_published(ROOT / "workflow/resources/thesis_results.yaml", "resnet20")["results"]
    rows = []
    for activation in ("relu", "kaf", "swish"):
        path = RESULTS / "published" / f"published_pgd_{activation}.json"
        found = read_json(path)
        with numpy.load(path.with_suffix(".npz")) as file:
            verdicts = dict(file)
        robust, clean = _counted(verdicts, found), (int(verdicts["clean"].sum()), len(verdicts["clean"]))
        ours, theirs = f"{100 * robust[0] / robust[1]:.2f}", published[activation]
        interval = _percent(*robust).partition(" ")[2]
        rows.append(
            [
                label(activation),
                f"{100 * clean[0] / clean[1]:.2f}",
                f"{theirs['accuracy']:.2f}",
                f"{ours} {interval}",
                f"{theirs['robustness']:.2f}",
                f"{found['seconds_here']:.1f} s",
            ]
        )
    heads = ["activation", "accuracy", "published", "PGD-50-10", "published (thesis protocol)", "seconds"]
    return heads, rows


TABLES = {"trained": trained, "judged": judged}


def _check_files(folder, record, **names):
    for key, name in names.items():
        if record[key] != sha256(folder / name):
            raise UserError(f"{folder / name}: not the file that its record tells of; restore it")


def _counted(verdicts, record):
    """(right, of how many) by the verdicts on the images, which the record must agree with."""
    counted = int(verdicts["robust"].sum()), len(verdicts["robust"])
    if counted != (record["correct"], record["examples"]):
        raise UserError(f"{counted} by the verdicts, {record['correct']} by the record; restore the files")
    return counted


def _percent(correct, examples):
    interval = wilson(correct, examples)
    return f"{100 * correct / examples:.2f} ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def markdown(heads, rows):
    rule = ["---" if head in WORDS else "---:" for head in heads]
    return "\n".join([_line(heads), f"|{'|'.join(rule)}|", *map(_line, rows)])


def _line(cells):
    return f"| {' | '.join(cells)} |"


def filled(text):
    """A page with its tables made again."""

    def table(match):
        return f"{match[1]}\n\n{markdown(*TABLES[match[2]]())}\n\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; an error where a table differs")
    check = parser.parse_args().check
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if check and filled(text) != text:
            raise UserError(f"{name}: its tables are not those of {RESULTS.name}; write them again")
        if not check:
            page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
