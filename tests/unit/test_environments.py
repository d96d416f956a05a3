"""The conda environments of envs/: their versions, and whether they hold what the rules import.

conda-forge cannot be asked here, and installing PyTorch again takes 5 GB: the versions are compared with a
table, and links to what is installed stand in for an environment.
"""

import re
import subprocess
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement

from tests import imports, standin
from tests.repository import ROOT

# What conda-forge has for linux-64: version, when it was looked up, and how.
RECIPE = "the recipe in conda-forge's feedstock, as a copy of it had it"
SEEN = "c-compiler of the same recipe, in a list of an environment made from conda-forge"
NEVER = "told: none, or none as new; that this pip section works was seen with conda 26.7"
CONDA_FORGE = {
    "python": ("3.12", "2026-11-27", RECIPE),  # those of the others build for it
    "pytorch": ("2.11.0", "2026-11-27", RECIPE),
    "torchvision": ("0.26.0", "2026-11-27", RECIPE),
    "safetensors": ("0.8.0", "2026-11-27", RECIPE),
    "scikit-learn": ("1.8.0", "2026-11-27", RECIPE),  # 1.9.1 not found there
    "numpy": ("2.4.6", "2026-11-27", RECIPE),
    "scipy": ("1.17.1", "2026-11-27", RECIPE),
    "statsmodels": ("0.15.0", "2026-11-27", RECIPE),
    "tqdm": ("4.70.0", "2026-11-27", RECIPE),  # 4.70.1 not found there
    "pyyaml": ("6.0.3", "2026-11-27", RECIPE),
    "matplotlib-base": ("3.11.0", "2026-11-27", RECIPE),  # 3.11.2 not found there
    "cxx-compiler": ("1.11.0", "2026-11-27", SEEN),
}
# What it lacks: the newest that it has, or None. For these there is pip.
NOT_IN_CONDA_FORGE = {
    "foolbox": ("3.3.1", "2026-11", NEVER),
    "pyautoattack": (None, "2026-11", NEVER),
    "tensorflow-cpu": ("2.19.1", "2026-11-27", RECIPE),  # of January 2026; a change to 2.20 was under way
}
# Names on PyPI, where these are others there.
PYPI = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
NOT_PYTHON = {"python", "cxx-compiler", "pip"}

# With a CUDA build of PyTorch comes Triton; activations/gpu.py asks first whether it is there.
OPTIONAL = {"triton", "triton.language"}
# Functions that a script reaches by the files it imports, but does not call.
NOT_CALLED = {
    "convert_published.py": (
        "kafnets/published.py:load_weights",
        "kafnets/runtime/cli.py:settings_argument",
        "kafnets/registry.py:_adopt_from_environment",  # which a job is given as JSON
    ),
    "plot_schedule.py": ("kafnets/training/__init__.py:__getattr__",),
}

ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def read(path):
    """The channels of an environment, then conda's packages and pip's, name: version ("" for none)."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    conda, pip = {}, {}
    for dependency in content["dependencies"]:
        if isinstance(dependency, dict):
            for line in dependency["pip"]:
                requirement = Requirement(line)
                pip[requirement.name] = str(requirement.specifier).removeprefix("==")
        else:
            name, _, version = dependency.partition(" =")
            conda[name] = version
    return content["channels"], conda, pip


def scripts():
    """Every environment's scripts, as the rules say: the environment's name, the script's."""
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if "\n    conda:\n" in rule:
                (environment,) = re.findall(r"/envs/(\w+[.]yaml)", rule)
                (script,) = re.findall(r"python {SCRIPT:q}/(\w+[.]py)", rule)
                yield environment, script


RULES = sorted(set(scripts()))


def imported(script):
    found = imports.third_party(imports.SCRIPTS / script, NOT_CALLED.get(script, ()))
    return {module: file for module, file in found.items() if module not in OPTIONAL}


