"""Data sets of a user's own: folders of images and files of arrays, in a configuration and prepared."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from kafnets import registry, sources
from kafnets.config.checks import validate
from kafnets.config.slices import training_settings
from kafnets.data.arrays import prepare_arrays
from kafnets.data.dataset import load
from kafnets.data.image_folder import prepare_folder
from kafnets.pipeline.grid import Grid
from kafnets.runtime.errors import UserError
from PIL import Image
from safetensors.numpy import save_file

from tests.repository import ROOT
from tests.scripts import here
from tests.unit.data_files import array_set, image_folder, picture

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
TWELVE = tuple(f"class {letter}" for letter in "lkjihgfedcba")


@pytest.fixture(autouse=True)
def registry_as_it_was():
    yield
    registry.adopt({})


def refused(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable() and "write" in message
    return message


# -- folders


def test_a_folder_of_images_is_read_by_names(tmp_path):
    folder = image_folder(tmp_path / "images", TWELVE, test="val")
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / TWELVE[0] / "notes.txt").write_text("no image")
    facts = sources.described("mine", folder, size=9)
    assert (facts["classes"], facts["examples"], facts["size"]) == (12, (48, 24), 9)
    dataset = prepare_folder(folder, **facts["arguments"])
    assert dataset.classes == tuple(sorted(TWELVE)) and dataset.name == "mine"
    assert dataset.train_labels.tolist() == [label for label in range(12) for _ in range(4)]
    # the last class by name was written first
    assert np.array_equal(dataset.train_images[-4].numpy(), picture(0).transpose(2, 0, 1))
    assert np.array_equal(dataset.test_images[-1].numpy(), picture(49).transpose(2, 0, 1))


def test_images_of_any_kind_become_squares(tmp_path):
    folder = image_folder(tmp_path, ["a", "b"], (1, 1))
    grey = Image.fromarray(np.full((10, 20), 100, "uint8"))
    grey.save(folder / "train/a/0.png")
    grey.convert("RGBA").save(folder / "train/a/1.PNG")
    grey.convert("P").save(folder / "train/a/2.bmp")
    grey.convert("CMYK").save(folder / "train/a/3.jpg")
    wide = np.zeros((10, 30, 3), "uint8")
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(folder / "train/b/0.png")
    dataset = prepare_folder(folder, size=5)
    assert dataset.train_images.shape == (5, 3, 5, 5)
    assert (dataset.train_images[:4].int() - 100).abs().max() <= 2
    assert dataset.train_images[4, :, :, 1:4].min() == 200  # its middle
    assert prepare_folder(folder, size=12, channels=1).train_images.shape == (5, 1, 12, 12)


def test_folders_that_are_none(tmp_path):
    def said(**options):
        return refused(sources.described, "mine", tmp_path, **{"size": 9, **options})

    assert "train has no folders of a class" in said()
    image_folder(tmp_path, ["a"])
    assert "train has 1 folder of a class" in said()
    (tmp_path / "train" / "b").mkdir()
    assert "train/b holds no image (.jpg" in said()
    image_folder(tmp_path, ["a", "b"])
    assert "write size too" in said(size=None)
    image_folder(tmp_path / "other", ["a", "b"])
    (tmp_path / "other" / "test").rename(tmp_path / "other" / "holdout")
    assert "has no test images" in refused(sources.described, "mine", tmp_path / "other", size=9)
    (tmp_path / "other" / "val" / "z").mkdir(parents=True)
    assert "train has no class z, but val has it" in refused(
        sources.described, "mine", tmp_path / "other", size=9
    )
    assert "does not exist" in refused(sources.described, "mine", tmp_path / "nowhere")
    (tmp_path / "archive.tar").write_bytes(b"")
    assert "is no .npz or .safetensors file" in refused(sources.described, "mine", tmp_path / "archive.tar")


@pytest.mark.injects("hostile or damaged archives")
def test_images_that_cannot_be_decoded(tmp_path):
    folder = image_folder(tmp_path, ["a", "b"])
    path = folder / "train/b/2.png"
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:60]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train/b/2.png: cannot be decoded .*; repair it or remove it"):
            prepare_folder(folder, size=9)
    Image.fromarray(np.full((9, 9), 40_000, "uint16")).save(path)
    with pytest.raises(UserError, match=r"2\.png: has 16 bits a pixel; save it with 8"):
        prepare_folder(folder, size=9)


def test_any_change_of_a_file_changes_the_state_of_its_folder(tmp_path):
    folder = image_folder(tmp_path / "images", ["a", "b"])
    before = sources.state(folder)
    path = folder / "test/b/1.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    later = sources.state(folder)
    path.rename(folder / "test/b/3.png")
    assert len({before, later, sources.state(folder)}) == 3
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert sources.state(elsewhere) not in (before, later)
    (elsewhere / "test/b/3.png").rename(elsewhere / "test/b/1.png")
    assert sources.state(elsewhere) == later


# -- arrays


def write(path, arrays, names=lambda name: name):
    arrays = {names(name): array for name, array in arrays.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def as_keras(name):
    split, _, kind = name.partition("_")
    return f"{'x' if kind == 'images' else 'y'}_{split}"


def as_medmnist(name):
    return name.replace("test", "val")


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("names", [str, as_keras, as_medmnist])
@pytest.mark.parametrize("layout", ["last", "first", "grey", "one", "fortran", "compressed"])
def test_a_file_of_arrays(tmp_path, monkeypatch, ending, names, layout):
    monkeypatch.setattr("kafnets.data.arrays._READ", 200)  # a few images at once
    arrays = array_set(shape=(6, 6) if layout == "grey" else (6, 6, 1) if layout == "one" else (6, 6, 3))
    pixels, labels = arrays["train_images"], arrays["train_labels"]
    expected = pixels[:, None] if layout == "grey" else pixels.transpose(0, 3, 1, 2)
    for split in ("train", "test"):
        images = arrays[f"{split}_images"]
        if layout == "first":
            arrays[f"{split}_images"] = images.transpose(0, 3, 1, 2)
        if layout == "fortran":
            arrays[f"{split}_images"] = np.asfortranarray(images)
        if layout == "one":  # as MedMNIST has them
            arrays[f"{split}_labels"] = arrays[f"{split}_labels"][:, None].astype("uint8")
    path = write(tmp_path / f"set{ending}", arrays, names)
    if layout == "compressed" and ending == ".npz":
        np.savez_compressed(path, **{names(name): array for name, array in arrays.items()})
    facts = sources.described("mine", path)
    channels = 1 if layout in ("grey", "one") else 3
    assert facts["examples"] == (8, 4) and facts["classes"] == 3
    assert (facts["channels"], facts["size"]) == (channels, 6)
    dataset = prepare_arrays(path, "mine")
    assert np.array_equal(dataset.train_images.numpy(), expected)
    assert dataset.train_labels.tolist() == labels.tolist() and dataset.classes == ("0", "1", "2")
    assert dataset.train_labels.dtype == torch.int64 and len(dataset.test_images) == 4


WRONG_ARRAYS = [
    ({"test_images": None}, "has no array test_images or x_test or val_images or x_val, but train_images"),
    ({"train_images": np.zeros((8, 6, 6, 3), "float32")}, "the train images are <f4; write unsigned bytes"),
    ({"train_images": np.zeros((8, 6, 6, 4), "uint8")}, "say not which axis is that of 1 or 3 channels"),
    ({"train_images": np.zeros((8, 3, 6, 3), "uint8")}, "say not which axis"),
    ({"train_images": np.zeros((8, 36), "uint8")}, "say not which axis"),
    (
        {"train_images": np.zeros((8, 5, 5, 3), "uint8")},
        "training images are 3 x 5 x 5, test images",
    ),
    ({"train_images": np.zeros((7, 6, 6, 3), "uint8")}, "has 7 train images and 8 labels"),
    ({"train_labels": np.eye(8)}, "the train labels are <f8 of shape (8, 8); write a whole number for each"),
    ({"train_labels": np.arange(8) - 1}, "has a label -1; write labels from 0 on"),
    ({"train_labels": np.array([{}] * 8)}, "the train labels are |O of shape (8,)"),
    (
        {f"{split}_images": np.zeros((n, 5, 6, 3), "uint8") for split, n in (("train", 8), ("test", 4))},
        "its images are of 5 x 6 pixels; write one with square images",
    ),
]


@pytest.mark.parametrize(("change", "expected"), WRONG_ARRAYS)
def test_arrays_that_do_not_fit(tmp_path, change, expected):
    arrays = {name: array for name, array in (array_set() | change).items() if array is not None}
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)  # an array of objects too: it is never unpickled
    assert expected in refused(sources.described, "mine", path)
    assert expected in refused(prepare_arrays, path)
    for key in ("size", "channels"):
        assert f"has its own {key}" in refused(sources.described, "mine", path, **{key: 1})


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.injects("hostile or damaged archives")
def test_damaged_files_of_arrays(tmp_path, ending):
    path = write(tmp_path / f"set{ending}", array_set())
    whole = path.read_bytes()
    for content in (b"", whole[:7], whole[:200], b"\xff" * 300):
        path.write_bytes(content)
        assert f"is no {ending} file" in refused(prepare_arrays, path)
    if ending == ".safetensors":
        path.write_bytes(whole[:-500])
        assert "ends too early; write a whole file" in refused(prepare_arrays, path)
        return
    position = whole.index(array_set()["train_images"].tobytes()[:50])
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    assert "is no .npz file (Bad CRC-32" in refused(prepare_arrays, path)
    large = write(path, array_set(shape=(40, 40, 3))).read_bytes()  # its end is read last
    position = large.index(b"PK", 200_000 // 8) - 1
    path.write_bytes(large[:position] + bytes([large[position] ^ 1]) + large[position + 1 :])
    assert "cannot be read (Bad CRC-32" in refused(prepare_arrays, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", b"no array")
    assert "train_images.npy is no array" in refused(prepare_arrays, path)


# -- in a configuration


def configuration(datasets, dataset="mine", **changes):
    """config.yaml with data sets of one's own, one of which its first experiment is on."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config.update(datasets=datasets, run=["vgg"])
    vgg = config["experiments"]["vgg"]
    vgg.update(dataset=dataset, activations=["relu", "kaf"], reference=None, **changes)
    vgg["training"].update(batch_size=8)
    return config


