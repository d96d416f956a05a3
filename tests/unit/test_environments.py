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
from tests.conda_forge import CONDA_FORGE, ENVIRONMENTS, NOT_IN_CONDA_FORGE, NOT_PYTHON, PYPI
from tests.repository import ROOT

# With a CUDA build of PyTorch comes Triton; activations/gpu.py asks first whether it is there.
OPTIONAL = {"triton", "triton.language"}


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


def rules():
    """The text of every rule but the plots'."""
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        yield from re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def plots():
    """The kinds of plots and the text of their entries in the table of plots.smk."""
    text = (ROOT / "workflow" / "rules" / "plots.smk").read_text(encoding="utf-8")
    return re.findall(r'^    "(\w+)": {\n(.*?)^    },\n', text, re.MULTILINE | re.DOTALL)


def scripts():
    """Every environment's scripts, as the rules say: the environment's name, the script's."""
    for rule in rules():
        if "\n    conda:\n" in rule:
            (environment,) = re.findall(r"/envs/(\w+[.]yaml)", rule)
            called = rule.replace("together.py {{resources.together}} ", "")
            (script,) = re.findall(r"python {SCRIPT}/(\w+[.]py)", called)
            yield environment, script
    for kind, entry in plots():
        (environment,) = re.findall(r'"environment": "(\w+)"', entry) or ["report"]
        yield f"{environment}.yaml", f"plot_{kind}.py"


RULES = sorted(set(scripts()))


def imported(script):
    found = imports.third_party(imports.SCRIPTS / script)
    return {module: file for module, file in found.items() if module not in OPTIONAL}


def test_every_rule_has_an_environment():
    """What runs in Snakemake's own process has none: list_cells."""
    without = ["\n    run:\n" in rule for rule in rules()]
    assert len(list(scripts())) == len(without) - 1 + len(plots()) and sum(without) == 1
    assert {environment for environment, _ in RULES} == {path.name for path in ENVIRONMENTS}
    drawn = {path.stem.removeprefix("plot_") for path in imports.SCRIPTS.glob("plot_*.py")}
    assert {kind for kind, _ in plots()} == drawn


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
    assert differ == {"scikit-learn", "pandas", "tqdm", "matplotlib-base"}  # see the table


@pytest.mark.parametrize(("environment", "script"), RULES, ids=lambda value: value.partition(".")[0])
def test_what_a_rule_imports_is_in_its_environment(environment, script):
    """By name: nothing is there only because something else happens to need it."""
    _, conda, pip = read(ROOT / "envs" / environment)
    there = {standin.canonical(PYPI.get(name, name)) for name in conda | pip}
    homes = metadata.packages_distributions()
    for module, file in imported(script).items():
        home = {standin.canonical(name) for name in homes[module.partition(".")[0]]}
        assert home & there, f"{file} imports {module}; envs/{environment} has none of {home}"


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_scripts_start_in_their_environment(path, tmp_path):
    """In one process all that they import, at once or later, then the scripts themselves."""
    _, conda, pip = read(path)
    wanted = {PYPI.get(name, name) for name in (conda | pip).keys() - NOT_PYTHON}
    python = standin.make(tmp_path / "environment", sorted(wanted))
    of_it = [script for environment, script in RULES if environment == path.name]
    modules = sorted({module for script in of_it for module in imported(script)})
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


@pytest.mark.parametrize("file", ["train.py", "evaluate.py", "card.py", "kafnets/pipeline/grid.py"])
def test_what_computes_does_not_wait_for_pandas(file):
    """Half a second of imports, which only tables and plots need."""
    assert "pandas" not in imports.third_party(imports.SCRIPTS / file)
    assert "pandas" in imports.third_party(imports.SCRIPTS / "aggregate.py")


def test_imports_in_functions_and_by_name_are_found():
    found = imports.third_party(imports.SCRIPTS / "evaluate.py")
    for module in ("foolbox", "pyautoattack", "tqdm", "yaml"):
        assert module in found
    found = imports.third_party(imports.SCRIPTS / "prepare_data.py")
    assert "torchvision.datasets" in found and "sklearn.datasets" in found
    assert "torch" not in imports.third_party(imports.SCRIPTS / "render_tables.py")
