"""The steps train_detector.py and detect.py: killed and gone on with, made once, of no other network."""

import csv
import json
import os
import re
import signal

import pytest
import torch
from kafnets import create_model, save_model
from kafnets.detection import metrics
from kafnets.report import detections
from kafnets.runtime import checkpoint
from kafnets.runtime.files import read_json, sha256, write_json

from tests.scripts import here

CELL = {"experiment": "tiny", "activation": "kaf", "seed": 0, "dataset": "digits8", "detector": "metzen"}
BALL = {"eps": "24/255", "step": "8/255", "iterations": 2}
DETECTOR = {"method": "metzen", **BALL, "epochs": 3, "batch_size": 8, "width": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with digits, two networks and their records."""
    folder = tmp_path_factory.mktemp("place")
    prepared = ("--output", folder / "digits8.safetensors", "--record", folder / "digits8.json")
    assert here("prepare_data.py", "--dataset", "digits8", *prepared)[0] == 0
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_model(create_model("resnet8", "kaf", image_shape=(3, 8, 8)), folder / f"{seed}.safetensors")
        write_json(folder / f"{seed}.json", {"model_sha256": sha256(folder / f"{seed}.safetensors")})
    return folder


def network(place, seed=0):
    model = ("--model", place / f"{seed}.safetensors", "--model-record", place / f"{seed}.json")
    return *model, "--data", place / "digits8.safetensors", "--device", "cpu", "--code", "x"


def train(place, target, seed=0):
    settings = {**CELL, "train_examples": 20, "detector_settings": DETECTOR}
    outputs = ("--detector", target / "metzen.safetensors", "--record", target / "metzen.json")
    return here("train_detector.py", "--settings", json.dumps(settings), *network(place, seed), *outputs)


def detect(place, detector, target, seed=0):
    settings = {**CELL, "attack": "orthogonal", "examples": 12, "held_out": 100}
    settings["attack_settings"] = {"method": "orthogonal_pgd", **BALL}
    inputs = ("--detector", detector / "metzen.safetensors", "--detector-record", detector / "metzen.json")
    outputs = ("--record", target / "orthogonal.json", "--csv", target / "orthogonal.csv")
    return here("detect.py", "--settings", json.dumps(settings), *network(place, seed), *inputs, *outputs)


@pytest.fixture(scope="module")
def trained(place):
    assert train(place, place / "whole")[0] == 0
    return place / "whole"


def test_killed_after_an_epoch_it_goes_on(place, trained, monkeypatch):
    """To the same bytes; and what is made is not made again."""
    write, killed = checkpoint.write, []

    def write_and_be_told_to_stop(path, state):
        write(path, state)
        if not killed:
            killed.append(path)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "write", write_and_be_told_to_stop)
    target = place / "killed"
    code, log = train(place, target)
    assert code == 128 + signal.SIGTERM and "the same command goes on" in log
    assert killed[0].is_file() and not (target / "metzen.json").exists()
    code, log = train(place, target)
    assert code == 0 and re.findall(r"epoch (\d) of 3", log) == ["2", "3"]
    name = "metzen.safetensors"
    assert (target / name).read_bytes() == (trained / name).read_bytes()
    assert sorted(path.name for path in target.iterdir()) == ["metzen.json", name]
    record = read_json(target / "metzen.json")
    assert record["history"] == read_json(trained / "metzen.json")["history"]
    assert record["kind"] == "detector" and record["train_examples"] == 20 and record["parameters"] > 0
    code, log = train(place, target)
    assert code == 0 and "trained already" in log


def test_what_an_attack_comes_to(place, trained):
    target = place / "judged"
    code, log = detect(place, trained, target)
    assert code == 0 and "threshold of 1% false positives" in log
    record = read_json(target / "orthogonal.json")
    with open(target / "orthogonal.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == record["examples"] == 12 and record["held_out"] == 100
    # what the report reads is what was counted
    judged = detections.read(target / "orthogonal.json")
    expected = metrics.figures(judged.clean, judged.evading, judged.thresholds)
    assert {name: record[name] for name in expected} == expected
    assert "judged already" in detect(place, trained, target)[1]


def test_a_detector_of_another_network_is_refused(place, trained):
    code, log = detect(place, trained, place / "other", seed=1)
    assert code == 2 and "was trained beside another network; train it again" in log
    damaged = place / "damaged"
    assert train(place, damaged)[0] == 0
    path = damaged / "metzen.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    code, log = detect(place, damaged, place / "other")
    assert code == 2 and "not the detector that" in log
    path.unlink()
    code, log = detect(place, damaged, place / "other")
    assert code == 2 and "no such file of a detector" in log