def check(config, folder):
    validate(config, SCHEMA, folders=[folder])
    return config


def test_a_folder_of_twelve_classes_is_planned_as_what_it_is(tmp_path):
    image_folder(tmp_path / "images", TWELVE)
    config = check(configuration({"mine": {"source": "images", "size": 16, "label": "Mine"}}), tmp_path)
    entry = registry.DATASETS["mine"]
    assert (entry.classes, entry.examples, entry.label) == (12, (48, 24), "Mine")
    settings = training_settings(config, "vgg", "relu", 0)
    assert (settings["num_classes"], settings["image_shape"]) == (12, [3, 16, 16])
    told = json.dumps(registry.own_names())
    assert str(tmp_path / "images") in told
    registry.adopt({})
    registry.adopt(json.loads(told))  # as a job does, which looks at no image
    assert registry.DATASETS["mine"].facts() == entry.facts()


def test_its_content_decides_what_is_prepared_again(tmp_path):
    image_folder(tmp_path / "images", ["a", "b"])
    write(tmp_path / "set.npz", array_set())
    names = {"mine": {"source": "images", "size": 16}, "arrays": {"source": "set.npz"}}
    grid = Grid(check(configuration(names), tmp_path))

    class Wildcards:
        dataset = "mine"

    before = grid.data_code(Wildcards)
    assert grid.raw_data(Wildcards) == str(tmp_path / "images")
    Image.fromarray(picture(99)).save(tmp_path / "images/train/a/0.png")
    os.utime(tmp_path / "images/train/a/0.png", (1, 1))
    assert grid.data_code(Wildcards) != before
    Wildcards.dataset = "arrays"  # a file, which Snakemake sees itself
    assert " " not in grid.data_code(Wildcards) and grid.raw_data(Wildcards) == str(tmp_path / "set.npz")
    Wildcards.dataset = "svhn"
    assert [Path(file).name for file in grid.raw_data(Wildcards)] == ["train_32x32.mat", "test_32x32.mat"]
    Wildcards.dataset = "digits"
    assert grid.raw_data(Wildcards) == []


