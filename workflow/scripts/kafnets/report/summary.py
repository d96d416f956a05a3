"""The numbers of a report: a row for each network and attack, as the records say, and means over seeds."""

from pathlib import Path

from ..config.slices import WORST_CASE
from ..runtime.errors import UserError, optional
from ..runtime.files import read_sealed, write_sealed
from . import statistics
from .manifest import Missing, attempt, evaluation_record, read_csv, training_record, verdicts

COLUMNS = {
    "experiment": "str",
    "architecture": "str",
    "dataset": "str",
    "activation": "str",
    "seed": "int64",
    "attack": "str",
    "method": "str",
    "eps": "str",
    "examples": "int64",
    "correct": "int64",
    "accuracy": "float64",
    "clean_accuracy": "float64",
    "trainable_parameters": "int64",
    "training_seconds": "float64",
    "evaluation_seconds": "float64",
    "queries": "int64",
    "zero_gradient_fraction": "float64",
    "random": "int64",  # 0, or by how many passes a random network was judged
    "catastrophic_overfitting": "str",
    "adversary": "str",
}

# Values of the column `catastrophic_overfitting`, from good to bad: FGSM training never collapsed, it did but
# had recovered when the training ended, the weights that were evaluated are those of a collapsed model.
OVERFITTING = ("none", "recovered", "at_end")


def summarize(runs, missing=None):
    """A DataFrame of one row per run and attack, and one of their worst case, in the manifest's order.

    Its columns are `COLUMNS`; what there is not (eps without an attack) is NaN.

    Args:
        runs: what `manifest.read_manifest` returned.
        missing: None to refuse a run whose records are absent, stale or damaged; a list to leave such cells
            out and have a `manifest.Missing` about each appended to it.

    Raises:
        UserError: for the first bad record, when `missing` is None.
    """
    rows = []
    for run in runs:
        training = _attempt(missing, str(run), run.training_record, training_record, run)
        if training is None:
            continue
        of_run = {}
        for attack in run.evaluations:
            path = run.evaluations[attack]["record"]
            row = _attempt(missing, f"{run}/{attack}", path, _row, run, training, attack)
            if row is not None:
                rows.append(row)
                of_run[attack] = row
        # without one of them it would be the worst of fewer attacks: what is missing is said above
        if run.worst_case and of_run.keys() >= set(run.worst_case):
            rows.append(_worst_row(run, [of_run[attack] for attack in run.worst_case]))
    return as_frame(rows)


def _attempt(missing, name, record, function, *arguments):
    """As `manifest.attempt`, of something with a record, which may not be there yet."""
    if missing is not None and not Path(record).exists():
        missing.append(Missing(name))
        return None
    return attempt(missing, name, function, *arguments)


def as_frame(rows):
    """Rows, dicts with the keys `COLUMNS`, as a DataFrame with their types; None becomes NaN."""
    pandas = optional("pandas", "report")
    return pandas.DataFrame(rows, columns=list(COLUMNS), dtype="object").astype(COLUMNS)


def write_rows(path, rows):
    """Writes summary.csv and its checksum, atomically."""
    write_sealed(path, rows.to_csv(index=False, lineterminator="\n"))


def read_rows(path, experiment=None):
    """The rows of summary.csv as :func:`summarize` gave them, all or those of one experiment.

    Raises:
        UserError: when the file is absent, damaged or has other columns.
    """
    text = read_sealed(path)
    try:
        rows = read_csv(text)
        different = ", ".join(set(rows) ^ set(COLUMNS))
        rows = rows if different else as_frame(rows)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if different:
        raise UserError(f"{path}: not a summary: missing or unknown columns: {different}")
    return rows if experiment is None else rows[rows["experiment"] == experiment]


