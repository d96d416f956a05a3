"""Data sets of one's own, through the whole pipeline: a folder of twelve classes and a file of arrays."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.repository import ENVIRONMENT, ROOT, planned
from tests.unit.data_files import array_set, image_folder, picture

TINY = ROOT / "tests" / "workflow" / "tiny.yaml"
TWELVE = [f"kind{number:02}" for number in range(12)]
OVERLAY = "overlay.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a configuration and its images; what it names is trained and judged."""
    folder = tmp_path_factory.mktemp("own")
    image_folder(folder / "images", TWELVE, (4, 1), (10, 14), ending=".jpg")
    np.savez(folder / "set.npz", **array_set(train=32, test=6, shape=(8, 8)))
    config = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    tiny = config["experiments"].pop(config["run"][0])
    tiny.update(train_examples=None, test_examples=None, activations=["relu"])
    tiny["training"].update(batch_size=16, tail={**tiny["training"]["tail"], "epochs": 0})
    config["datasets"] = {
        "kinds": {"source": "images", "size": 9, "label": "Kinds"},
        "grey": {"source": "set.npz"},
    }
    config["experiments"] = {
        "kinds": {
            **tiny,
            "title": "Kinds",
            "dataset": "kinds",
            "architecture": "vgg",
            "architecture_arguments": {},
        },
        "grey": {**tiny, "title": "Grey", "dataset": "grey"},
    }
    config.update(run=["kinds", "grey"], seeds=[0], output="results/own")
    config["evaluation"].update(run=["clean"], headline="clean")
    config["card"]["run"] = config["certification"]["run"] = []
    (folder / OVERLAY).write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", ROOT / "Snakefile"]
    command += ["--configfile", OVERLAY, "--", "evaluations"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def test_networks_have_the_classes_and_the_shape_of_the_data(place):
    for name, classes, shape, examples in (("kinds", 12, [3, 9, 9], 12), ("grey", 3, [1, 8, 8], 6)):
        record = json.loads((place / f"results/own/models/{name}/relu/seed0/record.json").read_text())
        assert (record["settings"]["num_classes"], record["settings"]["image_shape"]) == (classes, shape)
        judged = json.loads((place / f"results/own/evaluations/{name}/relu/seed0/clean.json").read_text())
        assert judged["examples"] == examples
        own = {"size": 9} if name == "kinds" else {}  # not where they lie
        assert record["settings"]["own"] == {"datasets": {name: own}}
        assert str(place) not in json.dumps([record, judged])
    prepared = json.loads((place / "results/own/data/kinds.json").read_text())
    assert prepared["classes"] == TWELVE


def test_a_changed_image_is_prepared_again(place, plan):
    command = ("--configfile", OVERLAY, "-n", "--", "evaluations")
    assert "Nothing to be done" in plan(place, *command)
    path = place / "images/test/kind11/0.jpg"
    content, stat = path.read_bytes(), path.stat()
    try:
        Image.fromarray(picture(999, (10, 14))).save(path)
        assert planned(plan(place, *command))["prepare_data"] == 1
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "Nothing to be done" in plan(place, *command)


def test_the_example_of_the_page(tmp_path, plan):
    """docs/recipes.md, as it stands there: what snakemake would do."""
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    (example,) = re.findall("^```yaml\n(# flowers.yaml.*?)^```", page, re.MULTILINE | re.DOTALL)
    image_folder(tmp_path / "flowers", ["rose", "tulip"], (64, 1))
    np.savez(tmp_path / "bloodmnist.npz", **array_set())
    (tmp_path / "flowers.yaml").write_text(example.replace("/path/to/flowers", "flowers"), encoding="utf-8")
    jobs = planned(plan(tmp_path, "--configfile", "flowers.yaml", "-n"))
    assert (jobs["prepare_data"], jobs["train"]) == (1, 8)


def test_official_files_are_downloaded_where_there_is_no_source(tmp_path, plan):
    config = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    (tiny,) = config["experiments"].values()
    tiny["dataset"] = "svhn"
    (tmp_path / OVERLAY).write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "raw").mkdir()
    command = ("--configfile", OVERLAY, "-n", "--config")
    assert planned(plan(tmp_path, *command, "data={svhn: {source: null}}"))["download_data"] == 2
    jobs = planned(plan(tmp_path, *command, "data={svhn: {source: raw}}"))
    assert jobs["prepare_data"] == 1 and "download_data" not in jobs
