"""What detectors came to under attacks: records and scores, read and checked; needs no torch."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..detection import metrics
from ..runtime.errors import UserError
from ..runtime.files import read_json, sha256

# What attacks on one detector have in common: scores are compared with each other and with one threshold.
_COMMON = ("model_sha256", "detector_sha256", "data_sha256", "held_out")
KEYS = (
    *("experiment", "activation", "seed", "detector", "attack", "settings", "rates", "csv_sha256"),
    *_COMMON,
)
_INTEGERS = ("label", "clean_answer", "answer")
_FLOATS = ("clean_score", "score", "linf", "l2")
_AGAIN = "delete it to have it made again"


@dataclass(frozen=True)
class Judged:
    """One detector beside one network, under one attack.

    Args:
        experiment, activation, seed, detector, attack: which.
        record: what was written of it.
        columns: of each image what the CSV file beside the record holds, arrays of (N,).
    """

    experiment: str
    activation: str
    seed: int
    detector: str
    attack: str
    record: dict
    columns: dict

    @property
    def thresholds(self):
        """Rate -> threshold."""
        return {one["rate"]: one["threshold"] for one in self.record["rates"]}

    @property
    def clean(self):
        wrong = self.columns["clean_answer"] != self.columns["label"]
        return {"score": self.columns["clean_score"], "misclassified": wrong}

    @property
    def evading(self):
        """(N,) the score at which the attack has each image misclassified; infinite where it has not."""
        wrong = self.columns["answer"] != self.columns["label"]
        return metrics.lowest([{"score": self.columns["score"], "misclassified": wrong}])


def read(path):
    """What the record in the file `path`, and the CSV file beside it, say.

    Raises:
        UserError: when one is absent, damaged, or they do not belong together.
    """
    record, path = read_json(path), Path(path)
    if record.get("kind") != "detection":
        raise UserError(f"{path}: not the record of a detector under attack; {_AGAIN}")
    absent = [key for key in KEYS if key not in record]
    if absent:
        raise UserError(f"{path}: lacks {', '.join(absent)}; {_AGAIN}")
    scores = path.with_suffix(".csv")
    if not scores.is_file():
        raise UserError(
            f"{scores}: no such file, but {path} belongs to it; delete {path} to have both made again"
        )
    if sha256(scores) != record["csv_sha256"]:
        raise UserError(
            f"{scores}: its checksum is not the one in {path}; delete both to have them made again"
        )
    identity = {key: record[key] for key in ("experiment", "activation", "seed", "detector", "attack")}
    return Judged(**identity, record=record, columns=_columns(scores))


def _columns(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {
            **{name: np.array([int(row[name]) for row in rows]) for name in ("image", *_INTEGERS)},
            **{name: np.array([float(row[name]) for row in rows]) for name in _FLOATS},
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of scores ({error}); {_AGAIN}") from None


@dataclass(frozen=True)
class Guarded:
    """One detector beside one network, under all attacks.

    Args:
        activation, seed, detector: which.
        attacks: name -> Judged.
    """

    activation: str
    seed: int
    detector: str
    attacks: dict

    def adaptive(self, merged, ball):
        """(N,) the lowest scores that an attacker reaches in the ball who knows the detector and all attacks.

        Args:
            merged: names of the attacks in that ball, norm and radius.
            ball (tuple): the norm and the radius; of every other attack those images count whose recorded
                perturbation lies within. None: only `merged` counts.
        """
        found = [self.attacks[name].evading for name in merged]
        if ball is not None:
            norm, eps = ball
            others = [one for name, one in self.attacks.items() if name not in merged]
            found += [np.where(one.columns[norm] <= eps, one.evading, np.inf) for one in others]
        return np.minimum.reduce(found)

    def figures(self, evading):
        """:func:`.metrics.figures` of the lowest scores at which the images are misclassified, (N,)."""
        first = next(iter(self.attacks.values()))
        return metrics.figures(first.clean, evading, first.thresholds)

    def curve(self, evading):
        """False and true positive rates, of images right unperturbed; None where none of them is fooled."""
        first = next(iter(self.attacks.values()))
        clean, fooled = metrics.of_fooled(first.clean, evading)
        return metrics.roc(clean, fooled) if len(fooled) else None


def guarded(judged, settings):
    """One :class:`Guarded` a network and detector; detectors in the order of the settings.

    Args:
        judged: list of Judged, of one experiment.
        settings: of :func:`kafnets.config.detection.table_settings`.

    Raises:
        UserError: when an attack of the settings is missing, or attacks are not on the same images, network
            and detector.
    """
    found = {}
    for one in judged:
        found.setdefault((one.activation, one.seed), {}).setdefault(one.detector, {})[one.attack] = one
    made = []
    for (activation, seed), detectors in found.items():
        for detector in settings["detectors"]:
            attacks = detectors.get(detector, {})
            _check(f"{activation}/seed{seed}/{detector}", attacks, settings["attacks"])
            made.append(Guarded(activation, seed, detector, attacks))
    return made


def _check(name, attacks, wanted):
    absent = [attack for attack in wanted if attack not in attacks]
    if absent:
        raise UserError(f"{name}: no record of {', '.join(absent)}; run snakemake again to have it made")
    first = attacks[next(iter(wanted))]
    for one in attacks.values():
        same = np.array_equal(one.columns["image"], first.columns["image"])
        if not same or any(one.record[key] != first.record[key] for key in _COMMON):
            raise UserError(
                f"{name}: {one.attack} and {first.attack} are of other images, weights or detectors; delete "
                "both and run snakemake to have them made again"
            )
