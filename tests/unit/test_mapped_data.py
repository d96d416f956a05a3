"""Data sets that do not fit the memory: written in slices, mapped, and trained and judged as others are."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from kafnets.data import dataset as prepared
from kafnets.data import prepare_digits
from kafnets.data.dataset import TENSORS, chosen, load, room, save
from kafnets.evaluation.judge import evaluate
from kafnets.runtime.errors import UserError
from kafnets.training.run import train

from tests.unit.training_cases import CPU, same, settings, weights


@pytest.fixture
def digits(tmp_path):
    path = tmp_path / "digits.safetensors"
    save(prepare_digits(size=8), path, path.with_suffix(".json"))
    return path


def is_mapped(path):
    return str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_a_file_is_what_safetensors_itself_writes(digits, monkeypatch):
    """So that files of earlier versions, and results that rest on them, are the same."""
    dataset = prepare_digits(size=8)
    facts = {"name": dataset.name, "classes": list(dataset.classes), "source": dataset.source}
    tensors = {name: getattr(dataset, name) for name in TENSORS}
    expected = safetensors.torch.save(tensors, {"kafnets": json.dumps(facts)})
    assert digits.read_bytes() == expected
    monkeypatch.setattr(prepared, "_SLICE", 1000)
    save(dataset, digits, digits.with_suffix(".json"))
    assert digits.read_bytes() == expected
    odd = dataclasses.replace(dataset, classes=('a "b" \\ \n \u00e9 \u2028', *"bcdefghij"), name="x" * 3)
    save(odd, digits, digits.with_suffix(".json"))
    facts = {"name": odd.name, "classes": list(odd.classes), "source": odd.source}
    assert digits.read_bytes() == safetensors.torch.save(tensors, {"kafnets": json.dumps(facts)})


def test_only_bytes_and_whole_numbers_are_saved(digits):
    wrong = dataclasses.replace(prepare_digits(size=8), test_images=torch.zeros(4, 3, 8, 8))
    with pytest.raises(
        UserError, match=r"test_images: is torch.float32; prepare uint8 images and int64 labels"
    ):
        save(wrong, digits, digits.with_suffix(".json"))


@pytest.mark.parametrize("examples", [{}, {"train_examples": 100, "test_examples": 30}])
def test_a_large_file_is_mapped_and_gives_the_same(digits, monkeypatch, examples):
    small = load(digits, **examples)
    assert not is_mapped(digits)
    monkeypatch.setattr(prepared, "MAPPED_BYTES", 1000)
    mapped = load(digits, **examples)
    assert mapped.sha256 == small.sha256 and mapped.classes == small.classes
    for name in TENSORS:
        assert torch.equal(getattr(mapped, name), getattr(small, name))
        assert getattr(mapped, name).dtype is getattr(small, name).dtype
    assert is_mapped(digits) == (not examples)
    assert is_mapped("kafnets-") == bool(examples)  # a part, in a temporary file that has no name any more


def test_a_damaged_large_file_is_refused(digits, monkeypatch):
    monkeypatch.setattr(prepared, "MAPPED_BYTES", 1000)
    content = bytearray(digits.read_bytes())
    content[-1] ^= 1
    digits.write_bytes(content)
    with pytest.raises(UserError, match="its checksum is not the one in its record"):
        load(digits)


def test_rows_are_chosen_where_there_is_room(tmp_path, monkeypatch):
    tensor = torch.arange(4000).view(1000, 4)
    numbers = torch.tensor([7, 0, 999, 7])
    assert torch.equal(chosen(tensor, numbers), tensor[numbers])
    monkeypatch.setattr(prepared, "MAPPED_BYTES", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert torch.equal(chosen(tensor, numbers), tensor[numbers])
    assert list(tmp_path.iterdir()) == []
    shape = (3, 2, 5, 5)
    assert room(shape).fill_(3).sum() == 450 and room(shape).shape == shape

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    expected = f"cannot keep 150 bytes in {tmp_path} .No space left on device.; let .* TMPDIR name a folder"
    with pytest.raises(UserError, match=expected):
        room(shape)
    assert list(tmp_path.iterdir()) == []


def test_a_network_trained_and_judged_on_a_mapped_set_is_the_same(digits, tmp_path, monkeypatch):
    """To the bit, with training images held out; what is held in memory is the batch in use."""
    held_out = {"examples": 16, "eps": "8/255", "step": "4/255", "iterations": 1}
    tail = {"epochs": 0, "learning_rate": 0.1, "halve_every": 1}
    given = settings(epochs=1, batch_size=128, tail=tail, validation=held_out)
    given.update(activation="relu", image_shape=[3, 8, 8])
    found = []
    for limit in (1 << 30, 1000):
        monkeypatch.setattr(prepared, "MAPPED_BYTES", limit)
        dataset = load(digits)
        model, _, _ = train(given, dataset, CPU, tmp_path / "checkpoint")
        (tmp_path / "checkpoint").unlink()
        images, labels = dataset.test_images[:20], dataset.test_labels[:20]
        found.append((weights(model), evaluate(model, images, labels, {"method": "clean"})[1]))
    (before, judged), (after, judged_again) = found
    assert same(before, after) and torch.equal(judged["clean"], judged_again["clean"])
