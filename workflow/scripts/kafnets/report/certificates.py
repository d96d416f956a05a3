"""Finished certifications, read and checked, and what follows from their images' radii; needs no torch."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy

from ..runtime.errors import UserError
from ..runtime.files import read_json
from ..runtime.units import fraction
from .manifest import read_csv

KEYS = (
    *("experiment", "activation", "seed", "certificate", "norm", "settings", "csv_sha256"),
    *("examples", "clean_accuracy", "accuracy", "average_radius", "abstained", "seconds_per_image"),
)
_COLUMNS = ("label", "answer", "prediction", "radius")


@dataclass(frozen=True)
class Certification:
    """One network under one certificate.

    Args:
        record (dict): its figures.
        right: (N,) bool, whether the certificate's prediction is the label.
        radii: (N,) float, the certified radius; 0 where the prediction is not the label.
    """

    experiment: str
    activation: str
    seed: int
    certificate: str
    record: dict
    right: numpy.ndarray
    radii: numpy.ndarray

    def certified(self, radius):
        """The share of the images that are certified, as their label, at that radius; at 0 the accuracy."""
        return float((self.right & (self.radii >= radius)).mean())

    def __str__(self):
        return f"{self.experiment}/{self.activation}/seed{self.seed}/{self.certificate}"


def read(path):
    """The certification whose record is the file `path`; its images are in the CSV file beside it.

    Raises:
        UserError: when either is absent, damaged, no certification, or when they do not say the same.
    """
    record = read_json(path)
    again = "delete it to have it made again"
    if record.get("kind") != "certification":
        raise UserError(f"{path}: not a certification; {again}")
    absent = [key for key in KEYS if key not in record]
    if absent:
        raise UserError(f"{path}: lacks {', '.join(absent)}; {again}")
    images = _images(Path(path).with_suffix(".csv"), path, record)
    right = (images["prediction"] == images["label"]).to_numpy()
    radii = numpy.where(right, images["radius"], 0.0)
    told = record["examples"], record["accuracy"], record["average_radius"]
    if not numpy.allclose(told, (len(right), right.mean(), radii.mean()), rtol=1e-9, atol=1e-12):
        raise UserError(f"{path}: does not say what its images say; delete both to have them made again")
    identity = {key: record[key] for key in ("experiment", "activation", "seed", "certificate")}
    return Certification(**identity, record=record, right=right, radii=radii)


def _images(path, record_path, record):
    again = f"delete it and {record_path} to have both made again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {again}") from None
    if hashlib.sha256(content).hexdigest() != record["csv_sha256"]:
        raise UserError(f"{path}: its checksum is not the one in {record_path}; {again}")
    try:
        return read_csv(content.decode())[list(_COLUMNS)].astype("float64")
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not a table of images ({error}); {again}") from None


def by_certificate(found):
    """certificate -> activation -> its certifications, one a seed, in the order in which they come."""
    grouped = {}
    for one in found:
        grouped.setdefault(one.certificate, {}).setdefault(one.activation, []).append(one)
    return grouped


NORMS = {"l2": "L2", "linf": "L∞"}


def shown_radius(certificate):
    """The radius at which one number stands for a certificate: its own eps, or in the L2 norm 0.25.

    Args:
        certificate (dict): of `certified_settings`: its `norm` and its `arguments`.

    Returns:
        (float, str): in units of the pixel range, and as it is written.
    """
    eps = certificate["arguments"].get("eps")
    if isinstance(eps, str):
        return fraction(eps), eps
    if eps is not None:
        return float(eps), f"{eps:g}"
    return (0.25, "0.25") if certificate["norm"] == "l2" else (0.0, "0")


def compared(certificate, settings):
    """The attack beside which a certificate is shown, and the radius at which.

    An attack of the certificate's norm, at that attack's radius, or the largest that the certificate tries:
    one of that radius, else the headline, else the first there is. Where none has its norm, the headline.

    Args:
        certificate (dict): as of :func:`shown_radius`.
        settings (dict): of :func:`kafnets.config.certification.certified_settings`.

    Returns:
        (str, float, str): the attack, the radius of the certificate, and both in words.
    """
    balls, headline = settings["balls"], settings["headline"]
    if headline not in balls and settings["worst_case"]:
        balls = {headline: balls[settings["worst_case"][0]], **balls}
    if headline in balls:
        balls = {headline: balls[headline], **balls}
    radius, written = shown_radius(certificate)
    same = {name: eps for name, (norm, eps) in balls.items() if norm == certificate["norm"]}
    most = radius if certificate["arguments"].get("eps") is not None else math.inf
    attack = next((name for name, eps in same.items() if eps == most), next(iter(same), headline))
    if attack in same and same[attack] <= most:
        radius, written = same[attack], _written(certificate["norm"], same[attack])
    against = f"{NORMS[balls[attack][0]]} {_written(*balls[attack])}" if attack in balls else "no radius"
    norm = NORMS[certificate["norm"]]
    return attack, radius, f"{attack} ({against}), certified at {norm} {written}"


def _written(norm, radius):
    return f"{radius:.3g}" if norm == "l2" else f"{255 * radius:.3g}/255"
