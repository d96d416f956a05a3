"""Networks of a user's own in a configuration: declared, checked, imported and judged as any other cell."""

import copy
import json
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from kafnets import load_model, registry
from kafnets.config.checks import validate
from kafnets.config.slices import cells, expanded, table_settings, training_settings
from kafnets.data.dataset import Dataset, save
from kafnets.pipeline import code
from kafnets.pipeline.grid import Grid
from kafnets.report import manifest
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json, write_sealed
from torch import nn

from tests import scripts
from tests.repository import ROOT

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
MODULE = """
from torch import nn

def build(width=4):
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    return nn.Sequential(*layers)
"""
MINE = {"target": "theirs:build", "weights": "mine.pt", "label": "Mine"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.manual_seed(0)
    for name, width in (("mine.pt", 4), ("wide.pt", 6)):
        torch.save({"model": network(width).state_dict()}, tmp_path / name)
    yield tmp_path
    registry.adopt({})
    sys.modules.pop("theirs", None)


def network(width):
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    return nn.Sequential(*layers)


def configuration(declared=None, **changes):
    """config.yaml with an experiment on two networks of one's own."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    wide = {
        "target": "theirs:build",
        "weights": "wide.pt",
        "arguments": {"width": 6},
        "mean": [0.5],
        "std": [0.2],
    }
    config["networks"] = {"mine": MINE, "wide": wide} if declared is None else declared
    judged = {"title": "Judged", "dataset": "digits", "test_examples": 20, "reference": None}
    config["experiments"]["judged"] = {**judged, "networks": list(config["networks"]), **changes}
    config.update(run=["judged"], seeds=[0, 1])
    config["evaluation"].update(run=["clean"], headline="clean")
    return config


def check(config, folder):
    validate(config, SCHEMA, folders=[folder])


def test_a_network_is_a_cell(folder):
    config = configuration()
    check(config, folder)
    config = expanded(config)
    assert cells(config) == [("judged", "mine", 0), ("judged", "wide", 0)]  # one each, whatever the seeds
    settings = training_settings(config, "judged", "wide", 0)
    assert settings["architecture"] == "wide" and settings["weights"] == "own" and "training" not in settings
    facts = {key: value for key, value in config["networks"]["wide"].items() if key != "label"}
    assert settings["own"] == {"networks": {"wide": facts}}
    grid = Grid(config)
    assert (grid.own, grid.published[:1]) == (["judged"], ["published"]) and "judged" not in grid.trained
    assert not [path for path in grid.plots if "history" in path or "kafs" in path]
    assert registry.label("mine") == "Mine" and registry.label("wide") == "wide"
    assert table_settings(config, "judged")["activations"] == ["mine", "wide"]
    told = json.loads(json.dumps(registry.own_names()))
    assert told.keys() == {"networks"} and told["networks"]["mine"]["weights"] == str(folder / "mine.pt")


@pytest.mark.parametrize(
    ("networks", "changes", "message"),
    [
        (
            {"mine": {"target": "theirs:build"}},
            {},
            "networks.mine.weights: is missing; write the path of a file",
        ),
        (
            {"mine": {**MINE, "weights": "none.pt"}},
            {},
            r'mine.weights: "none.pt" is no file, seen from the folders /',
        ),
        ({"mine": {**MINE, "target": "theirs:built"}}, {}, "theirs.py; write one of build"),
        (
            {"resnet20": MINE},
            {},
            "networks.resnet20: .* has the name of one that comes with the repository",
        ),
        ({"mine": {**MINE, "wieghts": "x"}}, {}, "mine.wieghts: .* is an unknown key; did you mean weights"),
        ({"mine": {**MINE, "std": []}}, {}, r"mine.std: \[\] has too few items"),
        (
            {"mine": MINE},
            {"networks": ["mien"]},
            r'experiments.judged.networks\[0\]: "mien" .*did you mean mine',
        ),
        ({"mine": MINE}, {"networks": []}, r"experiments.judged.networks|is missing"),
        (
            {"mine": MINE},
            {"train_examples": 10},
            "judged.train_examples: 10 does not belong to networks of your own",
        ),
        ({"mine": MINE}, {"test_examples": 1000}, "judged.test_examples: 1000 is more than digits has"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, networks, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        check(configuration(networks, **changes), folder)
    assert "\n" not in str(caught.value)


def test_a_name_is_either_an_architectures_or_a_networks(folder):
    config = configuration()
    config["architectures"] = {"mine": {"target": "theirs:build"}}
    with pytest.raises(UserError, match=r"networks\.mine: .* has the name of an architecture"):
        check(config, folder)


def test_its_file_and_its_facts_are_what_results_depend_on(folder):
    def of(config):
        for cached in (code._of_step, code.files, code._file_of, code._source):
            cached.cache_clear()
        check(config, folder)
        grid = Grid(expanded(config))
        cell = SimpleNamespace(experiment="judged", activation="wide", attack="clean")
        return grid.training_code("import_network.py")(cell), grid.evaluation_code(cell)

    before = of(configuration())
    assert of(configuration()) == before
    other = configuration()
    other["networks"]["wide"]["label"] = "A wider one"
    other["networks"]["mine"]["std"] = other["networks"]["mine"]["mean"] = [0.5]
    assert of(other) == before  # looks, and another network
    other = configuration()
    other["networks"]["wide"] = {**other["networks"]["wide"], "std": [0.25]}
    assert all(now != then for now, then in zip(of(other), before, strict=True))
    (folder / "theirs.py").write_text(MODULE.replace("ReLU", "ELU"))
    assert all(now != then for now, then in zip(of(configuration()), before, strict=True))


@pytest.fixture
def judged(folder, tmp_path):
    """The two networks imported and judged by the scripts, as the rules call them."""
    config = configuration()
    check(config, folder)
    config = expanded({**copy.deepcopy(config), "output": str(tmp_path / "results")})
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(20) % 10
    made = Dataset("digits", images, labels, images.clone(), labels.clone(), tuple("0123456789"), "here")
    save(made, tmp_path / "digits.safetensors", tmp_path / "digits.json")
    grid = Grid(config)
    for cell in grid.cells:
        files, weights = grid.training_files(cell), registry.ARCHITECTURES[cell[1]].weights
        settings = json.dumps({**training_settings(config, *cell), "image_shape": [3, 8, 8]})
        given = (
            "--settings",
            settings,
            "--weights",
            weights,
            "--model",
            files["model"],
            "--record",
            files["record"],
        )
        assert scripts.here("import_network.py", *given) == (0, "")
    return config, grid, made


def test_it_is_imported_with_its_weights_and_its_normalisation(judged, folder):
    _, grid, made = judged
    files = grid.training_files(("judged", "wide", 0))
    record, loaded = read_json(files["record"]), load_model(files["model"])
    assert record["kind"] == "network" and record["weights"]["name"] == "wide.pt"
    assert record["parameters"]["trainable"] == sum(one.numel() for one in loaded.parameters())
    expected = network(6)
    expected.load_state_dict(torch.load(folder / "wide.pt", weights_only=True)["model"])
    x = made.test_images.float() / 255
    assert torch.allclose(loaded(x), expected((x - 0.5) / 0.2), atol=1e-5)
    write_sealed(grid.manifest_file, grid.manifest())
    (run, _) = manifest.read_manifest(grid.manifest_file)
    assert (run.architecture, run.origin, run.is_trained) == ("mine", "network", False)


def test_without_its_code_a_file_runs_nothing(judged):
    """The file names the network; what it is, only the configuration says."""
    _, grid, _ = judged
    registry.adopt({})
    with pytest.raises(UserError, match="architecture: 'wide' is not known"):
        load_model(grid.training_files(("judged", "wide", 0))["model"])
