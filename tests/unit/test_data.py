"""Preparing and loading data sets, and what damaged or hostile sources come to."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import prepare_data
import pytest
import torch
from kafnets import data, registry
from kafnets.data.cifar10 import FOLDER, MAXIMUM_MEMBERS, MEMBERS, Member
from kafnets.data.dataset import TENSORS, balanced_order
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError

SCRIPTS = Path(prepare_data.__file__).parent
BATCH = 30


@contextlib.contextmanager
def refused(*fragments):
    """The block must end with a UserError whose one line holds every fragment."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


def fingerprint(dataset):
    digest = hashlib.sha256()
    for name in TENSORS:
        digest.update(getattr(dataset, name).contiguous().numpy().tobytes())
    return digest.hexdigest()


# a small set in CIFAR-10's format ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """Contents of the official file names with 30 random images each, and the table of their checksums."""
    random = np.random.RandomState(1)
    contents = {}
    for name in MEMBERS:
        if name == "batches.meta":
            batch = {"label_names": [f"class {k}" for k in range(10)]}
        else:
            labels = random.permutation(np.arange(BATCH) % 10)
            batch = {"data": random.randint(0, 256, (BATCH, 3072), np.uint8), "labels": labels.tolist()}
        contents[name] = pickle.dumps(batch, protocol=2)
    members = {
        name: Member(len(content), hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }
    return contents, members


def entry(name, content=b"", kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def official(contents):
    return [entry(f"{FOLDER}/{name}", content) for name, content in contents.items()]


def write_tar(path, entries, mode="w:gz"):
    options = {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(path, mode, **options) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return path


def write_folder(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def small_dataset(small, tmp_path_factory):
    contents, members = small
    folder = write_folder(tmp_path_factory.mktemp("small") / FOLDER, contents)
    return data.prepare_cifar10(folder, members)


# the real sets ----------------------------------------------------------------------------------------------


def test_checksums_are_those_torchvision_publishes():
    from torchvision.datasets import CIFAR10

    published = dict([*CIFAR10.train_list, *CIFAR10.test_list])
    published[CIFAR10.meta["filename"]] = CIFAR10.meta["md5"]
    assert {name: member.md5 for name, member in MEMBERS.items()} == published
    assert CIFAR10.base_folder == FOLDER


def test_official_cifar10_equals_what_torchvision_reads(cifar10_folder, tmp_path):
    from torchvision.datasets import CIFAR10

    output, record = tmp_path / "cifar10.safetensors", tmp_path / "cifar10.json"
    options = ["--dataset", "cifar10", "--source", cifar10_folder, "--output", output, "--record", record]
    prepare_data.main([str(option) for option in options])
    dataset = data.load(output)
    output.unlink()
    for split in ("train", "test"):
        reference = CIFAR10(cifar10_folder.parent, train=split == "train")
        images = torch.from_numpy(reference.data.transpose(0, 3, 1, 2).copy())
        assert torch.equal(getattr(dataset, f"{split}_images"), images)
        assert getattr(dataset, f"{split}_labels").tolist() == reference.targets
        assert list(dataset.classes) == reference.classes
    assert dataset.train_images.dtype == torch.uint8
    assert dataset.train_images.shape == (50_000, 3, 32, 32)
    assert dataset.test_labels.dtype == torch.int64
    facts = json.loads(record.read_text())
    assert (facts["name"], facts["train_examples"], facts["test_examples"]) == ("cifar10", 50_000, 10_000)
    assert facts["sha256"] == dataset.sha256


def test_official_cifar10_from_an_archive(cifar10_folder, tmp_path):
    path = tmp_path / "repacked.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(cifar10_folder, arcname=FOLDER)
    dataset = data.prepare_cifar10(path)
    path.unlink()
    assert dataset.train_labels.bincount().tolist() == [5000] * 10
    assert dataset.test_labels.bincount().tolist() == [1000] * 10


def test_digits_are_the_bundled_images():
    from sklearn.datasets import load_digits

    bundled = load_digits()
    dataset = data.prepare_digits()
    small_images = torch.from_numpy(bundled.images)[:, None] * (255 / 16)
    resized = torch.nn.functional.interpolate(small_images, (32, 32), mode="bilinear", align_corners=False)
    expected = {
        (image.round().to(torch.uint8).expand(3, 32, 32).numpy().tobytes(), int(label))
        for image, label in zip(resized, bundled.target, strict=True)
    }
    train, test = (
        {
            (image.numpy().tobytes(), int(label))
            for image, label in zip(
                getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels"), strict=True
            )
        }
        for split in ("train", "test")
    )
    assert train | test == expected
    assert not train & test
    assert len(dataset.train_labels) == 1400
    assert len(dataset.test_labels) == 397
    assert set(dataset.test_labels.bincount().tolist()) == {39, 40}


def test_digits_are_the_same_for_ever():
    """Published numbers rest on this split and these pixels."""
    expected = "95dc1548ee37de4178f85baa2c6ba4b9d312b66aa0bf31fcd80f0a533766d4b0"
    assert fingerprint(data.prepare_digits()) == expected


def test_digits_take_no_source(tmp_path):
    with refused("digits", "no source"):
        data.prepare_digits(tmp_path)


def test_every_registered_data_set_is_there():
    for registered in registry.DATASETS.values():
        assert callable(registered.load())


# sources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_archive_and_folder_give_the_same(small, small_dataset, tmp_path, mode, prefix):
    contents, members = small
    entries = [entry(f"{prefix}{FOLDER}", kind=tarfile.DIRTYPE), entry(f"{prefix}{FOLDER}/readme.html", b"x")]
    entries += [entry(f"{prefix}{FOLDER}/{name}", content) for name, content in contents.items()]
    dataset = data.prepare_cifar10(write_tar(tmp_path / "a", entries, mode), members)
    assert same(dataset, small_dataset)
    assert dataset.classes == small_dataset.classes
    assert len(dataset.train_labels) == 5 * BATCH
    assert len(dataset.test_labels) == BATCH


def test_the_folder_above_will_do(small, small_dataset, tmp_path):
    contents, members = small
    write_folder(tmp_path / FOLDER, contents)
    assert same(data.prepare_cifar10(tmp_path, members), small_dataset)


def test_absent_sources(small, tmp_path):
    contents, members = small
    with refused("no source", "data.cifar10.source"):
        data.prepare_cifar10(None, members)
    with refused("nowhere", "no such file or folder", "data.cifar10.source"):
        data.prepare_cifar10(tmp_path / "nowhere", members)
    with refused("data_batch_1", "no such file"):
        data.prepare_cifar10(tmp_path, members)
    with refused("File name too long"):
        data.prepare_cifar10(tmp_path / ("x" * 300), members)
    some = {name: content for name, content in contents.items() if name != "data_batch_3"}
    with refused("data_batch_3", "no such file"):
        data.prepare_cifar10(write_folder(tmp_path / FOLDER, some), members)
    with refused("data_batch_3", "not in it"):
        data.prepare_cifar10(write_tar(tmp_path / "a.tar.gz", official(some)), members)


class Touch:
    """Unpickling one creates a file: the trace of unverified bytes being opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("same_size", [True, False])
@pytest.mark.injects("hostile or damaged archives")
def test_a_wrong_file_is_never_unpickled(small, tmp_path, same_size):
    contents, members = small
    trace = tmp_path / "trace"
    hostile = pickle.dumps(Touch(trace))
    if same_size:
        hostile += b"." * (members["test_batch"].size - len(hostile))
    wrong = {**contents, "test_batch": hostile}
    reason = "checksum" if same_size else "bytes"
    with refused("test_batch", reason):
        data.prepare_cifar10(write_folder(tmp_path / FOLDER, wrong), members)
    with refused("test_batch", reason):
        data.prepare_cifar10(write_tar(tmp_path / "a.tar.gz", official(wrong)), members)
    assert not trace.exists()


@pytest.mark.injects("hostile or damaged archives")
def test_not_an_archive(small, tmp_path):
    _, members = small
    for content in (b"", b"\x1f\x8b", b"<html>404</html>", b"\x1f\x8b\x08" + b"\0" * 2000, b"\0" * 4096):
        (tmp_path / "a").write_bytes(content)
        with refused("cifar-10-python.tar.gz"):
            data.prepare_cifar10(tmp_path / "a", members)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.injects("hostile or damaged archives")
def test_damaged_archives(small, small_dataset, tmp_path, mode):
    """A truncated archive is refused; a flipped bit is too, unless it lies in padding or metadata."""
    contents, members = small
    whole = bytearray(write_tar(tmp_path / "a", official(contents), mode).read_bytes())
    random = np.random.RandomState(2)
    path, refusals = tmp_path / "damaged", 0
    for length in random.randint(0, len(whole) - 20_000, 20):
        path.write_bytes(whole[:length])
        with refused():
            data.prepare_cifar10(path, members)
    for position, bit in zip(random.randint(0, len(whole), 60), random.randint(0, 8, 60), strict=True):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert same(data.prepare_cifar10(path, members), small_dataset)
        except UserError:
            refusals += 1
    assert refusals > 50


@pytest.mark.injects("hostile or damaged archives")
def test_hostile_names_are_never_written(small, small_dataset, tmp_path):
    contents, members = small
    inside = tmp_path / "inside"
    inside.mkdir()
    outside = tmp_path / "outside"
    hostile = [
        entry("../outside", b"x"),
        entry(str(outside), b"x"),
        entry(f"{FOLDER}/../../outside", b"x"),
        entry(f"{FOLDER}/link", kind=tarfile.SYMTYPE, linkname=str(tmp_path)),
        entry(f"{FOLDER}/link/outside", b"x"),
        entry(f"{FOLDER}/device", kind=tarfile.CHRTYPE),
    ]
    path = write_tar(inside / "a.tar.gz", hostile + official(contents))
    assert same(data.prepare_cifar10(path, members), small_dataset)
    assert sorted(tmp_path.iterdir()) == [inside]
    assert list(inside.iterdir()) == [path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
@pytest.mark.injects("hostile or damaged archives")
def test_links_in_the_place_of_members(small, tmp_path, kind):
    contents, members = small
    secret = tmp_path / "secret"
    secret.write_bytes(contents["data_batch_1"])
    entries = [entry(f"{FOLDER}/data_batch_1", kind=kind, linkname=str(secret)), *official(contents)]
    with refused("data_batch_1", "not a file"):
        data.prepare_cifar10(write_tar(tmp_path / "a.tar.gz", entries), members)


@pytest.mark.injects("hostile or damaged archives")
def test_special_files_in_the_folder(small, tmp_path):
    contents, members = small
    folder = write_folder(tmp_path / FOLDER, contents)
    (folder / "test_batch").unlink()
    os.mkfifo(folder / "test_batch")  # reading it would wait for ever
    with refused("test_batch", "no such file"):
        data.prepare_cifar10(folder, members)


@pytest.mark.injects("hostile or damaged archives")
def test_bombs_are_not_unpacked(small, tmp_path):
    contents, members = small
    path = tmp_path / "bomb.tar.gz"
    limit = sum(member.size for member in members.values())

    info, _ = entry("zeros")
    info.size = 1 << 40
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert 10 * limit < 64 << 20
    with refused("unpacks to more"):
        data.prepare_cifar10(path, members)

    oversized, _ = entry(f"{FOLDER}/data_batch_1")
    oversized.size = 1 << 40
    with gzip.open(path, "wb") as file:
        file.write(oversized.tobuf())
    with refused("data_batch_1", f"{1 << 40} bytes"):
        data.prepare_cifar10(path, members)

    crowd = [entry(f"file{k}") for k in range(MAXIMUM_MEMBERS)]
    with refused("more than 64 entries"):
        data.prepare_cifar10(write_tar(path, crowd + official(contents)), members)

    # headers that each announce a long name for the next one: the reader recurses
    link, name = entry("././@LongLink", b"x" * 8, tarfile.GNUTYPE_LONGNAME)
    with gzip.open(path, "wb") as file:
        file.write((link.tobuf(tarfile.GNU_FORMAT) + name.ljust(512, b"\0")) * 1100)
    with refused("damaged"):
        data.prepare_cifar10(path, members)


# the prepared file ------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(small_dataset, tmp_path):
    path = tmp_path / "out" / "small.safetensors"
    data.save(small_dataset, path, path.with_suffix(".json"))
    return path


def test_save_and_load(small_dataset, prepared):
    dataset = data.load(prepared)
    assert same(dataset, small_dataset)
    assert (dataset.name, dataset.classes) == ("cifar10", small_dataset.classes)
    assert dataset.sha256 == hashlib.sha256(prepared.read_bytes()).hexdigest()
    assert sorted(path.name for path in prepared.parent.iterdir()) == ["small.json", "small.safetensors"]


def test_prepared_files_are_the_same_in_every_process(tmp_path):
    """Their bytes decide whether models are trained again, so they must not depend on hash seeds or dates."""
    here, there = tmp_path / "here", tmp_path / "there"
    data.save(data.prepare_digits(), here / "digits.safetensors", here / "digits.json")
    command = [sys.executable, SCRIPTS / "prepare_data.py", "--dataset", "digits"]
    command += ["--output", there / "digits.safetensors", "--record", there / "digits.json"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    for name in ("digits.safetensors", "digits.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()


def test_damaged_prepared_files_are_refused(prepared):
    whole = prepared.read_bytes()
    random = np.random.RandomState(3)
    for position in random.randint(0, len(whole), 20):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        prepared.write_bytes(damaged)
        with refused("small.safetensors", "checksum", "delete"):
            data.load(prepared)
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        prepared.write_bytes(whole[:length])
        with refused("small.safetensors", "checksum"):
            data.load(prepared)


def test_absent_or_damaged_records_are_refused(prepared):
    record = prepared.with_suffix(".json")
    for content in ("", "{", "null", "[]", "{}", '{"sha256": null}', '{"sha256": "00"}'):
        record.write_text(content)
        with refused("small."):
            data.load(prepared)
    record.unlink()
    with refused("small.json", "no such file"):
        data.load(prepared)


def test_absent_prepared_file(prepared):
    prepared.unlink()
    with refused("small.safetensors", "no such file", "snakemake makes it"):
        data.load(prepared)


@contextlib.contextmanager
def file_size_limit(size):
    """Writing further into any file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failing_write_leaves_nothing(small_dataset, tmp_path):
    with file_size_limit(1000), refused("cannot write"):
        data.save(small_dataset, tmp_path / "a.safetensors", tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with refused("cannot write"):
        data.save(small_dataset, tmp_path / "file" / "a.safetensors", tmp_path / "file" / "a.json")


def test_a_failing_write_leaves_the_old_files(small_dataset, prepared):
    with file_size_limit(1000), refused("cannot write"):
        data.save(small_dataset, prepared, prepared.with_suffix(".json"))
    assert same(data.load(prepared), small_dataset)


# subsets ----------------------------------------------------------------------------------------------------


def rows(images):
    return [image.numpy().tobytes() for image in images]


def test_subsets_are_balanced_nested_and_in_order(small_dataset, prepared):
    everything = rows(small_dataset.train_images)
    smaller = set()
    for examples in (1, 7, 10, 33, 100, 149, 150):
        dataset = data.load(prepared, train_examples=examples)
        counts = torch.bincount(dataset.train_labels, minlength=10)
        assert len(dataset.train_images) == examples == counts.sum()
        assert counts.max() - counts.min() <= 1
        kept = rows(dataset.train_images)
        assert smaller <= set(kept)
        smaller = set(kept)
        places = [everything.index(row) for row in kept]
        assert places == sorted(places)
        assert small_dataset.train_labels[places].tolist() == dataset.train_labels.tolist()
        assert len(dataset.test_images) == BATCH


def test_both_splits_can_be_cut(small_dataset, prepared):
    dataset = data.load(prepared, train_examples=20, test_examples=10)
    assert len(dataset.train_labels) == 20
    assert sorted(dataset.test_labels.tolist()) == list(range(10))
    assert same(dataset, data.load(prepared, train_examples=20, test_examples=10))


def test_unequal_classes_run_out_one_after_another():
    labels = np.array([0] * 2 + [1] * 50 + [2] * 5)
    order = balanced_order(labels)
    assert sorted(order) == list(range(57))
    assert np.bincount(labels[order[:12]]).tolist() == [2, 5, 5]
    assert np.bincount(labels[order[:20]]).tolist() == [2, 13, 5]


@pytest.mark.parametrize("examples", [0, -1, 31, 10**30, True, 1.5, "10"])
def test_impossible_subsets_name_the_key(prepared, examples):
    with refused("test_examples", repr(examples), "from 1 to 30"):
        data.load(prepared, test_examples=examples)


# the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--dataset", "cifar1O"], ["--dataset", "cifar10", "digits"]),
        (["--dataset", "cifar10"], ["no source"]),
        (["--dataset", "cifar10", "--source", "{tmp}/absent.tar.gz"], ["absent.tar.gz", "no such file"]),
        (["--dataset", "digits", "--source", "{tmp}"], ["takes no source"]),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, capsys, options, fragments):
    options = [option.format(tmp=tmp_path) for option in options]
    options += ["--output", str(tmp_path / "o" / "a.safetensors"), "--record", str(tmp_path / "o" / "a.json")]
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: prepare_data.main(options))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for fragment in fragments:
        assert fragment in message
    assert list(tmp_path.iterdir()) == []
