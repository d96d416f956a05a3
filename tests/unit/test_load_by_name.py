"""Networks by name: the index, the cache, the leaderboard; the thesis's archives read without TensorFlow."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile

import kafnets
import numpy
import pytest
import torch
from kafnets import archives, command, model_zoo, published, registry
from kafnets.runtime import tables
from kafnets.runtime.errors import UserError
from safetensors.numpy import load_file

from tests.repository import ENVIRONMENT, ROOT

TRAINED = "resnet20/relu/h200-2026-11-27"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder of converted files, and no host in reach: a proxy that is not there."""
    monkeypatch.setenv("KAFNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KAFNETS_PUBLISHED", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    return tmp_path / "cache"


def test_the_index_is_what_the_records_say():
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow/scripts")}
    subprocess.run([sys.executable, ROOT / "docs/index.py", "--check"], env=environment, check=True)
    entry = model_zoo.describe(TRAINED)
    (pgd,) = entry["evaluations"]
    assert (pgd["clean"], pgd["robust"], pgd["examples"], pgd["attack"]) == (
        0.781,
        0.4049,
        10_000,
        "PGD-50-10",
    )
    assert {name.partition("/")[2] for name in model_zoo.index() if name.startswith("published/")} == set(
        registry.PUBLISHED
    )


def test_a_network_kept_in_the_repository(cache):
    """Without any network, as the file that its record tells of."""
    model = kafnets.load_model(TRAINED)
    path = model_zoo.file_of(TRAINED)
    assert path.is_relative_to(ROOT) and not model.training
    assert hashlib.sha256(path.read_bytes()).hexdigest() == model_zoo.describe(TRAINED)["sha256"]
    same = kafnets.load_model(str(path))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), same(x)) and not cache.exists()


def test_without_its_file_it_says_where_one_is(cache, monkeypatch):
    monkeypatch.setattr(model_zoo, "_CHECKOUT", cache)
    with pytest.raises(UserError, match="is not in this installation; it is results/reference/h200"):
        kafnets.load_model(TRAINED)
    copied = cache / "models" / f"{TRAINED}.safetensors"
    copied.parent.mkdir(parents=True)
    copied.write_bytes((ROOT / model_zoo.describe(TRAINED)["path"]).read_bytes())
    assert kafnets.load_model(TRAINED).specification["activation"] == "relu"
    copied.write_bytes(copied.read_bytes()[:-1])  # damaged: not the file that the index tells of
    with pytest.raises(UserError, match="is not in this installation"):
        kafnets.load_model(TRAINED)


def assert_same(model, expected):
    """By their tensors: a pass would compile the KAF's code, once for each test's cache."""
    found, wanted = model.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys() and not model.training
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_thesiss_networks_from_converted_files(cache, published_folder, monkeypatch):
    monkeypatch.setenv("KAFNETS_PUBLISHED", str(published_folder))
    model, expected = kafnets.load_model("published/kaf_elu"), published.load("kaf_elu", published_folder)
    assert_same(model, expected)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("published/kaf_elo", "'published/kaf_elo' is not known; did you mean published/kaf_elu?"),
        ("absent.safetensors", "absent.safetensors: no such file"),
    ],
)
def test_an_unknown_name(cache, name, message):
    with pytest.raises(UserError, match=message):
        kafnets.load_model(name)


def test_the_leaderboard():
    board = kafnets.leaderboard()
    assert list(board.columns) == list(model_zoo.COLUMNS) and not board[["clean", "robust"]].isna().any(
        axis=None
    )
    assert len(board) == sum(len(entry["evaluations"]) for entry in model_zoo.index().values())
    row = board[(board.name == TRAINED) & (board.attack == "PGD-50-10")].iloc[0]
    assert (row.architecture, row.activation, row.robust) == ("resnet20", "relu", 0.4049)
    assert (board.robust < board.clean).all()


# -- places that cannot be written to


