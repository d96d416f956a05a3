"""What SECURITY.md says, held against the sources."""

import ast
import hashlib
import json
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from importlib import metadata

import pytest
from kafnets.registry import PUBLISHED
from packaging.requirements import Requirement

from tests.repository import ENVIRONMENT, ROOT, copy_repository

SOURCES = sorted((ROOT / "workflow").rglob("*.py"))
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
# In a command without quotes: numbers and names that a wildcard constraint or the schema holds to [a-z0-9_].
PLAIN = re.compile(
    r"threads|wildcards[.](experiment|dataset|activation)|resources[.](device|batch_size)|params[.]attack"
)


def test_bandit_finds_nothing():
    command = [sys.executable, "-m", "bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive"]
    result = subprocess.run([*command, "workflow/scripts"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# By what they are called where they are at home; a package stands for all that is in it.
UNPICKLE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
EVALUATE = {"eval", "exec", "__import__", "os.system", "os.popen", "pandas.read_pickle", "numpy.load"}
UNSAFE_YAML = {
    f"yaml.{name}" for name in ("unsafe_load", "unsafe_load_all", "full_load", "UnsafeLoader", "Loader")
}
SAFE_YAML = {"yaml.SafeLoader", "yaml.CSafeLoader"}
LOAD = {"torch.load", "torch.serialization.load"}


def unsafe(source):
    """What a program names that may unpickle, evaluate or go through a shell, however it was imported."""
    tree = ast.parse(source)
    nodes, homes, checked = list(ast.walk(tree)), {}, set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.partition(".")[0]
                homes[alias.asname or full] = full
        elif isinstance(node, ast.ImportFrom) and not node.level:
            homes |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def home(node):
        if isinstance(node, ast.Name):
            return homes.get(node.id, node.id)
        return f"{home(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"

    for node in nodes:
        if isinstance(node, ast.Call):
            flags = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if flags.get("weights_only") == "True":
                checked.add(id(node.func))
            if flags.get("shell", "False") != "False" or flags.get("allow_pickle", "False") != "False":
                yield ast.unparse(node)
            function, arguments = home(node.func), [home(argument) for argument in node.args]
            arguments += [home(keyword.value) for keyword in node.keywords]
            by_name = function == "getattr" and arguments[0] in ("torch", "numpy", *UNPICKLE)
            if by_name or (function in ("yaml.load", "yaml.load_all") and not SAFE_YAML & set(arguments)):
                yield ast.unparse(node)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Name | ast.Attribute):
            names = [home(node)]
        else:
            continue
        for name in names:
            unpickles = name.partition(".")[0] in UNPICKLE and "." in name
            unchecked = name in LOAD and id(node) not in checked
            if unpickles or unchecked or name in EVALUATE | UNSAFE_YAML:
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_unpickled_or_evaluated(path):
    # CIFAR-10 is published as pickles: opened in one place, after their checksums
    allowed = ["pickle.loads"] if path.parts[-2:] == ("data", "cifar10.py") else []
    assert list(unsafe(path.read_text())) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.load(file)",
        "import pickle; pickle.loads(content)",
        "import pickle as p; p.loads(content)",
        "from pickle import loads",
        "from pickle import loads as json_loads; json_loads(content)",
        "import pickle; read = pickle.Unpickler",
        "import _pickle; _pickle.loads(content)",
        "import dill; dill.load(file)",
        "import shelve; shelve.open(path)",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import torch as t; t.load(path)",
        "import torch; read = torch.load; read(path)",
        "import torch; getattr(torch, 'load')(path)",
        "from torch import load",
        "from torch.serialization import load as read",
        "import numpy; numpy.load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "from numpy import load; load(path)",
        "import numpy.lib.npyio as n; n.NpzFile(file, allow_pickle=True)",
        "import pandas; pandas.read_pickle(path)",
        "eval(text)",
        "exec(text)",
        "import os; os.system(command)",
        "from os import popen",
        "import subprocess; subprocess.run(command, shell=True)",
        "import subprocess as s; s.run(command, shell=1)",
        "import yaml; yaml.load(text, Loader=yaml.UnsafeLoader)",
        "import yaml; yaml.load(text, yaml.FullLoader)",
        "import yaml; yaml.unsafe_load(text)",
    ],
)
def test_what_may_unpickle_or_evaluate_is_seen(source):
    assert list(unsafe(source))


# What a rule file puts into a command itself: quoted where it is made, or a text of that file.
MADE_THERE = {"SCRIPT", "kind", "plot['options']"}


