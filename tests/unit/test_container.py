"""The image of Dockerfile, walked without Docker: what it copies is enough, and its commands are right."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from kafnets.runtime import compiled

from tests.repository import ENVIRONMENT, ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions():
    """The stages, each a list of (instruction, arguments)."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    stages = [[]]
    for line in filter(None, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, " ".join(rest.split())))
    return stages


BEFORE, BUILD, FINAL = instructions()


def of(stage, word):
    return [rest for name, rest in stage if name == word]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """What `COPY . .` copies: the working tree as .dockerignore leaves it, which names what is kept."""
    folder = tmp_path_factory.mktemp("context")
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[1] == "*" and set(rules[2:]) == {*(f"!{name}" for name in kept), "**/__pycache__"}
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_the_stages_are_those_that_the_walk_knows():
    assert of(BEFORE, "ARG") == ["PYTHON=3.12-slim"]
    assert of(BUILD, "FROM") == ["python:${PYTHON} AS build"] and of(FINAL, "FROM") == ["python:${PYTHON}"]
    assert {word for stage in (BUILD, FINAL) for word, _ in stage} <= {
        *("FROM", "ARG", "RUN", "COPY", "WORKDIR", "ENV", "CMD")
    }
    for copy in of(FINAL, "COPY"):
        source, target = copy.removeprefix("--from=build ").split()
        assert source == target and any(source in rest for _, rest in BUILD)


def test_no_host_of_an_index_is_named():
    assert not re.search(r"https?://|\.(io|org|com)\b", TEXT)


@pytest.mark.parametrize(("index", "expected"), [("", False), ("https://index", True)])
def test_the_packages_are_those_of_make(context, index, expected):
    """make's own dry run, of the command as the shell expands it, among the files copied before it."""
    (command,) = (rest for rest in of(BUILD, "RUN") if "make venv" in rest)
    first = of(BUILD, "COPY")[0].split()
    assert first[-1] == "./" and all((context / name).is_file() for name in first[:-1])
    command = command.replace("make venv", "make -n venv PYTHON=python3").replace("/opt/venv", "/nowhere")
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=context,
        env={**ENVIRONMENT, "TORCH_INDEX": index, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "-m venv /nowhere" in done.stdout and "--require-hashes" in done.stdout
    assert (f"--index-url {index} " in done.stdout) is expected or not index


def test_the_final_image_has_what_jobs_start():
    """What a slim image of Python lacks."""
    (packages,) = of(FINAL, "RUN")
    variables = dict(word.split("=") for word in of(FINAL, "ENV")[0].split())
    assert variables["PATH"].split(":")[0] == "/opt/venv/bin" and variables["HOME"] == "/tmp"
    (compiles,) = (rest for rest in of(BUILD, "RUN") if "kafnets.runtime.compiled" in rest)
    assert f"KAFNETS_CACHE={variables[compiled.BEFOREHAND]} " in compiles
    assert "KAFNETS_CACHE" not in variables  # what a user downloads does not go to root's folder
    names = re.search(r"--no-install-recommends (.*) && rm", packages)[1]
    installed = {}
    for device in ("cpu", "cuda"):
        command = ["sh", "-euc", f"DEVICE={device}; echo {names}"]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        installed[device] = set(words.split())
    assert installed == {"cpu": {"git", "libgomp1"}, "cuda": {"git", "libgomp1", "gcc", "libc6-dev"}}


def test_the_demo_is_planned_from_what_is_copied(context, tmp_path):
    """The image's command in an empty folder, with no more of the repository than the image has."""
    (command,) = of(FINAL, "CMD")
    snakemake, *arguments = json.loads(command)
    assert snakemake == "snakemake"
    arguments = [word.replace("/opt/kafnets", str(context)) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments, "-n"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^train +10$", done.stdout, re.MULTILINE)


def test_the_image_has_the_command(context, tmp_path):
    """The build's line, in another place: started from any folder it is the library that was copied."""
    (writes,) = (rest for rest in of(BUILD, "RUN") if "python -m kafnets " in rest)
    program = tmp_path / "bin/kafnets"
    program.parent.mkdir()
    writes = writes.replace("/opt/venv/bin/python", sys.executable)
    writes = writes.replace("/opt/venv/bin/kafnets", str(program)).replace("/opt/kafnets", str(context))
    subprocess.run(["sh", "-euc", writes], check=True)
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, "list", "attacks"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "thesis_pgd" in done.stdout, done.stderr


KAF = """
import logging, sys
logging.basicConfig(format="%(message)s")
import torch
from kafnets.activations.kaf import cpu
from kafnets.models.fused import cpu as fused
from kafnets import KAF

assert cpu.available() and fused.available()
assert torch.isfinite(KAF(2)(torch.randn(3, 2))).all()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_what_is_compiled_in_the_image_is_used_without_a_compiler(context, tmp_path):
    """Six compilations of the whole C++ code, then a process that finds no compiler."""
    (command,) = (rest for rest in of(BUILD, "RUN") if "kafnets.runtime.compiled" in rest)
    command = command.replace("/opt/venv/bin/python", sys.executable).replace("/opt/compiled", str(tmp_path))
    subprocess.run(["sh", "-euc", command], cwd=context, check=True)
    assert len(list(tmp_path.iterdir())) == len(compiled._levels()) * len(compiled._sources())
    environment = {**ENVIRONMENT, "PATH": "", "CXX": "", compiled.BEFOREHAND: str(tmp_path)}
    environment["KAFNETS_CACHE"] = str(tmp_path / "own")  # as empty as a user's
    environment["PYTHONPATH"] = str(context / "workflow/scripts")
    done = subprocess.run([sys.executable, "-c", KAF], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# -- what GitHub runs and shows


WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))


def test_the_jobs_on_github_call_what_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert len(commands) >= 8
    for command in commands:
        for target in re.findall(r"\bmake ([\w-]+)", command):
            assert target in targets
        for path in re.findall(r"(?<![\w/])(?:docs|\.ci|tests)/[\w./-]+", command):
            assert (ROOT / path).is_file(), path
            assert not path.startswith(".ci") or os.access(ROOT / path, os.X_OK)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in WORKFLOW["jobs"].values():
        assert job["steps"][0]["uses"].startswith("actions/checkout@v")


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem
)
def test_a_form_for_issues_has_what_github_demands(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert set(form) == {"blank_issues_enabled"}
        return
    assert set(form) == {"name", "description", "body"}
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert len({item["id"] for item in asked}) == len(asked) > 0
    for item in form["body"]:
        assert item["type"] in {"markdown", "textarea", "input"}
        assert item["attributes"].keys() >= ({"value"} if item["type"] == "markdown" else {"label"})
