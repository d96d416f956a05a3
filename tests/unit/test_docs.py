"""README.md and docs/: links, anchors, paths and names that are there; what has to be said is said."""

import importlib
import re
import subprocess
import sys
from functools import cache

import numpy
import pytest
from matplotlib import image

from tests.repository import ENVIRONMENT, ROOT

ALONE = ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "config/README.md")
PAGES = sorted([*(ROOT / name for name in ALONE), *ROOT.glob("docs/*.md")])
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path may be written from one of these, and so may the rooms of README's map.
BASES = [ROOT / base for base in ("", "workflow/scripts", "workflow/scripts/kafnets", "workflow/presets")]
SOURCES = (".py", ".smk", ".yaml", ".md", ".txt", ".toml", ".cff", ".lock", ".cpp")
# Made by a run, or somebody else's.
MADE = re.compile(r"results/(?!reference)|[.](venv|snakemake)\b|cifar-10-|/|[.]{3}|.*[{*]")
# Where modules and files were before.
OLD = re.compile(r"(?<=^\| was \| is \|\n\|---\|---\|\n)(?:\|[^\n]*\n)+", re.MULTILINE)


@cache
def text(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    return FENCED.sub("", text(page))


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


def links():
    for page in PAGES:
        for target in LINK.findall(prose(page)):
            if "://" not in target:
                yield pytest.param(page, target, id=f"{page.name}: {target}")


@pytest.mark.parametrize(("page", "target"), [*links()])
def test_a_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists() and target.is_relative_to(ROOT)
    assert not anchor or anchor in anchors(target)


def test_every_page_is_reached_from_the_readme():
    linked = {
        (ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(prose(ROOT / "README.md"))
    }
    assert linked >= set(PAGES) - {ROOT / "README.md"}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_a_page_begins_with_its_readers(page):
    assert re.match(r"# [^\n]+\n\nFor (who|every)", text(page))


def looks_like_a_path(word):
    """Whether a word is the path of a file or folder of the repository, and not of what a run makes."""
    if not re.fullmatch(r"[\w./-]+", word) or MADE.match(word):
        return False
    return word.endswith(("/", *SOURCES)) or word.partition("/")[0] in (
        "workflow",
        "tests",
        "docs",
        "kafnets",
    )


def paths():
    """The paths in code font, and those of README's map."""
    for page in PAGES:
        words = [word for code in re.findall(r"`([^`]+)`", OLD.sub("", prose(page))) for word in code.split()]
        if page.name == "README.md":
            words += text(page).partition("## Where things are\n\n```\n")[2].partition("```")[0].split()
        for word in dict.fromkeys(word.rstrip(".,:;)").removeprefix("(") for word in words):
            if looks_like_a_path(word):
                yield pytest.param(word, id=f"{page.name}: {word}")


# Folders of results/, in README's map.
OF_RESULTS = {"results/", "evaluations/", "tables/", "cards/", "certificates/", "plots/", "logs/"}


@pytest.mark.parametrize("word", [*paths()])
def test_a_path_is_there(word):
    if word not in OF_RESULTS:
        assert any((base / word).exists() for base in BASES), f"{word} is not in the repository"


def test_what_looks_like_a_path():
    found = ["workflow/rules/none.smk", "absent.py", "kafnets/none", "none/"]
    assert all(map(looks_like_a_path, found))
    assert not any(
        map(looks_like_a_path, ["8/255", "results/tables/", "a.safetensors", "results/*/x.md", "/x.py"])
    )


def names():
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", OLD.sub("", prose(page))):
            for name in re.findall(r"(?<![\w/.])kafnets(?:\.\w+)+", code):
                yield pytest.param(name, id=f"{page.name}: {name}")


@pytest.mark.parametrize("name", [*names()])
def test_a_name_of_the_library_is_there(name):
    assert resolve(name) is not None


def test_old_names_are_told_with_new_ones():
    """The right column of CHANGELOG.md's table of moved modules."""
    (table,) = OLD.findall(text(ROOT / "CHANGELOG.md"))
    new = [row.split("|")[2] for row in table.splitlines()]
    assert all(resolve(name) for row in new for name in re.findall(r"`(kafnets[\w.]+)`", row))


def resolve(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} cannot be imported")


def test_the_changes_are_one_list_a_heading():
    """No blank line within a list, no entry twice, and lines of the length of the other pages'."""
    changes = text(ROOT / "CHANGELOG.md")
    assert not re.search(r"^(- |  )[^\n]*\n\n+(- |  )", changes, re.MULTILINE)
    entries = re.findall(r"^- (.{40})", changes, re.MULTILINE)
    assert len(entries) > 40 and len(entries) == len(set(entries))
    assert all(len(line) <= 130 for line in changes.splitlines() if not line.startswith("|"))


def test_every_mark_of_a_table_is_explained():
    from kafnets.report.marks import MARKS

    table = text(ROOT / "docs/measures.md").partition("## Marks")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\S) \|", table, re.MULTILINE) == [mark.sign for mark in MARKS]


def test_every_figure_of_a_record_is_explained():
    """Those that `evaluate` adds to what all records hold."""
    import torch
    from kafnets import create_model
    from kafnets.evaluation.judge import evaluate

    images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    figures, verdicts = evaluate(create_model("resnet8"), images, labels, {"method": "clean"})
    said = text(ROOT / "docs/measures.md").partition("## What a record says")[2]
    for key in (figures.keys() | verdicts.keys()) - {"batch_size", "wall_seconds"}:
        assert f"`{key}`" in said, key


def test_the_picture_is_of_the_committed_results(tmp_path):
    """Drawn again it is the same, but for what another machine's rounding does to a few pixels."""
    png = tmp_path / "again.png"
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow/scripts")}
    subprocess.run(
        [sys.executable, ROOT / "docs/images/reference.py", "--png", png], env=environment, check=True
    )
    kept, drawn = image.imread(ROOT / "docs/images/reference.png"), image.imread(png)
    assert kept.shape == drawn.shape and numpy.abs(kept - drawn).mean() < 1e-3


def test_the_tables_are_of_the_committed_results():
    """Made again they are the same, so every number is that of the records and the verdicts counted."""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow/scripts")}
    command = [sys.executable, ROOT / "docs/tables.py", "--check"]
    subprocess.run(command, env=environment, check=True)


@pytest.mark.parametrize(
    ("page", "cells"),
    [
        ("README.md", "| ReLU | 0 | 78.10 (77.3–78.9) | 40.49 (39.5–41.5) | 77.52 | 50.17 | 215 s |"),
        ("docs/thesis.md", "| Swish | 78.68 | 78.68 | 44.14 (43.2–45.1) | 53.88 | 22.1 s |"),
    ],
)
def test_a_row_of_the_tables(page, cells):
    """As it was told at the time of the run."""
    assert cells in text(ROOT / page)
