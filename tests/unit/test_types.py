"""Public functions say the types of their arguments, and their package says that it does (PEP 561)."""

import inspect
import re
import tomllib
import typing

import kafnets
import pandas
import pytest
import torch
import yaml
from kafnets import registry

from tests.repository import ROOT

PUBLIC = {
    **{f"kafnets.{name}": getattr(kafnets, name) for name in kafnets._EXPORTS},
    **{f"attacks.{name}": entry.load() for name, entry in registry.ATTACKS.items()},
    "attacks.Expectation": kafnets.attacks.Expectation,
}
# what annotations name without importing it
NAMED = {"torch": torch, "pandas": pandas}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_signature_says_its_types(name):
    function = PUBLIC[name]
    if inspect.isclass(function):
        function = function.__init__
    signature = inspect.signature(function)
    kinds = typing.get_type_hints(function, localns=NAMED)
    for argument in signature.parameters:
        assert argument in kinds or argument == "self", f"{name}: {argument}"
    assert "return" in kinds or inspect.isclass(PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_a_default_is_of_its_type(name):
    """Of what can be compared: numbers, texts, None."""
    function = PUBLIC[name].__init__ if inspect.isclass(PUBLIC[name]) else PUBLIC[name]
    kinds = typing.get_type_hints(function, localns=NAMED)
    for argument, parameter in inspect.signature(function).parameters.items():
        kind = kinds.get(argument)
        allowed = typing.get_args(kind) or (kind,)
        if parameter.default is None:
            assert type(None) in allowed or kind is object, f"{name}: {argument}"
        elif isinstance(parameter.default, int | float | str) and kind is not object:
            assert isinstance(parameter.default, allowed), f"{name}: {argument}"


def test_versions_are_one():
    """What CONTRIBUTING.md says of them: the number is that of the last released version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    changes = re.findall(
        r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    released = next(version for version, date in changes if date != "unreleased")
    assert kafnets.__version__ == project["version"] == cited == released
    assert "Typing :: Typed" in project["classifiers"] and project["urls"]
    assert (ROOT / "workflow/scripts/kafnets/py.typed").is_file()
