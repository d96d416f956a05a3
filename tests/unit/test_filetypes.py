"""A file of another kind is told what it is, and what to do."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from kafnets import create_model, load_model, load_state_dict, published, registry, save_model
from kafnets.runtime import filetypes
from kafnets.runtime.errors import UserError
from safetensors.torch import save, save_file
from torch import nn

CONTENT = save({"a": torch.ones(100)})


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def written(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return buffer.getvalue()


TORCH_FILE = written(lambda file: torch.save({"a": torch.ones(100)}, file))
KINDS = {
    "empty": (b"", "is empty"),
    "cut short": (CONTENT[:-50], r"cut short \(\d+ of \d+ bytes are there\): copy or download it again"),
    "its header cut short": (CONTENT[:20], "cut short"),
    "damaged header": (CONTENT[:9] + b"\xff" + CONTENT[10:], "damaged header"),
    "header without tensors": (struct.pack("<Q", 12) + b'{"a":{"b":1}}', "damaged header"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(600), r"HDF5 file \(Keras, TensorFlow\)"),
    ".keras": (zipped("metadata.json", "config.json", "model.weights.h5"), r"\.keras file"),
    "SavedModel in a zip": (zipped("resnet/saved_model.pb"), "zipped SavedModel"),
    "NumPy": (written(lambda file: np.save(file, np.ones(3))), "NumPy file"),
    ".npz": (written(lambda file: np.savez(file, a=np.ones(3))), r"NumPy \.npz file"),
    "pickle": (pickle.dumps({"a": np.ones(3)}), "Python pickle, which can run code"),
    "TorchScript": (
        written(lambda file: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)),
        r"torch.jit.load\(path\).state_dict\(\)",
    ),
    "torch.export": (zipped("e/models/model.json", "e/archive_format"), r"torch.export.load\(path\)"),
    "another zip": (zipped("weights.bin"), "unpack it first"),
    "torch.save cut short": (TORCH_FILE[:-100], r"cut short or damaged \(a zip file, as torch.save"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "unpack it first"),
    "tar": (tar(), "unpack it first"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
    "web page": (b"\n<!DOCTYPE html>\n<html></html>", "a web page"),
    "JSON": (json.dumps({"a": 1}).encode(), "JSON text"),
    "anything else": (b"no tensors", "no weights file of a known kind"),
}


@pytest.mark.injects("weights files of another kind, or that do not fit")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [load_model, lambda path: load_state_dict(nn.Linear(2, 2), path)])
def test_what_the_file_is(tmp_path, kind, read):
    content, message = KINDS[kind]
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert "header too" not in str(error.value)


@pytest.mark.injects("weights files of another kind, or that do not fit")
def test_absent_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="absent: no such file"):
        load_model(tmp_path / "absent")
    with pytest.raises(UserError, match="is a folder, not a weights file"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"a folder; give the file in it: .*/model\.safetensors"):
        load_state_dict(nn.Linear(2, 2), str(tmp_path))
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UserError, match="SavedModel folder"):
        load_model(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(Not a directory\)"):
        load_model(tmp_path / "saved_model.pb" / "x")


@pytest.mark.parametrize("zip_file", [True, False])
def test_weights_without_a_description_are_sent_to_the_other_door(tmp_path, zip_file):
    path = tmp_path / "weights.pt"
    state = create_model("resnet8").state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=zip_file)
    with pytest.raises(UserError, match=r"is a PyTorch file \(torch.save\).*kafnets.load_state_dict"):
        load_model(path)
    path.write_bytes(save(state))
    with pytest.raises(UserError, match=r"no network description.*kafnets.load_state_dict"):
        load_model(path)


def test_the_authors_archive_is_not_the_converted_file(tmp_path):
    path = tmp_path / f"{registry.PUBLISHED['relu']}.safetensors"
    path.write_bytes(KINDS["SavedModel in a zip"][0])
    with pytest.raises(UserError, match="zipped SavedModel"):
        published.read(path)
    path.write_bytes(TORCH_FILE)
    with pytest.raises(UserError, match=r"is a PyTorch file .*not the converted weights"):
        published.read(path)


def test_a_damaged_tensor_file_that_looks_whole(tmp_path):
    content = bytearray(TORCH_FILE)
    content[content.index(b"data.pkl") + 80] ^= 0xFF
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pt: (is damaged|holds a Python object)") as error:
        load_state_dict(nn.Linear(2, 2), tmp_path / "weights.pt")
    assert "\n" not in str(error.value)
    save_model(create_model("resnet8"), tmp_path / "model.safetensors")
    os.truncate(tmp_path / "model.safetensors", 100_000)
    with pytest.raises(UserError, match="cut short"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("size", [640, 896, 1152, 1408])
def test_the_size_of_a_header_may_look_like_a_pickle(tmp_path, size):
    path = tmp_path / "model.safetensors"
    for length in range(size):
        save_file({"weight": torch.ones(2)}, path, {"note": "x" * length})
        if path.read_bytes()[:8] == size.to_bytes(8, "little"):
            break
    assert path.read_bytes()[0] == 0x80
    assert filetypes.recognise(path) == filetypes.SAFETENSORS
