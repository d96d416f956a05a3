"""What records say of the code that made them, with real repositories."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from kafnets.runtime import files, records
from kafnets.runtime.errors import UserError

from tests.repository import ROOT

LIBRARY = "workflow/scripts/kafnets"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def unpack(folder):
    """The library's files that make a record, as in a ZIP of the repository."""
    (folder / LIBRARY / "runtime").mkdir(parents=True)
    for name in (
        "__init__",
        "runtime/__init__",
        "runtime/records",
        "runtime/files",
        "runtime/errors",
        "runtime/locks",
        "runtime/turns",
    ):
        shutil.copy(ROOT / LIBRARY / f"{name}.py", folder / LIBRARY / f"{name}.py")
    shutil.copy(ROOT / ".gitignore", folder)
    return folder


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", folder, *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=CLEAN).stdout.decode().strip()


def commit(folder, *files):
    git(folder, "init", "--quiet")
    git(folder, "add", *files)
    git(folder, "commit", "--quiet", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


def recorded(scripts, **variables):
    """The commit and whether it is dirty, as a record made by the library in `scripts` has them."""
    code = "import json; from kafnets.runtime import records; print(json.dumps(records.environment()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env={**CLEAN, "PYTHONPATH": str(scripts), "PYTHONDONTWRITEBYTECODE": "1", **variables},
        check=True,
        capture_output=True,
    )
    facts = json.loads(done.stdout)
    return facts["git_commit"], facts["git_dirty"]


@pytest.fixture
def checkout(tmp_path):
    folder = unpack(tmp_path / "größe")
    return folder, commit(folder, ".")


def test_a_checkout_has_its_commit(checkout):
    folder, made = checkout
    assert recorded(folder / "workflow/scripts") == (made, False)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        (f"{LIBRARY}/runtime/files.py", True),
        (f"{LIBRARY}/new.py", True),
        ("workflow/rules/new.smk", True),
        ("results/models/record.json", False),
        (f"{LIBRARY}/__pycache__/files.pyc", False),
        ("notes.txt", False),
    ],
)
def test_edited_and_new_code_is_dirty_and_results_are_not(checkout, name, dirty):
    folder, made = checkout
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write("\n# more\n")
    assert recorded(folder / "workflow/scripts") == (made, dirty)


def test_another_repository_s_commit_is_not_ours(checkout, tmp_path):
    """A ZIP inside another: in a folder, over its top level, committed there; a venv inside our own."""
    beside = unpack(tmp_path / "other" / "kafnets-main")
    (tmp_path / "other" / "README").touch()
    commit(tmp_path / "other", "README")
    assert recorded(beside / "workflow/scripts") == (None, None)

    over = unpack(tmp_path / "over")
    (over / "README").touch()
    commit(over, "README")
    assert recorded(over / "workflow/scripts") == (None, None)

    within = unpack(tmp_path / "within" / "vendor")
    commit(tmp_path / "within", ".")
    assert recorded(within / "workflow/scripts") == (None, None)

    folder, _ = checkout
    packages = folder / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    shutil.copytree(folder / LIBRARY, packages / "kafnets")
    assert recorded(packages) == (None, None)


def test_no_repository_and_no_git_have_none(checkout, tmp_path):
    folder, _ = checkout
    assert recorded(unpack(tmp_path / "zip") / "workflow/scripts") == (None, None)
    assert recorded(folder / "workflow/scripts", PATH="") == (None, None)


def test_git_s_variables_point_nowhere_else(checkout, tmp_path):
    folder, made = checkout
    other = tmp_path / "other"
    other.mkdir()
    (other / "README").touch()
    assert commit(other, "README") != made
    with open(folder / LIBRARY / "runtime" / "files.py", "a", encoding="utf-8") as file:
        file.write("\n# more\n")
    elsewhere = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    assert recorded(folder / "workflow/scripts", **elsewhere) == (made, True)


# -- records that prove themselves


@pytest.fixture
def made(tmp_path):
    """A record, its facts and its files."""
    (tmp_path / "weights").write_bytes(b"weights")
    facts = {"settings": {"seed": 0}, "code": "1"}
    files.write_json(
        tmp_path / "record.json", {**facts, "model_sha256": files.sha256(tmp_path / "weights"), "seconds": 3}
    )
    return tmp_path / "record.json", facts, {"model_sha256": tmp_path / "weights"}


def test_what_proves_itself_need_not_be_made_again(made):
    assert records.is_made(*made) and all(path.exists() for path in (made[0], *made[2].values()))


def damage(record, facts, files):
    files["model_sha256"].write_bytes(b"weighty")


def lose(record, facts, files):
    files["model_sha256"].unlink()


def edit(record, facts, files):
    record.write_bytes(record.read_bytes().replace(b"3", b"4"))


def edit_settings(record, facts, files):
    facts["settings"]["seed"] = 1


def edit_code(record, facts, files):
    facts["code"] = "2"


@pytest.mark.parametrize("change", [damage, lose, edit, edit_settings, edit_code])
def test_what_proves_something_else_goes(made, change):
    change(*made)
    assert not records.is_made(*made)
    assert not any(path.exists() for path in (made[0], *made[2].values()))


def test_without_a_version_only_what_was_just_made_counts(made):
    record, facts, of_it = made
    facts["code"] = ""
    files.write_json(record, {**facts, "model_sha256": files.sha256(of_it["model_sha256"])})
    assert not records.is_made(*made) and record.exists()
    assert records.is_made(*made, waited=True)


def test_an_absent_file_is_called_absent(made):
    record, _, of_it = made
    weights = of_it["model_sha256"]
    weights.unlink()
    with pytest.raises(UserError, match=f"{weights}: no such file of weights; snakemake makes it"):
        records.of_weights(record, weights)
    weights.write_bytes(b"weights")
    record.unlink()
    with pytest.raises(UserError, match=f"^{record}: no such file; snakemake makes it") as raised:
        records.of_weights(record, weights)
    assert "damaged" not in str(raised.value) and "JSON" not in str(raised.value)
