"""CIFAR-100, SVHN and Tiny ImageNet from small files in their formats, and what wrong ones come to."""

import hashlib
import pickle
import tarfile
import zipfile
from dataclasses import replace

import download_data
import numpy as np
import pytest
import scipy.io
import torch
from kafnets import registry
from kafnets.data import official
from kafnets.data.cifar100 import prepare_cifar100
from kafnets.data.official import FILES, Official
from kafnets.data.svhn import NAMES, prepare_svhn
from kafnets.data.tiny_imagenet import prepare_tiny_imagenet
from kafnets.runtime.errors import UserError
from PIL import Image
from torchvision.datasets import CIFAR100, SVHN

from tests.unit.data_files import picture
from tests.unit.test_data_download import CONTENT as SERVED
from tests.unit.test_data_download import QUICK, serving, whole

COUNTS = {"train": 6, "test": 4}


def described(path):
    content = path.read_bytes()
    digests = (hashlib.new(name, content).hexdigest() for name in ("md5", "sha256"))
    return Official("https://nowhere", len(content), *digests)


def refused(prepare, *fragments):
    with pytest.raises(UserError) as caught:
        prepare()
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    for fragment in (*fragments, "config.yaml"):
        assert fragment in message, message


def test_addresses_and_checksums_are_those_of_torchvision():
    published = {CIFAR100.filename: (CIFAR100.url, CIFAR100.tgz_md5)}
    published |= {name: (url, md5) for url, name, md5 in SVHN.split_list.values() if "extra" not in name}
    for name, (url, md5) in published.items():
        assert (FILES[name].url, FILES[name].md5) == (url.replace("http:", "https:"), md5)
    downloaded = {name for entry in registry.DATASETS.values() for name in entry.files}
    assert downloaded - {"cifar-10-python.tar.gz"} == FILES.keys()
    assert all(file.url.startswith("https://") for file in FILES.values())


# -- CIFAR-100


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """The folder, the archive, and torchvision's reader with the checksums of these."""
    folder = tmp_path_factory.mktemp("cifar") / CIFAR100.base_folder
    folder.mkdir()
    for number, (split, count) in enumerate(COUNTS.items()):
        data = np.random.RandomState(number).randint(0, 256, (count, 3072), np.uint8)
        labels = [(7 * label) % 100 for label in range(count)]
        content = {"data": data, "fine_labels": labels, "coarse_labels": [0] * count}
        (folder / split).write_bytes(pickle.dumps(content, protocol=2))
    names = {"fine_label_names": [f"class {number}" for number in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    archive = folder.parent / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname=folder.name)
        file.addfile(tarfile.TarInfo("../outside"))

    class Reader(CIFAR100):
        train_list = [["train", described(folder / "train").md5]]  # noqa: RUF012
        test_list = [["test", described(folder / "test").md5]]  # noqa: RUF012
        meta = {**CIFAR100.meta, "md5": described(folder / "meta").md5}  # noqa: RUF012

    return folder, archive, Reader


def test_cifar100_from_an_archive_and_a_folder(cifar100, tmp_path):
    folder, archive, reader = cifar100
    renamed = tmp_path / "renamed"
    renamed.symlink_to(folder)
    found = [
        prepare_cifar100(source, reader, described(archive))
        for source in (archive, folder, folder.parent, renamed)
    ]
    first = found[0]
    expected = np.random.RandomState(0).randint(0, 256, (6, 3072), np.uint8)
    assert torch.equal(first.train_images, torch.from_numpy(expected).view(6, 3, 32, 32))
    assert first.train_labels.tolist() == [0, 7, 14, 21, 28, 35]
    assert (len(first.classes), first.classes[99], len(first.test_labels)) == (100, "class 99", 4)
    for other in found[1:]:
        assert torch.equal(other.train_images, first.train_images)
        assert torch.equal(other.test_images, first.test_images) and other.classes == first.classes


@pytest.mark.injects("hostile or damaged archives")
def test_wrong_files_of_cifar100(cifar100, tmp_path):
    folder, archive, reader = cifar100
    refused(lambda: prepare_cifar100(None), "no source", "data.cifar100.source")
    refused(lambda: prepare_cifar100(tmp_path / "nowhere"), "no such file or folder")
    refused(lambda: prepare_cifar100(tmp_path, reader), "train: no such file")
    refused(lambda: prepare_cifar100(archive), "the official file 169001437")
    other = replace(described(archive), sha256="0" * 64)
    refused(lambda: prepare_cifar100(archive, reader, other), "its checksum is not the official file's")

    class Touch:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'trace')!r}, 'w')",))

    for name in ("train", "test", "meta"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "test").write_bytes(pickle.dumps(Touch()))
    refused(lambda: prepare_cifar100(tmp_path, reader), "test: its checksum is not the official file's")
    assert not (tmp_path / "trace").exists()
    part = tmp_path / "part.tar.gz"
    part.write_bytes(archive.read_bytes()[:-2000])
    refused(lambda: prepare_cifar100(part, reader, described(part)), "cannot be unpacked")


