"""Records in, rows out: the one place where the tables' and plots' numbers are read and checked.

A manifest names every run that the configuration asks for, the records it left and the settings they must
have been made with. Nothing else on the disk is looked at, so what an older configuration left in the folder
cannot slip into a table.
"""

import csv
import io
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..config.slices import WORST_CASE
from ..runtime.errors import UserError
from ..runtime.files import read_json, read_sealed, sha256, write_sealed
from .statistics import worst_case

COLUMNS = {
    "experiment": str,
    "architecture": str,
    "dataset": str,
    "activation": str,
    "seed": int,
    "attack": str,
    "method": str,
    "eps": str,
    "examples": int,
    "correct": int,
    "accuracy": float,
    "clean_accuracy": float,
    "trainable_parameters": int,
    "training_seconds": float,
    "evaluation_seconds": float,
    "queries": int,
    "zero_gradient_fraction": float,
    "random": int,  # 0, or by how many passes a random network was judged
    "catastrophic_overfitting": str,
    "adversary": str,
}

# What is read of a record beside its identity.
TRAINING_KEYS = (
    "settings",
    "parameters",
    "wall_seconds",
    "final",
    "catastrophic_overfitting",
    "model_sha256",
)
PUBLISHED_KEYS = ("settings", "parameters", "model_sha256")
EVALUATION_KEYS = (
    "settings",
    "examples",
    "correct",
    "accuracy",
    "clean_accuracy",
    "queries",
    "zero_gradient_fraction",
    "random",
    "wall_seconds",
    "model_sha256",
    "verdicts_sha256",
)

HISTORY = (
    "epoch",
    "phase",
    "learning_rate",
    "loss",
    "fgsm_accuracy",
    "clean_accuracy",
    "probe_fgsm_accuracy",
    "probe_pgd_accuracy",
    "gradient_norm",
)

# Values of the column `catastrophic_overfitting`, from good to bad: FGSM training never collapsed, it did but
# had recovered when the training ended, the weights that were evaluated are those of a collapsed model.
OVERFITTING = ("none", "recovered", "at_end")


@dataclass(frozen=True)
class Run:
    """One line of a manifest: a training and the evaluations of its model."""

    experiment: str
    activation: str
    seed: int
    architecture: str
    dataset: str
    training_record: str
    history: str | None  # None: published weights, which were not trained here
    training_settings: dict
    evaluations: dict  # attack -> {"record": path, "verdicts": path, "settings": dict}
    worst_case: tuple = ()  # the attacks that are merged into one, of the same ball

    @property
    def identity(self):
        return {"experiment": self.experiment, "activation": self.activation, "seed": self.seed}

    @property
    def is_trained(self):
        return "training" in self.training_settings

    def __str__(self):
        return f"{self.experiment}/{self.activation}/seed{self.seed}"


