"""Networks of a user's own through the pipeline: imported and judged, with other weights again."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
import yaml
from torch import nn

from tests.repository import ENVIRONMENT, ROOT

MODULE = """
from torch import nn

def build(width=4, classes=10):
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, classes))
"""
NETWORKS = {
    "mine": {"target": "theirs:build", "weights": "mine.pt", "label": "Mine"},
    "wide": {
        "target": "theirs:build",
        "weights": "wide.pt",
        "arguments": {"width": 6},
        "mean": [0.5],
        "std": [0.2],
    },
}
JUDGED = {"title": "Given", "dataset": "digits8", "test_examples": 20, "reference": None}


def save(path, seed, width):
    """Weights as people have them."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    weights = {f"module.{name}": tensor for name, tensor in nn.Sequential(*layers).state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 1}, path)


class Work:
    """A folder with a configuration of two networks, their module and their weights."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "theirs.py").write_text(MODULE)
        save(folder / "mine.pt", 0, 4)
        save(folder / "wide.pt", 1, 6)
        self.write(NETWORKS)

    def write(self, networks):
        config = yaml.safe_load((ROOT / "tests/workflow/tiny.yaml").read_text())
        experiments = {"judged": {**JUDGED, "networks": list(networks)}}
        config.update(networks=networks, experiments=experiments, run=["judged"], output="results/own")
        config["evaluation"].update(run=["clean"], headline="clean")
        config["card"]["run"] = config["certification"]["run"] = []
        self.config = self.folder / "overlay.yaml"
        self.config.write_text(yaml.safe_dump(config))

    def snakemake(self):
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", ROOT / "Snakefile"]
        done = subprocess.run(
            [*map(str, command), "--configfile", str(self.config)],
            **{"cwd": self.folder, "env": ENVIRONMENT, "timeout": 1200, "text": True},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
        )
        return done.returncode, done.stdout

    def records(self, name):
        """Of a network its record, and that of its evaluation."""
        out = self.folder / "results/own"
        paths = (
            out / f"models/judged/{name}/seed0/record.json",
            out / f"evaluations/judged/{name}/seed0/clean.json",
        )
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Work(tmp_path_factory.mktemp("own"))
    code, said = work.snakemake()
    assert code == 0, said[-6000:]
    return work


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_are_imported_judged_and_in_the_table(work, plan):
    for name in NETWORKS:
        network, evaluation = work.records(name)
        assert network["weights"] == {"name": f"{name}.pt", "sha256": sha256(work.folder / f"{name}.pt")}
        assert evaluation["model_sha256"] == network["model_sha256"] and evaluation["examples"] == 20
    table = (work.folder / "results/own/tables/judged.md").read_text()
    assert "| Mine" in table and "| wide" in table
    assert "Nothing to be done" in plan(work.folder, "--configfile", work.config, "-n")


def test_other_weights_are_judged_again_and_no_other_network(work):
    before = {name: work.records(name) for name in NETWORKS}
    save(work.folder / "mine.pt", 2, 4)
    code, said = work.snakemake()
    assert code == 0, said[-6000:]
    network, evaluation = work.records("mine")
    assert network["weights"]["sha256"] == sha256(work.folder / "mine.pt")
    assert evaluation["model_sha256"] == network["model_sha256"] != before["mine"][0]["model_sha256"]
    assert work.records("wide") == before["wide"]


def test_a_network_of_other_classes_ends_in_a_line(work):
    """In the log that Snakemake names; put right, it goes on."""
    wrong = {**NETWORKS["wide"], "arguments": {"width": 6, "classes": 4}}
    work.write({**NETWORKS, "wide": wrong})
    log = work.folder / "results/own/logs/networks/judged/wide/seed0.log"
    code, said = work.snakemake()
    assert code == 1 and str(log.relative_to(work.folder)) in said
    assert log.read_text().splitlines()[-1] == (
        "error: theirs:build: has 4 outputs, the data set 10 classes; give its factory the number of classes "
        "among its arguments, or take the data set that it is for"
    )
    assert "Traceback" not in log.read_text()
    work.write(NETWORKS)
    code, said = work.snakemake()
    assert code == 0, said[-6000:]
    assert work.records("wide")[0]["settings"]["num_classes"] == 10
