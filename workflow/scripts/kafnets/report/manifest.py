"""What a report is made from, read and checked: the manifest, the records it names, the published numbers.

A manifest names every run that the configuration asks for, the records it left and the settings they must
have been made with. Nothing else on the disk is looked at, so what an older configuration left in the folder
cannot slip into a table.
"""

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..config.slices import OWN_WEIGHTS, WORST_CASE
from ..runtime.errors import UserError, optional
from ..runtime.files import read_json, read_sealed, sha256
from .statistics import worst_case

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

    @property
    def origin(self):
        """The kind of record that given weights have: "published", or "network" for one of the user's own."""
        return "network" if self.training_settings["weights"] == OWN_WEIGHTS else "published"

    def __str__(self):
        return f"{self.experiment}/{self.activation}/seed{self.seed}"


@dataclass(frozen=True)
class Missing:
    """A training ("vgg/relu/seed0") or one attack on it ("vgg/relu/seed0/pgd") that has no usable record."""

    name: str
    problem: str | None = None  # what is wrong with the record; None: it was not made yet

    def __str__(self):
        return f"{self.name}: {self.problem or 'not made yet'}"


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
    kind, keys = ("training", TRAINING_KEYS) if run.is_trained else (run.origin, PUBLISHED_KEYS)
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


def verdicts(run, attack):
    """The verdicts of one evaluation of a run, or of the worst case, checked: {"robust", "clean"}, (N,) bool.

    Raises:
        UserError: as :func:`evaluation_record`.
    """
    if attack == WORST_CASE:
        merged = [verdicts(run, name) for name in run.worst_case]
        return {name: worst_case([one[name] for one in merged]) for name in ("robust", "clean")}
    evaluation_record(run, attack)
    loaded = load_file(run.evaluations[attack]["verdicts"])
    return {name: loaded[name].astype(bool) for name in ("robust", "clean")}


def read_history(run):
    """The history of a run, a DataFrame: a row an epoch, the columns `HISTORY`; NaN where none was measured.

    Raises:
        UserError: when it is absent, not a history or not that of the run's record.
    """
    record = training_record(run)
    last = record["final"]["epoch"]
    try:
        content = Path(run.history).read_bytes()
    except OSError as error:
        raise UserError(f"{run.history}: cannot read: {error.strerror}") from None
    if record.get("history_sha256") != hashlib.sha256(content).hexdigest():
        raise UserError(f"{run.history}: its checksum is not the one in {run.training_record}; train again")
    try:
        history = read_csv(content.decode())[list(HISTORY)]
        history = history.astype({name: "float64" for name in HISTORY if name != "phase"})
    except (KeyError, ValueError) as error:
        raise UserError(f"{run.history}: not a training history ({error}); train again") from None
    if len(history) != last:
        raise UserError(f"{run.history}: has {len(history)} epochs, the record {last}; train again")
    return history


def read_csv(text):
    """The text of a CSV file as a DataFrame of texts, an empty field as NaN; `astype` makes numbers of them.

    (Numbers that pandas reads itself are not in every version the nearest ones.)

    Raises:
        ValueError: when it is no CSV file.
    """
    pandas = optional("pandas", "report")
    return pandas.read_csv(io.StringIO(text), dtype="str", keep_default_na=False, na_values=[""])


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


def attempt(missing, name, function, *arguments):
    """`function(*arguments)`, or None with a Missing of `name` in the list `missing`, if that is not None."""
    try:
        return function(*arguments)
    except UserError as error:
        if missing is None:
            raise
        missing.append(Missing(name, str(error)))
        return None


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
