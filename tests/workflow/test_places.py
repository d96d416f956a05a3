"""Where the workflow runs: another folder, an ASCII locale, a fresh clone, an ordinary user's account."""

import os
import re
import shutil

import pytest
import yaml

from tests import repository
from tests.repository import OUT, TINY, copy_repository, planned

# One network with its attack and its card, which needs another network, and the table of it.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TARGETS = [f"{OUT}/{name}" for name in ("cards/tiny/relu/seed0.json", "tables/tiny.md")]


def configuration(path):
    """The tiny grid made smaller, in a file with a comment that no ASCII has."""
    settings = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    settings["seeds"] = [0]
    settings["card"]["sources"] = 1
    path.write_text(f"# größe: ε\n{yaml.safe_dump(settings)}", encoding="utf-8")
    return path


def snakemake(folder, *arguments, **options):
    return repository.snakemake(folder, *arguments, **options).stdout


def contents(folder):
    """What was computed, by its path."""
    kinds = ("models", "evaluations", "cards", "tables")
    paths = [path for kind in kinds for path in sorted((folder / OUT / kind).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository, with text in its Snakefile and configuration that no ASCII has."""
    folder = copy_repository(tmp_path_factory.mktemp("a clone"))
    for name in ("Snakefile", "config.yaml", "workflow/rules/train.smk"):
        path = folder / name
        path.write_text(f"# größe: ε\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def elsewhere(clone, tmp_path_factory):
    """The workflow run in another folder, in ASCII's locale, where Python must not look beside a script."""
    folder = tmp_path_factory.mktemp("else where")
    config = configuration(folder / "small.yaml")
    where = ("--snakefile", clone / "Snakefile", "--directory", folder, "--configfile", config)
    snakemake(clone.parent, *where, "--", *TARGETS, **ASCII, PYTHONSAFEPATH="1")
    return folder


def test_another_folder_and_a_narrow_locale(clone, elsewhere):
    found = contents(elsewhere)
    assert {f"{OUT}/cards/tiny/relu/seed0.json", f"{OUT}/tables/tiny.md"} <= found.keys()
    assert not (clone / OUT).exists()
    table = found[f"{OUT}/tables/tiny.md"].decode("utf-8")
    assert not table.isascii()
    where = ("--snakefile", clone / "Snakefile", "--configfile", elsewhere / "small.yaml")
    assert "Nothing to be done" in snakemake(elsewhere, *where, "--", *TARGETS)


def test_a_folder_that_the_locale_cannot_name_is_refused_in_one_line(clone, tmp_path):
    folder = tmp_path / "größe"
    folder.mkdir()
    where = ("--snakefile", clone / "Snakefile", "--directory", folder)
    words = snakemake(tmp_path, *where, "-n", check=False, **ASCII)
    assert "Traceback" not in words and "set LC_ALL=C.UTF-8" in words
    snakemake(tmp_path, *where, "-n", LC_ALL="C.UTF-8")


def test_moved_results_are_not_computed_again(plan, elsewhere, tmp_path):
    """They come without Snakemake's notes and, as by scp, with any dates: what README says of moving them."""
    fresh = copy_repository(tmp_path / "fresh")
    shutil.copytree(elsewhere / OUT, fresh / OUT, copy_function=shutil.copyfile)
    shutil.rmtree(fresh / OUT / "logs")
    before = contents(fresh)
    config = ("--configfile", elsewhere / "small.yaml")
    snakemake(fresh, *config, "--forceall", "--", *TARGETS)
    said = {"train": "trained already", "evaluate": "judged already", "card": "made already"}
    for step, words in said.items():
        logs = [path.read_text(encoding="utf-8") for path in fresh.glob(f"{OUT}/logs/{step}/**/*.log")]
        assert logs and all(words in log for log in logs)
    assert contents(fresh) == before

    (fresh / "workflow/scripts/train.py").touch()
    assert "Nothing to be done" in plan(fresh, *config, "-n", "--", *TARGETS)
    with open(fresh / "workflow/scripts/train.py", "a", encoding="utf-8") as script:
        script.write("EDITED = 1\n")
    assert planned(plan(fresh, *config, "-n", "--", *TARGETS))["train"] == 2


def test_old_results_do_not_outlive_a_failure(elsewhere, tmp_path):
    """The training with new settings fails, in one line: the old network must not be taken for its result."""
    fresh = copy_repository(tmp_path / "fresh")
    shutil.copytree(elsewhere / OUT, fresh / OUT)
    settings = yaml.safe_load((elsewhere / "small.yaml").read_text(encoding="utf-8"))
    training = settings["experiments"]["tiny"]["training"]
    # a penalty that multiplies the weights by a number far below -1 in every step: they overflow
    training |= {"learning_rate": {"default": [99, 100]}, "l2": {"conv": 1.0, "dense": 1.0}, "epochs": 12}
    (fresh / "wrong.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    model = f"{OUT}/models/tiny/relu/seed0/model.safetensors"
    result = repository.snakemake(fresh, "--configfile", "wrong.yaml", "--forceall", "--", model, check=False)
    assert result.returncode != 0 and not (fresh / model).exists()
    line = r"^error: training stopped at epoch \d+, step \d+ of \d+: .* is not finite"
    assert re.search(line, result.stdout, re.MULTILINE), result.stdout


@pytest.fixture(scope="module")
def ordinary():
    """Before a command: root without the right to override file modes, as any user."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root overrides file modes, and there is no setpriv")
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


@pytest.mark.parametrize("change", [["--forceall"], []])
def test_a_write_protected_archive_stops_no_ordinary_user(clone, tmp_path, ordinary, change):
    """Of an earlier version. A newer script fetches nothing again: the checksum says what is there."""
    archive = tmp_path / "results/data/raw/cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.touch(mode=0o444)
    os.utime(archive, (1e9, 1e9))
    where = ("--snakefile", clone / "Snakefile", "--directory", tmp_path)
    words = snakemake(tmp_path, *where, *change, "-n", "--", archive.relative_to(tmp_path), prefix=ordinary)
    assert planned(words).get("download_cifar10", 0) == len(change)
    assert change or "Nothing to be done" in words
