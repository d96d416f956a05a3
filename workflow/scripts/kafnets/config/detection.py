"""The section `detection` of the configuration, handed out in slices (:mod:`.detection_checks` checks it).

Imports nothing heavy: the workflow reads it in a process that has no torch.
"""

from ..registry import DETECTION_ATTACKS
from ..runtime.units import fraction
from .slices import test_images

# Where a configuration has no such section.
_OFF = {"run": [], "run_detectors": [], "run_attacks": [], "detectors": {}, "attacks": {}}


def section(config):
    """The section; one that asks for nothing where there is none."""
    return config.get("detection", _OFF)


def ball(settings):
    """The (norm, eps) in which an attack's successes lie, eps a float; None for one that has no radius."""
    if "eps" not in settings:
        return None
    norm = settings.get("norm", DETECTION_ATTACKS[settings["method"]].norm)
    return norm, fraction(settings["eps"])


def is_adaptive(settings):
    """Whether an attack knows the detector."""
    return DETECTION_ATTACKS[settings["method"]].adaptive


def blind(found):
    """The attacks that are run and know nothing of the detector."""
    return [name for name in found["run_attacks"] if not is_adaptive(found["attacks"][name])]


def merged(found):
    """The attacks whose lowest scores are what an attacker reaches who knows the detector.

    Those that are run in the ball of the first adaptive one, norm and radius: also those that know nothing of
    the detector, which such an attacker may try too. What other attacks find counts image by image, where it
    lies in this ball: see :meth:`kafnets.report.detections.Guarded.adaptive`.
    """
    attacks = found["attacks"]
    first = next(name for name in found["run_attacks"] if is_adaptive(attacks[name]))
    its = ball(attacks[first])
    if its is None:
        return [first]
    return [name for name in found["run_attacks"] if ball(attacks[name]) == its]


def _identity(config, experiment, activation, seed):
    return {
        "experiment": experiment,
        "activation": activation,
        "seed": int(seed),
        "dataset": config["experiments"][experiment]["dataset"],
    }


def detector_settings(config, experiment, activation, seed, detector):
    """All that decides a detector of one cell's network, but for the network."""
    found = section(config)
    return {
        **_identity(config, experiment, activation, seed),
        "detector": detector,
        "train_examples": found["train_examples"],
        "detector_settings": dict(found["detectors"][detector]),
    }


def detection_settings(config, experiment, activation, seed, detector, attack):
    """All that decides what one attack comes to on one detector, but for the network and the detector."""
    found = section(config)
    return {
        **_identity(config, experiment, activation, seed),
        "detector": detector,
        "attack": attack,
        "examples": test_images(config["experiments"][experiment], found["examples"]),
        "held_out": found["held_out"],
        "attack_settings": dict(found["attacks"][attack]),
    }


def table_settings(config, experiment):
    """What the tables and the plot of an experiment's detectors show."""
    found = section(config)
    return {
        "title": config["experiments"][experiment]["title"],
        "detectors": {name: dict(found["detectors"][name]) for name in found["run_detectors"]},
        "attacks": {name: dict(found["attacks"][name]) for name in found["run_attacks"]},
        "static": blind(found)[0],
        "merged": merged(found),
    }
