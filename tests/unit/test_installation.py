"""`make venv` with torch of another index, on packages made here."""

import hashlib
import re
import subprocess
import sys
import zipfile

import pytest

from tests.repository import ENVIRONMENT, ROOT

TORCH = re.compile(r"torch|torchvision|triton|(cuda|nvidia)-.*")


def wheel(folder, name, version):
    """A package that holds nothing but a module with its version, in a folder that is an index."""
    home = folder / name
    home.mkdir(parents=True)
    path = home / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{path.name.removesuffix('-py3-none-any.whl')}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name.replace('-', '_')}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{info}/RECORD,,\n")
    (home / "index.html").write_text(f'<a href="{path.name}">{path.name}</a>')
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def make(tmp_path):
    """A function: `make venv` of a project with a small lock, from two indexes; what it installed."""
    ours, theirs = tmp_path / "ours", tmp_path / "cpu"
    small = wheel(ours, "small", "1.0")
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "requirements.txt").write_text("torch==2.0\ntorchvision==3.0\nsmall==1.0\n")

    def entry(requirement, *hashes):
        return " \\\n".join([requirement, *(f"    --hash=sha256:{one}" for one in hashes)]) + "\n"

    def made(*arguments, checksum=small):
        (tmp_path / "requirements.lock").write_text(
            entry("nvidia-large==9.0 ; sys_platform == 'linux'", "0" * 64, "1" * 64)
            + entry("small==1.0", "2" * 64, checksum)
            + entry("torch==2.0", "3" * 64)
            + entry("torchvision==3.0", "4" * 64, "5" * 64)
        )
        for name, version in (("torch", "2.0+cpu"), ("torchvision", "3.0+cpu")):
            if not (theirs / name).exists():
                wheel(theirs, name, version)
        only = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": ours.as_uri(), "PIP_NO_CACHE_DIR": "1"}
        command = ["make", "venv", f"PYTHON={sys.executable}", *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, env={**ENVIRONMENT, **only}, capture_output=True, text=True, timeout=300
        )
        folders = (tmp_path / ".venv").glob("lib/*/site-packages/*.dist-info")
        return result, sorted(folder.name.removesuffix(".dist-info") for folder in folders)

    return made, theirs.as_uri()


def test_torch_of_another_index_without_cuda_and_all_else_verified(make):
    made, index = make
    result, installed = made()
    assert result.returncode != 0 and "nvidia-large" in result.stderr, result.stderr
    result, installed = made(f"TORCH_INDEX={index}", checksum="6" * 64)
    assert result.returncode != 0 and "DO NOT MATCH THE HASHES" in result.stderr, result.stderr
    result, installed = made(f"TORCH_INDEX={index}")
    assert result.returncode == 0, result.stderr
    assert [name for name in installed if not re.match("pip|setuptools", name)] == [
        "small-1.0",
        "torch-2.0+cpu",
        "torchvision-3.0+cpu",
    ]


def test_what_is_left_out_is_torch_and_cuda():
    """The recipe's expression, on the lock as it stands: every other line of it is left."""
    recipe = subprocess.run(
        ["make", "-n", "-B", "venv", "VENV=/nowhere", "TORCH_INDEX=x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (expression,) = re.findall(r"^sed -E '(.*)' requirements\.lock", recipe, re.MULTILINE)
    lock = (ROOT / "requirements.lock").read_text()
    rest = subprocess.run(["sed", "-E", expression], input=lock, capture_output=True, text=True, check=True)
    entries = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)
    left = [entry for entry in entries if not TORCH.fullmatch(entry.partition("==")[0])]
    assert rest.stdout == "".join(left) and len(entries) - len(left) > 10
