"""The tables of a folder of results, and records as tables, as text for a terminal."""

from pathlib import Path

from ..runtime.errors import UserError
from . import certificates, statistics
from .certified_table import RADII

FOLDERS = ("tables", "plots", "evaluations", "models")
PAGE = "results.html"
KINDS = ("evaluation", "certification")  # of records that are shown as tables
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


def of_records(records):
    """Records as Markdown tables, a row each: one of the evaluations, one of the certificates.

    Args:
        records (list): of (path, record), the rows of a certificate's images beside the file.

    Returns:
        list of str: the tables.

    Raises:
        UserError: for a record of something else, or a certificate whose images say something else.
    """
    of_kind = {kind: [] for kind in KINDS}
    for path, record in records:
        if record.get("kind") not in KINDS:
            raise UserError(
                f"{path}: not the record of an evaluation or a certificate, but of a "
                f"{record.get('kind', 'thing unknown')}"
            )
        of_kind[record["kind"]].append((Path(path), record))
    evaluations, certified = of_kind.values()
    tables = []
    if evaluations:
        head = ("network", "attack", "eps", "images", "clean", "robust", "95 % interval", "warnings")
        tables.append(_table([head, *(_evaluation(record) for _, record in evaluations)]))
    if certified:
        radii = [f"L2 {radius:g}" for radius in RADII[1:]]
        head = ("network", "certificate", "norm", "images", "clean", "right", *radii, "at eps", "mean radius")
        tables.append(_table([head, *(_certificate(path) for path, _ in certified)]))
    return tables


def _table(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _evaluation(record):
    """A row: robustness with its Wilson 95 % interval."""
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


def _certificate(path):
    """A row: the shares of the images that are right and certified at radii, the mean one last."""
    found = certificates.read(path)
    record, norm = found.record, found.record["norm"]
    radius, written = certificates.shown_radius({"norm": norm, "arguments": record["settings"]["arguments"]})
    is_l2 = norm == "l2"
    return (
        _network(record),
        found.certificate,
        certificates.NORMS[norm],
        f"{record['examples']:,}",
        f"{record['clean_accuracy']:.2%}",
        f"{record['accuracy']:.2%}",
        *(f"{found.certified(one):.2%}" if is_l2 else "" for one in RADII[1:]),
        "" if is_l2 else f"{found.certified(radius):.2%} ({written})",
        f"{record['average_radius']:.4f}",
    )


def _network(record):
    described = record.get("network")
    if described is not None:
        return " ".join(filter(None, (described["model"], described.get("weights"))))
    return "/".join(str(record.get(key)) for key in ("experiment", "activation", "seed"))


def _line(cells, widths):
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"
