"""What SECURITY.md says, held against the sources."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "workflow" / "scripts").rglob("*.py"))
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
# In a command without quotes: numbers and names that a wildcard constraint or the schema holds to [a-z0-9_].
PLAIN = re.compile(
    r"input[.]script|threads|wildcards[.](experiment|dataset|activation)|resources[.](device|batch_size)|params[.]attack"
)


def calls(path, *names):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def test_bandit_finds_nothing():
    command = [sys.executable, "-m", "bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive"]
    result = subprocess.run([*command, "workflow/scripts"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_unpickled_or_evaluated(path):
    for node in calls(path, "torch.load"):
        assert "weights_only=True" in ast.unparse(node)
    assert not list(
        calls(path, "pickle.load", "eval", "exec", "os.system", "yaml.unsafe_load", "numpy.load", "np.load")
    )
    assert "shell=True" not in path.read_text()


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_commands_quote_what_they_are_given(path):
    """Every placeholder of a shell command is quoted, or can hold nothing that needs it."""
    for command in re.findall(r'\n    shell:\n((?:        ".*"\n)+)', path.read_text()):
        for placeholder in re.findall(r"(?<!{){([^{}]+)}(?!})", command):
            assert placeholder.endswith(":q") or PLAIN.fullmatch(placeholder), (
                f"{{{placeholder}}} in {command}"
            )


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
