"""The author's networks are networks of this library: tensors bit for bit, accuracy image for image."""

import json
import shutil

import pytest
import torch
from kafnets import published, registry
from kafnets.data.cifar10 import prepare_cifar10
from kafnets.models import load_model, save_model
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def test_set(cifar10_folder):
    data = prepare_cifar10(cifar10_folder)
    return data.test_images[:1000].float() / 255, data.test_labels[:1000]


def correct(model, images, labels):
    with torch.no_grad():
        return sum(
            int((model(some).argmax(1) == right).sum())
            for some, right in zip(images.split(100), labels.split(100), strict=True)
        )


# of the first 1,000 test images; measured with an independent implementation, kept in models.json
@pytest.mark.parametrize(("row", "count"), [("relu", 781), ("kaf_free", 793)])
def test_the_accuracy_is_the_recorded_one(published_folder, test_set, row, count):
    model = published.load(row, published_folder)
    assert correct(model, *test_set) == count
    described = published_folder / "models.json"
    if described.is_file():
        entry = json.loads(described.read_text())["models"][registry.PUBLISHED[row]]
        assert round(entry["eval_pgd1000"]["clean"] * 10) == count
        assert entry["thesis_row"] == registry.ACTIVATIONS[row].label


@pytest.mark.parametrize("row", registry.PUBLISHED)
def test_every_tensor_is_the_files_bit_for_bit(published_folder, row, tmp_path):
    path = published_folder / f"{registry.PUBLISHED[row]}.safetensors"
    model = published.load(row, published_folder)
    save_model(model, tmp_path / "model.safetensors")
    ours = load_model(tmp_path / "model.safetensors").state_dict()
    theirs = load_file(path)
    names = {"coef": "alpha", "dict": "dictionary"}
    for name, tensor in theirs.items():
        layer, _, last = name.rpartition(".")
        mine = ours.pop(f"{layer}.{names.get(last, last)}")
        assert torch.equal(mine.reshape(tensor.shape).view(torch.int32), tensor.view(torch.int32)), name
    assert all(name.endswith("num_batches_tracked") for name in ours)
    assert not model.training


def test_the_files_are_those_of_the_description(published_folder):
    if not (published_folder / "models.json").is_file():
        pytest.skip("this folder has no models.json")
    described = json.loads((published_folder / "models.json").read_text())["models"]
    rows = {entry["thesis_row"]: name for name, entry in described.items() if entry["thesis_row"]}
    assert rows == {registry.ACTIVATIONS[row].label: name for row, name in registry.PUBLISHED.items()}
    for name in rows.values():
        assert sha256(published_folder / f"{name}.safetensors") == described[name]["safetensors_sha256"]


@pytest.mark.parametrize("row", registry.PUBLISHED)
def test_the_layers_have_the_tensors_of_the_file(published_folder, row):
    """What convert_published.py goes by."""
    tensors = load_file(published_folder / f"{registry.PUBLISHED[row]}.safetensors")
    assert {name for name, _ in published.layers(row)} == {name.rpartition(".")[0] for name in tensors}


def test_the_float16_arithmetic_is_an_argument(published_folder):
    model = published.load("kaf_elu", published_folder, arithmetic="float16")
    assert model.stem.act.arithmetic == "float16"
    x = torch.rand(2, 3, 32, 32)
    difference = (model(x) - published.load("kaf_elu", published_folder)(x)).abs().max()
    assert 0.001 < difference < 2


def changed(published_folder, tmp_path, change):
    """A folder with the file of kaf_elu, its tensors changed by `change`."""
    path = tmp_path / f"{registry.PUBLISHED['kaf_elu']}.safetensors"
    tensors = load_file(published_folder / path.name)
    change(tensors)
    save_file(tensors, path)
    return tmp_path


def test_an_error_names_file_and_tensor(published_folder, tmp_path):
    name = f"{registry.PUBLISHED['kaf_elu']}.safetensors"
    with pytest.raises(UserError, match=f"{name}: no such file"):
        published.load("kaf_elu", tmp_path)
    (tmp_path / name).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=f"{name}: is no weights file of a known kind"):
        published.load("kaf_elu", tmp_path)
    for change, message in (
        (lambda tensors: tensors.pop("stem.act.coef"), "tensor stem.act.alpha is missing"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "tensor .extra does not belong"),
        (lambda tensors: tensors.update({"fc.bias": torch.ones(9)}), r"tensor fc.bias has shape \(9,\)"),
        (lambda tensors: tensors["fc.bias"][0].add_(1e-6), "not the published weights of kaf_elu"),
    ):
        with pytest.raises(UserError, match=f"{name}: {message}"):
            published.load("kaf_elu", changed(published_folder, tmp_path, change))


def test_the_weights_of_another_row_are_refused(published_folder, tmp_path):
    source, target = (registry.PUBLISHED[row] for row in ("relu", "elu"))
    shutil.copy(published_folder / f"{source}.safetensors", tmp_path / f"{target}.safetensors")
    with pytest.raises(UserError, match="not the published weights of elu"):
        published.load("elu", tmp_path)
    with pytest.raises(UserError, match="no network of 'tanh'; choose one of relu"):
        published.load("tanh", tmp_path)