SIZE = {"source": "images", "size": 16}
WRONG = [
    ({"source": "images"}, {}, "datasets.mine.source: .* is a folder; write size too"),
    ({"source": "nowhere", "size": 9}, {}, 'mine.source: "nowhere" is no file and no folder, seen from the'),
    ({"size": 9}, {}, "datasets.mine.source: is missing; write the path of a folder of images or of a file"),
    ({**SIZE, "classes": 12}, {}, "datasets.mine.classes: 12 is what the images tell by themselves"),
    ({**SIZE, "channels": 2}, {}, "channels: 2 is not possible for images; write 1 or 3"),
    ({**SIZE, "size": 0}, {}, "size: 0 is out of range"),
    ({**SIZE, "sizes": 2}, {}, "sizes: 2 is an unknown key; did you mean size?"),
    ({"target": "math:sin", "examples": [4, 4]}, {}, "mine.classes: is missing; write classes, as in 10"),
    ({"target": "math:sin", "classes": 4}, {}, "mine.examples: is missing; write examples, as in"),
    ({**SIZE, "size": 7}, {}, '"mine" has images of 7 x 7, and vgg takes those of at least 8 rows; write'),
    (
        {**SIZE, "size": 9},
        {"architecture": "lipschitz_cnn"},
        "lipschitz_cnn takes .* multiple of 4",
    ),
    (SIZE, {"train_examples": 49}, "49 is more than mine has; write at most 48"),
]