def commands(text):
    """The shell commands of a rule file as Snakemake formats them, and the options of plots."""
    found = re.findall(r'\n +shell:\n((?: +f?".*"\n)+)', text)
    # no command is written in a way that this does not see
    assert len(found) == len(re.findall(r"\b(?:shell *[:(]|(?:script|notebook|wrapper|cwl):)", text))
    found += re.findall(r'"options": ((?:(?:\n? +)?f?".*"\n?)+|EXPERIMENT),', text)
    for prefix, words in re.findall(r'(f?)"((?:[^"\\]|\\.)*)"', "".join(found)):
        if prefix:
            names = set(re.findall(r"(?<!{){([^{}]+)}(?!})", words))
            assert names <= MADE_THERE | {"EXPERIMENT"}, words
            words = re.sub(r"(?<!{){[^{}]+}(?!})", "", words).replace("{{", "{").replace("}}", "}")
        yield words


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_commands_quote_what_they_are_given(path):
    """Every placeholder of a shell command is quoted, or can hold nothing that needs it."""
    for words in commands(path.read_text(encoding="utf-8")):
        for placeholder in re.findall(r"{([^{}]+)}", words):
            assert placeholder.endswith(":q") or PLAIN.fullmatch(placeholder), f"{{{placeholder}}} in {words}"


def test_the_folder_of_scripts_is_quoted():
    common = (ROOT / "workflow" / "rules" / "common.smk").read_text(encoding="utf-8")
    assert 'SCRIPT = shlex.quote(f"{HERE}workflow/scripts")' in common


HOSTILE = "a  b; $(touch pwned) `touch pwned` ' \" && touch pwned | *"


@pytest.mark.injects("paths of sources that are commands to a shell")
def test_a_hostile_source_is_a_path_and_no_command(tmp_path):
    """Through Snakemake and its shell: the steps that read a source get its name as it is."""
    folder = copy_repository(tmp_path / "repository")
    archive, weights = tmp_path / f"{HOSTILE}.tar.gz", tmp_path / HOSTILE
    archive.write_bytes(b"no archive")
    weights.mkdir()
    (weights / f"{PUBLISHED['relu']}.safetensors").write_bytes(b"no weights")
    data = {"cifar10": {"source": str(archive)}, "published": {"source": str(weights)}}
    out = "results/published_smoke"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--notemp"]
    command += [
        "--configfile",
        "workflow/presets/published_smoke.yaml",
        "--config",
        f"data={json.dumps(data)}",
    ]
    command += ["--", f"{out}/data/cifar10.json", f"{out}/models/published/relu/seed0/record.json"]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    logs = {path.name: path.read_text() for path in (folder / out / "logs").rglob("*.log")}
    for log, path in (("prepare_cifar10.log", archive), ("seed0.log", weights)):
        started, words = logs[log].splitlines()
        assert started.startswith("--- started ")
        assert words.startswith(f"error: {' '.join(str(path).split())}"), logs[log]
    assert not list(tmp_path.rglob("pwned"))


def test_downloads_are_encrypted():
    for path in SOURCES:
        for url in re.findall(r"[\"']http://[^\"']+", path.read_text()):
            pytest.fail(f"{path.name}: {url}")


def test_every_requirement_is_locked_with_checksums():
    """requirements.lock has the versions of requirements.txt, and a checksum for each package."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    for name, version in re.findall(
        r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    ):
        assert locked[name.lower()] == version, f"{name}: run make lock"
    for entry in re.split(r"\n(?=[a-z])", lock)[1:]:
        assert entry.count("--hash=sha256:") >= 1, entry


# -- the packages that are installed


def locked():
    """The packages of requirements.lock that belong on this machine."""
    lock = (ROOT / "requirements.lock").read_text()
    found = [
        Requirement(line) for line in re.findall(r"^([a-z0-9._-]+==[^\\\n]+?) *\\?$", lock, re.MULTILINE)
    ]
    assert len(found) > 50
    if metadata.version("torch").endswith("+cpu"):  # make test TORCH_INDEX=...
        found = [package for package in found if not re.match("triton|cuda-|nvidia-", package.name)]
    return [package for package in found if package.marker is None or package.marker.evaluate()]


@pytest.mark.parametrize("package", locked(), ids=lambda package: package.name)
def test_what_is_installed_is_what_is_locked(package):
    assert metadata.version(package.name) in package.specifier


def test_installed_packages_agree_with_each_other():
    result = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    # the Makefile installs it without its requirements, and says why
    problems = [line for line in result.stdout.splitlines() if not line.startswith("torchattacks ")]
    assert problems in ([], ["No broken requirements found."])


@pytest.mark.parametrize("name", ["safetensors", "numpy", "jsonschema", "PyYAML", "snakemake", "torchvision"])
def test_installed_files_are_those_that_the_packages_list(name):
    """Every file of a package has the SHA-256 that its RECORD gives."""
    checked = 0
    for file in metadata.files(name):
        if file.hash is None:  # RECORD itself, and what Python compiles
            continue
        assert file.hash.mode == "sha256"
        digest = hashlib.sha256(file.locate().read_bytes()).digest()
        assert urlsafe_b64encode(digest).decode().rstrip("=") == file.hash.value, file
        checked += 1
    assert checked > 5
