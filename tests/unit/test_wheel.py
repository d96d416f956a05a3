"""The package as pip installs it: with what pyproject.toml declares, and nothing that happens to be here."""

import ast
import email
import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests import standin
from tests.imports import SCRIPTS
from tests.repository import ENVIRONMENT, ROOT, copy_repository

LIBRARY = sorted((SCRIPTS / "kafnets").rglob("*.py"))
PLOTS = "kafnets.report.plots"
# What a file imports that asks first whether it is there.
ASKED_FOR = {"triton", "cvxpy"}
HOMES = metadata.packages_distributions()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves its folders in the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_repository(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def declared(wheel):
    """What the wheel requires, extra by extra; under "" what it always does: names on PyPI."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        header = email.message_from_bytes(file.read(name))
    requirements = [Requirement(line) for line in header.get_all("Requires-Dist")]
    return {
        extra: [
            one.name
            for one in requirements
            if (one.marker and one.marker.evaluate({"extra": extra})) or not one.marker
        ]
        for extra in ["", *header.get_all("Provides-Extra")]
    }


@pytest.fixture(scope="module")
def install(wheel, declared, tmp_path_factory):
    """A function: the Python of an environment with the wheel and one of its extras.

    By pip without an extra; with one unpacked, for pip does no more with it.
    """

    def install(extra=""):
        folder = tmp_path_factory.mktemp("environment")
        python = standin.make(folder, declared[extra])
        if extra:
            with zipfile.ZipFile(wheel) as file:
                file.extractall(standin.site_packages(folder))
            return python
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
        subprocess.run(command, check=True, timeout=300)
        return python

    return install


@pytest.fixture(scope="module")
def plain(install):
    return install()


def run(python, code, folder):
    """What a program prints, run far from the repository."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    command = [python, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def modules():
    for path in LIBRARY:
        parts = path.relative_to(SCRIPTS).with_suffix("").parts
        if parts[-1] == "triton_kernels" and "triton" not in HOMES:  # no Triton beside a CPU build of torch
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def optional_imports():
    """The modules that the library imports by `errors.optional`, with their extra."""
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional":
                yield tuple(argument.value for argument in node.args)


def test_the_documentation_shows_what_runs(plain, tmp_path):
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    show = "import json; print(json.dumps([kafnets.__file__, list(result.robust.shape)]))"
    where, shape = json.loads(run(plain, f"{code}\n{show}", tmp_path))
    assert where.startswith(str(standin.site_packages(plain.parents[1]))) and shape == [8]
    assert (tmp_path / "model.safetensors").is_file()


def test_the_command_is_installed_with_its_index(plain, tmp_path):
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    command = [plain.with_name("kafnets"), "list", "models"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0 and "published/kaf_elu" in said.stdout, said.stderr


def test_the_leaderboard_needs_what_the_page_says(install, tmp_path):
    code = "import kafnets; print(*kafnets.leaderboard().columns)"
    assert "robust" in run(install("report"), code, tmp_path)


TRY = """
import importlib, json
import torch
from kafnets.runtime.errors import UserError

def attempt(name, call):
    try:
        call()
    except UserError as error:
        print(json.dumps([name, str(error)]))

"""

WITHOUT = """
import kafnets
from kafnets.config import shape
from kafnets.data.cifar10 import download_cifar10
from kafnets.report import statistics, summary

model = kafnets.create_model("resnet8", activation="relu")
x, y = torch.rand(2, 3, 8, 8), torch.zeros(2).long()
for name in ("cw", "deepfool", "square"):
    attempt(name, lambda: getattr(kafnets.attacks, name)(model, x, y, eps=0.1))
attempt("digits", kafnets.data.prepare_digits)
attempt("cifar10", lambda: download_cifar10("absent.tar.gz"))
attempt("wilson", lambda: statistics.wilson(1, 2))
attempt("rows", lambda: summary.as_frame([]))
attempt("schema", lambda: shape.check_shape({}, {}))
"""

EXTRAS = {
    "cw": "attacks",
    "deepfool": "attacks",
    "square": "attacks",
    "digits": "data",
    "cifar10": "data",
    "wilson": "statistics",
    "rows": "report",
    "schema": "config",
}


def test_without_extras_all_but_the_plots_can_be_imported(plain, tmp_path):
    """And what is missing for a function is said in a line that names the extra."""
    code = f"for name in {list(modules())}:\n    attempt(name, lambda: importlib.import_module(name))\n"
    told = dict(map(json.loads, run(plain, TRY + code + WITHOUT, tmp_path).splitlines()))
    plots = {name for name in modules() if name.startswith(PLOTS)}
    assert told.keys() == plots | EXTRAS.keys()
    for name, message in told.items():
        assert f"pip install '.[{EXTRAS.get(name, 'plots')}]'" in message and "\n" not in message


@pytest.mark.parametrize("extra", sorted({extra for _, extra in optional_imports()}))
def test_an_extra_is_complete(install, extra, tmp_path):
    wanted = [module for module, its in optional_imports() if its == extra]
    if extra == "plots":
        wanted += [name for name in modules() if name.startswith(PLOTS)]
    run(install(extra), "\n".join(f"import {name}" for name in wanted), tmp_path)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(SCRIPTS / "kafnets").as_posix())
def test_every_import_is_declared(path, declared):
    """What a file imports outright is required always, and matplotlib by the plots."""
    base = {standin.canonical(name) for name in declared["plots" if path.parent.name == "plots" else ""]}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in (node for node in ast.walk(tree) if id(node) not in of_types):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - ASKED_FOR:
            assert {standin.canonical(home) for home in HOMES[name]} & base, f"{name} is not declared"


def test_every_extra_is_used_and_declared(declared):
    for module, extra in optional_imports():
        homes = {standin.canonical(name) for name in HOMES[module.partition(".")[0]]}
        assert homes & {standin.canonical(name) for name in declared[extra]}, f"{module}: not in {extra}"
    assert {extra for _, extra in optional_imports()} == declared.keys() - {"", "docs"}  # of `make docs`
