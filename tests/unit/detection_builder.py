"""Records of detectors under attack with their scores, as `detect.py` writes them, for who reads them."""

import csv
import json

import numpy as np
from kafnets.detection import metrics
from kafnets.detection.judge import COLUMNS, of_columns
from kafnets.runtime.files import sha256, write_json

EXAMPLES = 200
THRESHOLDS = {0.01: 2.3, 0.05: 1.6}
SETTINGS = {
    "title": "Tiny_50%",
    "detectors": {
        "confidence": {"method": "confidence"},
        "metzen_dynamic": {"method": "metzen", "eps": "8/255", "step": "2/255", "dynamic": True},
    },
    "attacks": {
        "static": {"method": "pgd", "eps": "8/255", "step": "1/255", "iterations": 20},
        "cw": {"method": "cw_detector", "iterations": 20, "search_steps": 5},
        "orthogonal": {"method": "orthogonal_pgd", "eps": "8/255", "step": "1/255", "iterations": 20},
    },
    "static": "static",
    "merged": ["static", "orthogonal"],
}
# how far above a clean image's an attacked image's score is, in its standard deviations
SHIFTS = {"static": 2.5, "cw": 0.3, "orthogonal": -0.2}


def columns(attack, detector, activation, seed=0):
    """Scores of normal distributions; every tenth image is wrong as it is, every sixth right to the end."""
    name = f"{detector} {activation} {seed}"
    clean = np.random.default_rng(list(name.encode())).normal(size=EXAMPLES)
    score = clean + SHIFTS[attack] + 0.1 * np.random.default_rng(list(attack.encode())).random(EXAMPLES)
    label = np.arange(EXAMPLES) % 10
    wrong, never = np.arange(EXAMPLES) % 10 == 3, np.arange(EXAMPLES) % 6 == 1
    length = 2.0 if attack == "cw" else 8 / 255
    return {
        "label": label,
        "clean_answer": np.where(wrong, (label + 1) % 10, label),
        "clean_score": clean,
        "answer": np.where(never & ~wrong, label, (label + 2) % 10),
        "score": np.where(wrong, np.minimum(score, clean), score),
        "linf": np.where(wrong, 0.0, length),
        "l2": np.where(wrong, 0.0, 30 * length),
    }


def write(folder, attack, detector="confidence", activation="relu", seed=0, **changes):
    """Writes a record and its scores; returns the record's path."""
    path = folder / activation / f"seed{seed}" / detector / f"{attack}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = path.with_suffix(".csv")
    found = columns(attack, detector, activation, seed)
    with open(scores, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", *COLUMNS))
        writer.writerows(
            zip(range(5, EXAMPLES + 5), *(found[name].tolist() for name in COLUMNS), strict=True)
        )
    record = {
        "kind": "detection",
        **{"experiment": "tiny", "activation": activation, "seed": seed},
        **{"detector": detector, "attack": attack, "settings": {}, "held_out": 1000},
        **metrics.figures(*of_columns(found), THRESHOLDS),
        **{"model_sha256": f"{activation}{seed}", "detector_sha256": detector, "data_sha256": "digits"},
        **{"csv_sha256": sha256(scores)},
        **changes,
    }
    write_json(path, record)
    return path


def write_all(folder, activations=("relu", "kaf"), seeds=(0,), settings=SETTINGS):
    """One record a network, detector and attack."""
    return [
        write(folder, attack, detector, activation, seed)
        for activation in activations
        for seed in seeds
        for detector in settings["detectors"]
        for attack in settings["attacks"]
    ]


def as_json(settings=SETTINGS):
    return json.dumps(settings)
