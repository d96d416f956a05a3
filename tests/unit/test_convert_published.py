"""The archives of the thesis's author: verified first, and nothing but two files of them is written."""

import hashlib
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import convert_published
import pytest
from kafnets import archives
from kafnets.runtime.errors import UserError

SCRIPT = Path(convert_published.__file__)
FILES = {"variables.index": b"index " * 20, "variables.data-00000-of-00001": bytes(range(256)) * 2}
FAULT = "hostile or damaged archives"


def write(path, members, compression=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as file:
        warnings.simplefilter("ignore")  # of two members with one name
        for name, content in members:
            file.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    members = [("model/saved_model.pb", b"program")]
    members += [(f"model/variables/{name}", content) for name, content in FILES.items()]
    return write(tmp_path / "model.zip", members)


@pytest.fixture
def inside(tmp_path):
    folder = tmp_path / "around" / "inside"
    folder.mkdir(parents=True)
    return folder


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_two_files_are_taken_out(archive, inside):
    assert archives.extract(archive, inside) == inside
    assert written(inside) == FILES


@pytest.mark.parametrize(
    "compression",
    [
        pytest.param(zipfile.ZIP_DEFLATED, id="deflated"),
        pytest.param(zipfile.ZIP_STORED, id="stored", marks=pytest.mark.slow),
        pytest.param(zipfile.ZIP_LZMA, id="lzma", marks=pytest.mark.slow),
    ],
)
def test_every_flipped_bit_and_every_lost_tail(tmp_path, inside, tally, compression):
    """Refused in a line, or without effect (a date, an attribute, a comment)."""
    members = [(f"m/variables/{name}", content[:40]) for name, content in FILES.items()]
    content = write(tmp_path / "whole.zip", members, compression).read_bytes()
    expected = {name: content[:40] for name, content in FILES.items()}
    path = tmp_path / "damaged.zip"
    damaged = [content[:length] for length in range(len(content))]
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    refused = 0
    for one in damaged:
        path.write_bytes(one)
        try:
            archives.extract(path, inside)
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert written(inside) == expected
        for file in inside.iterdir():
            file.unlink()
    assert refused > len(damaged) / 2
    tally.tried(FAULT, len(damaged))
    tally.held(FAULT, len(damaged))


@pytest.mark.parametrize(
    "name",
    [
        "m/variables/..",
        "m/variables/../../variables.index",
        "/m/variables/../variables/../../escaped",
        "../variables/variables.index/../../escaped",
        "m/variables/other",
        "m/variables\\..\\..\\escaped",
    ],
)
@pytest.mark.injects(FAULT)
def test_no_other_file_is_written(tmp_path, inside, name):
    path = write(tmp_path / "hostile.zip", [(name, b"hostile")])
    with pytest.raises(UserError, match=r"holds no variables.index"):
        archives.extract(path, inside)
    assert not list(inside.iterdir()) and sorted(tmp_path.rglob("*")) == [inside.parent, inside, path]


@pytest.mark.parametrize("lie", [False, True], ids=["as it says", "under a smaller size"])
@pytest.mark.injects(FAULT)
def test_a_bomb_is_not_unpacked(tmp_path, inside, lie):
    name = "m/variables/variables.index"
    path = write(tmp_path / "bomb.zip", [(name, bytes(200_000_000))])
    if lie:
        size = (200_000_000).to_bytes(4, "little")
        path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(UserError, match=f"{path}: cannot read the archive") as refused:
        archives.extract(path, inside)
    assert lie or "too large" in str(refused.value)
    assert not list(inside.iterdir())


@pytest.mark.injects(FAULT)
def test_a_link_is_no_link(tmp_path, inside):
    info = zipfile.ZipInfo("m/variables/variables.index")
    info.external_attr = 0o120777 << 16
    path = write(tmp_path / "link.zip", [(info, b"/etc/passwd")])
    with pytest.raises(UserError, match="holds no variables"):
        archives.extract(path, inside)
    assert not (inside / "variables.index").is_symlink()


@pytest.mark.injects(FAULT)
def test_an_encrypted_archive(archive, inside):
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = content.find(signature)
        while position >= 0:
            content[position + offset] |= 1
            position = content.find(signature, position + 4)
    archive.write_bytes(content)
    with pytest.raises(UserError, match="encrypted"):
        archives.extract(archive, inside)


def convert(archive, sha256, output):
    command = [sys.executable, SCRIPT, "--row", "relu", "--archive", archive, "--sha256", sha256]
    return subprocess.run([*command, "--output", output], capture_output=True, text=True)


@pytest.mark.injects(FAULT)
def test_another_archive_is_refused_before_it_is_opened(archive, tmp_path):
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    with open(archive, "ab") as file:
        file.write(b"\n")
    output = tmp_path / "out.safetensors"
    done = convert(archive, right, output)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not output.exists()
    assert f"{archive}: its SHA-256 is" in done.stderr and right in done.stderr
    done = convert(tmp_path / "absent.zip", right, output)
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "absent.zip: cannot be read" in done.stderr
    )


def test_the_files_of_another_network_are_refused(archive, tmp_path):
    """What is no table of variables, with the checksum that was promised."""
    done = convert(archive, hashlib.sha256(archive.read_bytes()).hexdigest(), tmp_path / "out.safetensors")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "variables.index: not a table of saved variables, or damaged" in done.stderr