def test_every_rule_has_an_environment():
    """What runs in Snakemake's own process has none: list_cells."""
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules, without = len(re.findall(r"^rule ", text, re.MULTILINE)), text.count("\n    run:\n")
    assert len(list(scripts())) == rules - without and without == 1
    assert {environment for environment, _ in RULES} == {path.name for path in ENVIRONMENTS}


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_every_version_is_to_be_had(path):
    channels, conda, pip = read(path)
    assert channels == ["conda-forge"]  # conda 26 takes nodefaults for a channel's name, or ignores it
    assert "python" in conda and (not pip or "pip" in conda)
    for name, version in conda.items():
        if name != "pip":
            assert CONDA_FORGE[name][0] == version, f"{name}: look up that conda-forge has {version}"
    for name, version in pip.items():
        assert version and NOT_IN_CONDA_FORGE[name][0] != version, f"{name}: conda-forge has {version}"


def test_versions_are_those_of_pip_where_conda_forge_has_them():
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    pins = {name.lower(): version for name, version in pins.items()}
    differ = set()
    for path in ENVIRONMENTS:
        _, conda, pip = read(path)
        for name, version in (conda | pip).items():
            if pins.get(PYPI.get(name, name), version) != version:
                differ.add(name)
    assert differ == {"scikit-learn", "tqdm", "matplotlib-base"}  # see the table


@pytest.mark.parametrize(("environment", "script"), RULES, ids=lambda value: value.partition(".")[0])
def test_what_a_rule_imports_is_in_its_environment(environment, script):
    """By name: nothing is there only because something else happens to need it."""
    _, conda, pip = read(ROOT / "envs" / environment)
    there = {standin.canonical(PYPI.get(name, name)) for name in conda | pip}
    homes = {"tensorflow": ["tensorflow-cpu"], **metadata.packages_distributions()}
    for module, file in imported(script).items():
        home = {standin.canonical(name) for name in homes[module.partition(".")[0]]}
        assert home & there, f"{file} imports {module}; envs/{environment} has none of {home}"


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_scripts_start_in_their_environment(path, tmp_path):
    """In one process all that they import, at once or later, then the scripts themselves."""
    _, conda, pip = read(path)
    wanted = {PYPI.get(name, name) for name in (conda | pip).keys() - NOT_PYTHON}
    absent = {"tensorflow-cpu"} & wanted  # no part of the pip environment
    python = standin.make(tmp_path / "environment", sorted(wanted - absent))
    of_it = [script for environment, script in RULES if environment == path.name]
    modules = sorted({module for script in of_it for module in imported(script)})
    modules = [module for module in modules if not (absent and module.startswith("tensorflow"))]
    lines = [f"import {name}" for name in [*modules, *(script.removesuffix(".py") for script in of_it)]]
    result = subprocess.run(
        [python, "-c", "\n".join(lines)], cwd=imports.SCRIPTS, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_what_no_package_of_an_environment_requires_is_not_in_it(tmp_path):
    """The stand-in is no other name for the environment of these tests."""
    python = standin.make(tmp_path / "environment", ["matplotlib"])
    code = (
        "import matplotlib, importlib.util as u; print(*map(u.find_spec, ('torch', 'yaml', 'pytest', 'pip')))"
    )
    result = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert result.stdout == "None None None None\n", result.stderr


def test_imports_in_functions_and_by_name_are_found():
    found = imports.third_party(imports.SCRIPTS / "evaluate.py")
    for module in ("foolbox", "pyautoattack", "tqdm", "yaml"):
        assert module in found
    found = imports.third_party(imports.SCRIPTS / "prepare_data.py")
    assert "torchvision.datasets" in found and "sklearn.datasets" in found
    assert "torch" not in imports.third_party(imports.SCRIPTS / "render_tables.py")
    for script, functions in NOT_CALLED.items():
        for function in functions:  # else the exception is not needed
            fewer = tuple(name for name in functions if name != function)
            assert len(imports.third_party(imports.SCRIPTS / script, fewer)) > len(imported(script))