@pytest.fixture
def no_cache(cache, monkeypatch):
    """As `cache`, which is not named."""
    monkeypatch.delenv("KAFNETS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_without_a_home_it_says_what_to_name(no_cache, monkeypatch, tmp_path):
    """No folder called "~" is made; what lies in the repository needs none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, and a user without an entry
    words = r"^there is no home folder to keep {} in; let KAFNETS_CACHE name a folder$"
    with pytest.raises(UserError, match=words.format(r"published/relu\.safetensors")):
        kafnets.load_model("published/relu")
    with pytest.raises(UserError, match=words.format(r"digits\.safetensors")):
        command.main(["download", "digits"])
    assert model_zoo.file_of(TRAINED).is_file()
    assert not list(tmp_path.iterdir())


def test_in_a_home_that_is_read_only_too(no_cache, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/self/fd")  # nothing can be made there, not even by root
    words = "/.cache/kafnets/{}: cannot be written to; let KAFNETS_CACHE name a folder that can$"
    with pytest.raises(UserError, match=words.format("models/published")):
        kafnets.load_model("published/relu")
    for name, folder in (("digits", "data"), ("cifar10", "data/raw")):
        with pytest.raises(UserError, match=words.format(folder)):
            command.main(["download", name])


# -- archives


def varint(value):
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def block(pairs):
    """A block of a table, each key after the first told by what it does not share with the one before."""
    content, before = b"", b""
    for key, value in pairs:
        shared = next((i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), None)
        shared = min(len(key), len(before)) if shared is None else shared
        own = key[shared:]
        content += varint(shared) + varint(len(own)) + varint(len(value)) + own + value
        before = key
    return content + struct.pack("<II", 0, 1)


def entry(kind, shape, offset, size):
    dimensions = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(n) for n in shape))
    found = b"\x08" + varint(kind) + b"\x12" + varint(len(dimensions)) + dimensions
    return found + b"\x20" + varint(offset) + b"\x28" + varint(size) + b"\x35" + bytes(4)


def write_checkpoint(folder, variables):
    """The files of variables as TensorFlow saves them: two blocks of a table, and the bytes."""
    data, pairs = b"", [(b"", b"\x08\x01")]
    for name, values in sorted(variables.items()):
        content = values.astype("<f4").tobytes()
        pairs.append((name.encode(), entry(1, values.shape, len(data), len(content))))
        data += content
    pairs.append((b"~object", entry(7, (), len(data), 3)))  # a text: no variable of ours
    table, handles = b"", []
    for part in (pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]):
        content = block(part)
        handles.append((part[-1][0], varint(len(table)) + varint(len(content))))
        table += content + bytes(5)
    index, offset = block(handles), len(table)
    footer = varint(0) + varint(0) + varint(offset) + varint(len(index))
    table += index + bytes(5) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "variables.index").write_bytes(table)
    (folder / "variables.data-00000-of-00001").write_bytes(data + b"end")
    return folder / "variables.index", folder / "variables.data-00000-of-00001"


def test_variables_are_read(tmp_path):
    generator = numpy.random.default_rng(0)
    shapes = {"a/b": (3, 2), "a/bc": (200,), "a/d": (1, 1, 2, 3), "scalar": ()}
    wanted = {name: generator.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    found = tables.read_variables(*write_checkpoint(tmp_path, wanted))
    assert found.keys() == wanted.keys()
    assert all(numpy.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.injects("hostile or damaged archives")
def test_a_damaged_table_is_refused_in_a_line(tmp_path):
    """Every lost tail, and every byte that is another: an error of the user's kind, or values."""
    index, data = write_checkpoint(tmp_path, {"kernel": numpy.ones((4, 4)), "bias": numpy.ones(4)})
    whole = index.read_bytes()
    lost = [whole[:length] for length in range(len(whole))]
    turned = [(at, bit) for at in range(len(whole)) for bit in (1, 128)]
    flipped = [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at, bit in turned]
    refused = [content for content in (*lost, *flipped) if is_refused(index, data, content)]
    assert refused[: len(lost)] == lost and len(refused) > len(lost)


def is_refused(index, data, content):
    index.write_bytes(content)
    try:
        tables.read_variables(index, data)
    except UserError as error:
        assert str(index) in str(error) and "\n" not in str(error)
        return True
    return False


def test_an_archive_becomes_the_network(tmp_path, cache, published_folder, monkeypatch):
    """A network of the thesis put back into an archive as Keras saves it, and loaded by name from there."""
    row = "kaf_elu"
    tensors = load_file(published_folder / f"{registry.PUBLISHED[row]}.safetensors")
    variables = {}
    for number, (layer, kind) in enumerate(published.layers(row)):
        for name, (keras, _) in archives._TENSORS[kind].items():
            values = tensors[f"{layer}.{name}"]
            if kind == "conv" and name == "weight":
                values = values.transpose(2, 3, 1, 0)
            elif kind == "dense" and name == "weight":
                values = values.T
            elif kind == "kaf":
                values = values.reshape(1, 1, 1, *values.shape)
            if name != "bandwidth":  # a constant of the saved program
                variables[f"layer_with_weights-{number}/{keras}/.ATTRIBUTES/VARIABLE_VALUE"] = values
    files = write_checkpoint(tmp_path, variables)
    archive = cache / "models" / "published" / f"{row}.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in files:
            file.write(path, f"model/variables/{path.name}")
    content = archive.read_bytes()
    facts = {**model_zoo.describe(f"published/{row}"), "bytes": len(content)}
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(model_zoo.index(), f"published/{row}", facts)
    model, expected = kafnets.load_model(f"published/{row}"), published.load(row, published_folder)
    assert_same(model, expected)
    assert not archive.exists() and archive.with_suffix(".safetensors").is_file()
    assert_same(kafnets.load_model(f"published/{row}"), expected)  # from the cache


# -- download


def test_what_a_download_fetches(cache, tmp_path):
    command.main(["download", TRAINED, "digits", "--output", str(tmp_path / "copies")])
    copied = tmp_path / "copies" / f"{TRAINED}.safetensors"
    assert hashlib.sha256(copied.read_bytes()).hexdigest() == model_zoo.describe(TRAINED)["sha256"]
    from kafnets.data.dataset import load

    assert len(load(tmp_path / "copies/digits.safetensors").test_labels) == 397
    with pytest.raises(UserError, match=r"'mnist': not known; write one of cifar10, .*published/relu"):
        command.main(["download", "mnist"])


def test_all_of_a_kind_and_one_host_that_is_not_there(cache, capsys):
    """The first network whose host is not there ends it at once: nothing is tried again, nor another."""
    with pytest.raises(
        UserError, match=r"^published/relu: https://.*; fetch it elsewhere and copy it to "
    ) as ended:
        command.main(["download", "published"])
    assert "the connection failed" in str(ended.value) and "KAFNETS_PUBLISHED" in str(ended.value)
    assert "trying again" not in capsys.readouterr().err


def test_the_index_is_json_that_others_can_read():
    """A name, and of each the keys that leaderboards have."""
    for name, facts in json.loads(
        (ROOT / "workflow/scripts/kafnets/model_zoo/index.json").read_text()
    ).items():
        assert {"architecture", "training", "sha256", "url", "evaluations"} <= facts.keys(), name
        for one in facts["evaluations"]:
            assert one.keys() == {"attack", "eps", "examples", "clean", "robust", "source"}
            assert (ROOT / one["source"]).exists()
