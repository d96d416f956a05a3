"""Finished evaluation cards, read and checked; needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..diagnostics.checks import LEVEL, judge
from ..runtime.errors import UserError
from ..runtime.files import read_json, sha256

KEYS = ("experiment", "activation", "seed", "settings", "figures", "checks", "tensors_sha256")


@dataclass(frozen=True)
class Card:
    """One network's card: `figures` are what was measured, `checks` what came of it."""

    experiment: str
    activation: str
    seed: int
    training: str  # the adversary it was trained with, "none", or "published"
    classes: tuple
    settings: dict
    figures: dict
    checks: tuple
    path: str
    tensors_sha256: str

    @property
    def failed(self):
        return tuple(check["name"] for check in self.checks if not check["passed"])

    def __str__(self):
        return f"{self.experiment}/{self.activation}/seed{self.seed}"


def read(path):
    """The card in the file `path`.

    Raises:
        UserError: when it is absent, damaged or no card.
    """
    record = read_json(path)
    again = "delete it to have it made again"
    if record.get("kind") != "card":
        raise UserError(f"{path}: not an evaluation card; {again}")
    absent = [key for key in KEYS if key not in record]
    if absent:
        raise UserError(f"{path}: lacks {', '.join(absent)}; {again}")
    return Card(
        **{key: record[key] for key in ("experiment", "activation", "seed", "training", "settings")},
        classes=tuple(record["classes"]),
        figures=record["figures"],
        checks=tuple(record["checks"]),
        path=str(path),
        tensors_sha256=record["tensors_sha256"],
    )


def tensors(card):
    """The tensors beside a card, by name, as NumPy arrays.

    Raises:
        UserError: when their file is absent, or not the one that belongs to the card.
    """
    path = Path(card.path).with_suffix(".safetensors")
    again = f"delete it and {card.path} to have both made again"
    if not path.is_file():
        raise UserError(f"{path}: no such file, but {card.path} belongs to it; {again}")
    if sha256(path) != card.tensors_sha256:
        raise UserError(f"{path}: its checksum is not the one in {card.path}; {again}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); {again}") from None


def failed_checks(cards):
    """Activation -> the names of the checks that its networks fail, in the checks' order.

    More seeds are no more often marked. Of several networks each is tested at LEVEL over their number
    (Bonferroni, which is Holm's first step; the seeds' images are the same, which a test of all of them
    together would have to know), and one that fails is enough. A largest slope has no test: more than half
    of the networks have to be beyond its bound.
    """
    networks = {}
    for card in cards:
        networks.setdefault(card.activation, []).append(card)
    failed = {}
    for name, of_activation in networks.items():
        judged = [judge(card.figures, LEVEL / len(of_activation)) for card in of_activation]
        failed[name] = [of_check[0]["name"] for of_check in zip(*judged, strict=True) if _fails(of_check)]
    return failed


def _fails(judged):
    """Whether an activation fails a check; `judged`: what came of it, a network each."""
    failing = sum(not one["passed"] for one in judged)
    return failing > (0 if judged[0]["unit"] == "share" else len(judged) / 2)