@pytest.mark.parametrize(("facts", "changes", "expected"), WRONG)
def test_what_is_wrong_with_data_of_ones_own(tmp_path, facts, changes, expected):
    image_folder(tmp_path / "images", TWELVE)
    if "architecture" in changes:
        changes = {**changes, "architecture_arguments": {}}
    with pytest.raises(UserError, match=expected) as caught:
        check(configuration({"mine": facts}, **changes), tmp_path)
    assert "\n" not in str(caught.value)


def test_the_name_of_a_data_set_that_is_known_is_taken(tmp_path):
    image_folder(tmp_path / "images", TWELVE)
    with pytest.raises(UserError, match=r"datasets.svhn: .* has the name of one that comes with"):
        check(configuration({"svhn": SIZE}, "svhn"), tmp_path)


def test_attacks_that_need_more_classes_are_refused(tmp_path):
    write(tmp_path / "set.npz", array_set(shape=(8, 8, 3)))
    config = configuration({"mine": {"source": "set.npz"}})
    check(config, tmp_path)
    config["evaluation"]["run"] = ["clean", "pgd", "autoattack"]
    message = refused(check, config, tmp_path)
    assert 'autoattack.method: "autoattack" needs 4 classes, and mine of vgg has 3; write another' in message
    config["evaluation"]["run"] = ["clean", "pgd"]
    for settings, needed in (({"targets": 3}, 4), ({"targets": 2, "loss": "dlr"}, 4)):
        config["evaluation"]["attacks"]["pgd"].update(settings)
        assert f"needs {needed} classes" in refused(check, config, tmp_path)


# -- by hand


def test_a_function_is_given_its_source(tmp_path):
    (tmp_path / "own_data.py").write_text(
        "import torch\nfrom kafnets.data.dataset import Dataset\n\n\ndef prepare(source):\n"
        "    value = int(source.read_text())\n"
        "    images, labels = torch.full((4, 3, 8, 8), value, dtype=torch.uint8), torch.arange(4) % 2\n"
        "    return Dataset('own', images, labels, images, labels, ('a', 'b'), 'here')\n"
    )
    (tmp_path / "value.txt").write_text("77")
    (tmp_path / "config.yaml").write_text(
        "datasets:\n  own: {target: own_data:prepare, source: value.txt,"
        " examples: [4, 4], classes: 2, size: 8}\n"
    )
    registry.adopt(yaml.safe_load((tmp_path / "config.yaml").read_text()), [tmp_path])
    source = registry.DATASETS["own"].source
    assert source == str(tmp_path / "value.txt")
    files = ["--output", tmp_path / "own.safetensors", "--record", tmp_path / "own.json"]
    assert here("prepare_data.py", "--dataset", "own", "--source", source, *files) == (0, "")
    assert load(tmp_path / "own.safetensors").train_images.unique().tolist() == [77]