def read_manifest(path, experiment=None):
    """The runs that a manifest lists (only those of `experiment`, when one is named), in its order.

    Raises:
        UserError: when the file is absent or damaged, a line is not a run, a run is listed twice or none is
            left.
    """
    runs = {}
    for number, line in enumerate(read_sealed(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            run = Run(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a run of a manifest: {error}") from None
        if str(run) in runs:
            raise UserError(f"{path}, line {number}: {run} is listed twice; list each run once")
        runs[str(run)] = run
    chosen = [run for run in runs.values() if experiment in (None, run.experiment)]
    if not chosen:
        raise UserError(f"{path}: lists no run" + (f" of experiment {experiment!r}" if experiment else ""))
    return chosen


def training_record(run):
    """The record of a run's weights, checked: of their training, or of their publication.

    Raises:
        UserError: when it is absent, of another run, or made with other settings than the manifest expects.
    """
    kind, keys = ("training", TRAINING_KEYS) if run.is_trained else ("published", PUBLISHED_KEYS)
    record = _checked_record(run.training_record, {"kind": kind, **run.identity}, keys)
    _check_settings(run.training_record, record, run.training_settings)
    return record


def evaluation_record(run, attack):
    """The record of one evaluation of a run, checked against its verdict file and the manifest.

    Raises:
        UserError: when a file is absent, of another run, made with other settings, damaged, or when record
            and verdicts do not say the same.
    """
    files = run.evaluations[attack]
    path = files["record"]
    identity = {"kind": "evaluation", **run.identity, "attack": attack}
    record = _checked_record(path, identity, EVALUATION_KEYS)
    _check_settings(path, record, files["settings"])
    _check_verdicts(path, record, files["verdicts"])
    return record


def read_history(run):
    """The history of a run: column -> list, one value an epoch; what was not measured is NaN.

    Raises:
        UserError: when it is absent, empty, not a history or not that of the run's record.
    """
    record = training_record(run)
    last = record["final"]["epoch"]
    rows = _read_csv(run.history)
    if record.get("history_sha256") != sha256(run.history):
        raise UserError(f"{run.history}: its checksum is not the one in {run.training_record}; train again")
    try:
        history = {
            name: [row[name] if name == "phase" else float(row[name] or "nan") for row in rows]
            for name in HISTORY
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.history}: not a training history ({error}); train again") from None
    if len(rows) != last:
        raise UserError(f"{run.history}: has {len(rows)} epochs, the record {last}; train again")
    return history


@dataclass(frozen=True)
class Missing:
    """A training ("vgg/relu/seed0") or one attack on it ("vgg/relu/seed0/pgd") that has no usable record."""

    name: str
    problem: str | None = None  # what is wrong with the record; None: it was not made yet

    def __str__(self):
        return f"{self.name}: {self.problem or 'not made yet'}"


def summarize(runs, missing=None):
    """One row per run and attack, and one of their worst case, in the manifest's order (keys: `COLUMNS`).

    Args:
        runs: what `read_manifest` returned.
        missing: None to refuse a run whose records are absent, stale or damaged; a list to leave such cells
            out and have a :class:`Missing` about each appended to it.

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
    return rows


def verdicts(run, attack):
    """The verdicts of one evaluation of a run, or of the worst case, checked: {"robust", "clean"}, (N,) bool.

    Raises:
        UserError: as :func:`evaluation_record`.
    """
    if attack == WORST_CASE:
        every = [verdicts(run, name) for name in run.worst_case]
        return {name: worst_case([one[name] for one in every]) for name in ("robust", "clean")}
    evaluation_record(run, attack)
    loaded = load_file(run.evaluations[attack]["verdicts"])
    return {name: loaded[name].astype(bool) for name in ("robust", "clean")}


def _attempt(missing, name, record, function, *arguments):
    """As :func:`attempt`, of something with a record, which may not be there yet."""
    if missing is not None and not Path(record).exists():
        missing.append(Missing(name))
        return None
    return attempt(missing, name, function, *arguments)


def attempt(missing, name, function, *arguments):
    """`function(*arguments)`, or None with a Missing of `name` in the list `missing`, if that is not None."""
    try:
        return function(*arguments)
    except UserError as error:
        if missing is None:
            raise
        missing.append(Missing(name, str(error)))
        return None


def write_rows(path, rows):
    """Writes summary.csv and its checksum, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_sealed(path, text.getvalue())


def read_rows(path, experiment=None):
    """The rows of summary.csv with their types (an empty field is None), all or those of one experiment.

    Raises:
        UserError: when the file is absent, damaged or has other columns.
    """
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(read_sealed(path))), 2):
        if set(row) != set(COLUMNS):
            different = ", ".join(map(str, set(row) ^ set(COLUMNS)))
            raise UserError(f"{path}: not a summary: missing or unknown columns: {different}")
        try:
            typed = {name: kind(row[name]) if row[name] else None for name, kind in COLUMNS.items()}
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if experiment in (None, typed["experiment"]):
            rows.append(typed)
    return rows


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (None of a single value) of `n` values."""

    mean: float
    deviation: float | None
    n: int


def statistic(values):
    """The Statistic of `values`, or None when there is none."""
    values = list(values)
    if not values:
        return None
    return Statistic(
        statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)
    )


def over_seeds(rows, activation, attack, quantity="accuracy"):
    """The Statistic of a quantity over the seeds of one activation and attack, or None if nothing was run."""
    return statistic(
        row[quantity] for row in rows if row["activation"] == activation and row["attack"] == attack
    )


def clean_attack(rows):
    """The name of the evaluation without an attack, or None when there is none."""
    return next((row["attack"] for row in rows if row["method"] == "clean"), None)


def clean_accuracy(rows, activation, headline):
    """The Statistic of the clean accuracy: that of the evaluation without an attack, else the headline's."""
    found = over_seeds(rows, activation, clean_attack(rows))
    return found or over_seeds(rows, activation, headline, "clean_accuracy")


def read_published(path, reference):
    """The published numbers of one row set of thesis_results.yaml, or None when `reference` is None.

    Raises:
        UserError: when the file has no such row set.
    """
    if reference is None:
        return None
    if path is None:
        raise UserError(f"reference: {reference!r} needs --published, the file of published results")
    import yaml

    try:
        sets = yaml.safe_load(Path(path).read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read the published results: {error}") from None
    if reference not in sets:
        raise UserError(
            f"reference: {path} has no results for {reference!r}; choose one of {', '.join(sets)} or null"
        )
    return sets[reference]


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


def _checked_record(path, identity, keys):
    record = read_json(path)
    for key, expected in identity.items():
        if record.get(key) != expected:
            raise UserError(
                f"{path}: {key} is {record.get(key)!r} where {expected!r} belongs; "
                f"delete it to have it made again"
            )
    absent = [key for key in keys if key not in record]
    if absent:
        raise UserError(f"{path}: lacks {', '.join(absent)}; delete it to have it made again")
    return record


def _check_settings(path, record, expected):
    difference = _difference(expected, record.get("settings"))
    if difference:
        raise UserError(
            f"{path}: made with other settings: {difference}; run snakemake again to remake it "
            "(with --forceall if it was moved here)"
        )


def _difference(expected, found, key="settings"):
    """The first key (dotted) in which two settings differ, in words, or None."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in [*expected, *(found.keys() - expected.keys())]:
            inner = name if key == "settings" else f"{key}.{name}"
            if name not in found:
                return f"{inner} is not in the record, {expected[name]!r} in the configuration"
            if name not in expected:
                return f"{inner} is {found[name]!r} in the record, not in the configuration"
            difference = _difference(expected[name], found[name], inner)
            if difference:
                return difference
        return None
    if expected == found:
        return None
    return f"{key} is {found!r} in the record, {expected!r} in the configuration"


def _check_verdicts(path, record, verdicts_path):
    again = "delete both to have them made again"
    if not Path(verdicts_path).is_file():
        raise UserError(f"{verdicts_path}: no such file, but {path} belongs to it; {again}")
    if sha256(verdicts_path) != record["verdicts_sha256"]:
        raise UserError(f"{verdicts_path}: its checksum is not the one in {path}; {again}")
    try:
        verdicts = load_file(verdicts_path)
    except SafetensorError as error:
        raise UserError(f"{verdicts_path}: not a verdict file ({error}); {again}") from None
    examples = record["examples"]
    for name in ("robust", "clean"):
        if name not in verdicts or verdicts[name].shape != (examples,):
            raise UserError(f"{verdicts_path}: does not hold {examples} {name!r} verdicts; {again}")
    correct = numpy.count_nonzero(verdicts["robust"])
    clean = numpy.count_nonzero(verdicts["clean"])
    if correct != record["correct"]:
        raise UserError(f"{path}: says {record['correct']} correct, its verdicts {correct}; {again}")
    for name, count in (("accuracy", correct), ("clean_accuracy", clean)):
        if not math.isclose(record[name], count / examples, abs_tol=1e-9):
            raise UserError(f"{path}: {name} is {record[name]}, its verdicts say {count}/{examples}; {again}")


def _read_csv(path):
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file: {error}") from None