def over_seeds(rows, attack, quantity="accuracy"):
    """A quantity of each activation under one attack, over the seeds.

    Args:
        rows: of one experiment.

    Returns:
        DataFrame: by activation `mean`, `std` (sample standard deviation, NaN of a single seed), `seeds` (how
        many) and `examples` (test images); an activation that was not attacked has no row.
    """
    by_activation = rows[rows["attack"] == attack].groupby("activation", sort=False)
    return by_activation.agg(
        mean=(quantity, "mean"),
        std=(quantity, "std"),
        seeds=(quantity, "size"),
        examples=("examples", "first"),
    )


def in_percent(accuracy):
    """What a table prints of means over seeds (:func:`over_seeds`).

    Returns:
        DataFrame: those, and beside them in percent `percent`, `deviation` (over the seeds, NaN of a single
        one), `low` and `high`, the ends of the Wilson 95 % interval for the choice of test images.
    """
    intervals = [
        statistics.wilson(mean * examples, examples)
        for mean, examples in zip(accuracy["mean"], accuracy["examples"], strict=True)
    ]
    return accuracy.assign(
        percent=100 * accuracy["mean"],
        deviation=100 * accuracy["std"],
        low=[100 * interval.low for interval in intervals],
        high=[100 * interval.high for interval in intervals],
    )


def clean_attack(rows):
    """The name of the evaluation without an attack, or None when there is none."""
    return next(iter(rows.loc[rows["method"] == "clean", "attack"]), None)


def clean_accuracy(rows, headline):
    """The clean accuracy over the seeds, of the evaluation without an attack, else of the headline's.

    Args, returns: as :func:`over_seeds`.
    """
    pandas = optional("pandas", "report")
    found = over_seeds(rows, clean_attack(rows))
    other = over_seeds(rows, headline, "clean_accuracy")
    return pandas.concat([found, other[~other.index.isin(found.index)]])


def trade_off(accuracy, robustness):
    """How good accuracy and robustness are together: their harmonic mean, which a model that gives up one
    for the other cannot raise for long."""
    total = accuracy + robustness
    return 2 * accuracy * robustness / total if total else 0.0


def _row(run, training, attack):
    record = evaluation_record(run, attack)
    if record["model_sha256"] != training["model_sha256"]:
        raise UserError(
            f"{run.evaluations[attack]['record']}: evaluated other weights than those of "
            f"{run.training_record}; delete it to have it made again"
        )
    settings = record["settings"]
    return {
        **run.identity,
        "architecture": run.architecture,
        "dataset": run.dataset,
        "attack": attack,
        "method": settings["method"],
        "eps": settings.get("eps"),
        "examples": record["examples"],
        "correct": record["correct"],
        "accuracy": record["accuracy"],
        "clean_accuracy": record["clean_accuracy"],
        "trainable_parameters": training["parameters"]["trainable"],
        "training_seconds": training["wall_seconds"] if run.is_trained else None,
        "evaluation_seconds": record["wall_seconds"],
        "queries": record["queries"],
        "zero_gradient_fraction": record["zero_gradient_fraction"],
        "random": settings.get("eot_samples", 1) if record["random"] else 0,
        "catastrophic_overfitting": _overfitting(training["catastrophic_overfitting"])
        if run.is_trained
        else None,
        "adversary": _adversary(run.training_settings) if run.is_trained else None,
    }


def _worst_row(run, rows):
    """The row of the worst case of attacks, each of which has a row: what it cost is what they cost."""
    robust = verdicts(run, WORST_CASE)["robust"]
    correct = int(robust.sum())
    return {
        **rows[0],
        "attack": WORST_CASE,
        "method": WORST_CASE,
        "correct": correct,
        "accuracy": correct / len(robust),
        "evaluation_seconds": sum(row["evaluation_seconds"] for row in rows),
        "queries": sum(row["queries"] for row in rows),
    }


def _overfitting(verdict):
    if verdict["at_end"]:
        return "at_end"
    return "recovered" if verdict["detected"] else "none"


def _adversary(settings):
    return settings["training"]["adversary"]["name"]