# -- SVHN


@pytest.fixture(scope="module")
def svhn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svhn")
    for number, name in enumerate(NAMES.values()):
        pixels = np.random.RandomState(number).randint(0, 256, (32, 32, 3, 5), np.uint8)
        labels = np.array([[10], [1], [2], [9], [10]], np.uint8)
        scipy.io.savemat(folder / name, {"X": pixels, "y": labels})
    files = {name: described(folder / name) for name in NAMES.values()}

    class Reader(SVHN):
        split_list = {split: ["", name, files[name].md5] for split, name in NAMES.items()}  # noqa: RUF012

    return folder, Reader, files


def test_svhn_is_what_its_files_hold(svhn):
    dataset = prepare_svhn(*svhn)
    pixels = np.random.RandomState(1).randint(0, 256, (32, 32, 3, 5), np.uint8)
    assert torch.equal(dataset.test_images, torch.from_numpy(pixels.transpose(3, 2, 0, 1).copy()))
    assert dataset.train_labels.tolist() == [0, 1, 2, 9, 0] and dataset.train_labels.dtype == torch.int64
    assert dataset.classes == tuple("0123456789")


@pytest.mark.injects("hostile or damaged archives")
def test_wrong_files_of_svhn(svhn, tmp_path):
    folder, reader, files = svhn
    refused(lambda: prepare_svhn(None), "no source", "data.svhn.source")
    refused(lambda: prepare_svhn(folder / "train_32x32.mat"), "no such folder")
    refused(lambda: prepare_svhn(tmp_path, reader, files), "train_32x32.mat: no such file")
    refused(lambda: prepare_svhn(folder), "the official file 182040794")
    for name in NAMES.values():
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    damaged = bytearray((folder / "test_32x32.mat").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "test_32x32.mat").write_bytes(damaged)
    refused(lambda: prepare_svhn(tmp_path, reader, files), "test_32x32.mat: its checksum")


# -- Tiny ImageNet


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two classes of two and one image each, as the official archive has them, and the archive."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    images = {f"train/{name}/images/{name}_{k}.JPEG": k for name in ("n02", "n01") for k in (0, 1)}
    images |= {"val/images/val_0.JPEG": 5, "val/images/val_1.JPEG": 6, "test/images/test_0.JPEG": 7}
    for name, number in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, (64, 64))).save(folder / name, quality=95)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tshark\nn03\tother\n")
    boxes = "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t1\t2\t3\t4\n"
    (folder / "val" / "val_annotations.txt").write_text(boxes)
    archive = folder.parent / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    return folder, archive


def test_tiny_imagenet_from_an_archive_and_a_folder(tiny):
    folder, archive = tiny
    sources = (archive, folder, folder.parent)
    found = [prepare_tiny_imagenet(source, described(archive), (4, 2)) for source in sources]
    first = found[0]
    assert first.classes == ("goldfish", "shark")
    assert (first.train_labels.tolist(), first.test_labels.tolist()) == ([0, 0, 1, 1], [1, 0])
    with Image.open(folder / "val/images/val_0.JPEG") as image:
        assert np.array_equal(first.test_images[0].numpy(), np.asarray(image).transpose(2, 0, 1))
    for other in found[1:]:
        assert torch.equal(other.train_images, first.train_images)
        assert torch.equal(other.test_images, first.test_images)


@pytest.mark.injects("hostile or damaged archives")
def test_wrong_files_of_tiny_imagenet(tiny, tmp_path):
    folder, archive = tiny
    refused(lambda: prepare_tiny_imagenet(None), "no source", "data.tiny_imagenet.source")
    refused(lambda: prepare_tiny_imagenet(tmp_path / "nowhere"), "no such file or folder")
    refused(lambda: prepare_tiny_imagenet(tmp_path), "wnids.txt: cannot be read (No such file or directory)")
    refused(lambda: prepare_tiny_imagenet(archive), "the official file 248100043")
    refused(lambda: prepare_tiny_imagenet(folder), "has 4 train images, the official set 100000")
    part = tmp_path / "part.zip"
    part.write_bytes(archive.read_bytes()[:-500])
    refused(lambda: prepare_tiny_imagenet(part, described(part)), "cannot be unpacked")


# -- downloads


def test_an_official_file_is_downloaded_from_its_host_alone(tmp_path, monkeypatch):
    name, path = "train_32x32.mat", tmp_path / "train.mat"
    with serving(whole) as server:
        digests = (hashlib.new(kind, SERVED).hexdigest() for kind in ("md5", "sha256"))
        monkeypatch.setitem(official.FILES, name, Official(server.url, len(SERVED), *digests))
        download_data.main(["--file", name, "--output", str(path)], **QUICK)
        assert path.read_bytes() == SERVED
        path.unlink()
        with pytest.raises(UserError, match=r"is not on https://elsewhere.*a copy of train_32x32.mat"):
            official.fetch(name, path, origins=("https://elsewhere",))
    assert list(tmp_path.iterdir()) == []
