"""The tables of a folder of results, and records of evaluations, as text for a terminal."""

from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import read_json
from . import statistics

FOLDERS = ("tables", "plots", "evaluations", "models")
PAGE = "results.html"
BESIDE = ("_attacks", "_differences")  # the ends of the names of the tables beside the main one


def of_folder(output, experiments=()):
    """The tables of a finished run, the main one of each experiment last, and where its files are.

    Args:
        output (Path): the folder that config.yaml calls `output`.
        experiments (sequence of str): only the tables of these names; none: all that have rows.

    Yields:
        str: a table, or a line.

    Raises:
        UserError: where there is none.
    """
    names = experiments or table_names(output / "tables")
    if not names:
        raise UserError(f"{output}/tables: no table yet; run snakemake first, or name another folder")
    for name in names:
        path = output / "tables" / f"{name}.md"
        if not path.is_file():
            raise UserError(f"{path}: no such table; run snakemake first")
        text = path.read_text(encoding="utf-8")
        if experiments or has_rows(text):
            yield f"\n{name}\n\n{text}"
    yield "Files:"
    for path in (output / PAGE, output / "summary.csv", *(output / folder for folder in FOLDERS)):
        if path.exists():
            yield f"  {path}{'/' if path.is_dir() else ''}"


def table_names(folder):
    """The names of the tables in `folder`: of each experiment those beside the main one, then that."""
    names = {path.stem for path in folder.glob("*.md")}
    beside = {f"{name}{end}" for name in names for end in BESIDE}
    return [one for name in sorted(names - beside) for one in (*_present(names, name), name)]


def _present(names, name):
    return [f"{name}{end}" for end in BESIDE if f"{name}{end}" in names]


def has_rows(text):
    """Whether there is a row below the heads of a Markdown table."""
    return sum(line.startswith("|") for line in text.splitlines()) > 2


def of_records(paths):
    """Records of evaluations as one Markdown table: a row each, robustness with its Wilson 95 % interval.

    Raises:
        UserError: for a file that is no such record, or damaged.
    """
    rows = [("network", "attack", "eps", "images", "clean", "robust", "95 % interval", "warnings")]
    rows += [_row(Path(path), read_json(path)) for path in paths]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(path, record):
    if record.get("kind") != "evaluation":
        raise UserError(
            f"{path}: not the record of an evaluation, but of a {record.get('kind', 'thing unknown')}"
        )
    interval = statistics.wilson(record["correct"], record["examples"])
    settings = record["settings"]
    return (
        _network(record),
        settings.get("attack") or settings["method"],
        settings.get("eps", ""),
        f"{record['examples']:,}",
        f"{record['clean_accuracy']:.2%}",
        f"{record['accuracy']:.2%}",
        f"{interval.low:.1%} to {interval.high:.1%}",
        str(len(record.get("warnings", ()))),
    )


def _network(record):
    described = record.get("network")
    if described is not None:
        return " ".join(filter(None, (described["model"], described.get("weights"))))
    return "/".join(str(record.get(key)) for key in ("experiment", "activation", "seed"))


def _line(cells, widths):
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"
