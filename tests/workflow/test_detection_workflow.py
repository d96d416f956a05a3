"""Detectors in the workflow: planned where they are asked for, and stale where their own settings change."""

import copy
import json

import pytest
import yaml

from tests.repository import OUT, TINY, copy_repository, planned, run

PGD = {"eps": "16/255", "step": "8/255", "iterations": 2}
DETECTION = {
    **{"run": ["tiny"], "examples": 20, "held_out": 100, "train_examples": 16},
    **{"run_detectors": ["confidence", "metzen"], "run_attacks": ["static", "orthogonal"]},
    "detectors": {"metzen": {"method": "metzen", **PGD, "epochs": 1, "width": 2}},
    "attacks": {"static": {"method": "pgd", **PGD}, "orthogonal": {"method": "orthogonal_pgd", **PGD}},
}
STEPS = {"train_detector", "detect", "render_detection", "plot_detection"}


def overlay(folder, **changes):
    path = folder / "detection.yaml"
    path.write_text(yaml.safe_dump({"detection": {**copy.deepcopy(DETECTION), **changes}}))
    return path


def test_they_are_planned_where_they_are_asked_for(plan, tmp_path):
    options = ("-n", "--quiet", "rules", "--configfile", TINY)
    without = planned(plan(tmp_path, *options))
    assert not STEPS & without.keys()
    counts = planned(plan(tmp_path, *options, overlay(tmp_path)))
    cells = counts["train"]
    assert {name: counts.pop(name) for name in STEPS} == {
        **{"train_detector": 2 * cells, "detect": 4 * cells},
        **{"render_detection": 1, "plot_detection": 1},
    }
    assert {name: n for name, n in counts.items() if name != "total"} == {
        name: n for name, n in without.items() if name != "total"
    }
    alone = planned(plan(tmp_path, *options, overlay(tmp_path), "--until", "train_detector"))
    assert alone["train_detector"] == 2 * cells and "detect" not in alone


@pytest.mark.slow
def test_what_is_made_again(tmp_path):
    """Everything once; then nothing; of another attack only what it touches."""
    folder = copy_repository(tmp_path / "run")
    few = ("--config", f"experiments={json.dumps({'tiny': {'activations': ['relu']}})}", "seeds=[0]")
    run(folder, "--configfile", TINY, overlay(tmp_path), *few)
    table = folder / OUT / "detections/tiny.md"
    assert "confidence" in table.read_text() and (folder / OUT / "plots/tiny/detection.png").is_file()
    before = (folder / OUT / "tables/tiny.md").read_bytes()
    assert "Nothing to be done" in run(folder, "--configfile", TINY, overlay(tmp_path), *few)
    attacks = copy.deepcopy(DETECTION["attacks"])
    attacks["orthogonal"]["iterations"] = 3
    changed = ("--configfile", TINY, overlay(tmp_path, attacks=attacks), *few)
    counts = planned(run(folder, *changed, "-n", "--quiet", "rules"))
    del counts["total"], counts["all"]
    assert counts == {"detect": 2, "render_detection": 1, "plot_detection": 1}
    run(folder, *changed)
    assert (folder / OUT / "tables/tiny.md").read_bytes() == before
