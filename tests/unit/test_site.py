"""The documentation's site and the notebooks: complete, and made of what runs."""

import importlib.util
import json
import re
import subprocess
import sys
import urllib.parse

import kafnets
import pytest
from kafnets import registry

from tests.repository import ENVIRONMENT, REQUIRED, ROOT

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
BUILD = ROOT / "docs" / "site" / "build.py"
LIBRARY = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow" / "scripts")}


def load(path):
    """A program of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, notebooks = load(BUILD), load(ROOT / "docs" / "notebooks.py")


def test_the_notebooks_run_and_show_what_is_in_them():
    """All in one process, which imports torch once; what must hold of numbers the cells assert themselves."""
    command = [sys.executable, ROOT / "docs" / "notebooks.py", "--check", *NOTEBOOKS]
    done = subprocess.run(command, env=LIBRARY, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and len(NOTEBOOKS) == 2, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_that_others_can_open(path):
    import nbformat

    nbformat.validate(nbformat.read(path, as_version=4))
    text = path.read_text(encoding="utf-8")
    assert re.match(r"# [^\n]+\n\nFor who", "".join(json.loads(text)["cells"][0]["source"]))
    for target in build.LINK.findall(text):
        if "://" not in target[1]:
            assert (path.parent / target[1].partition("#")[0]).is_file(), target


def cells(*sources):
    return {"cells": [{"cell_type": "code", "source": [source], "outputs": []} for source in sources]}


def test_what_a_cell_shows():
    printed, value, nothing = notebooks.run(cells("x = 2\nprint('x is', x)", "x + 0.5", "y = x"))
    assert (
        printed[0]["text"] == ["x is 2\n"] and value[0]["data"] == {"text/plain": ["2.5"]} and nothing == []
    )
    with pytest.raises(AssertionError):
        notebooks.run(cells("assert 1 == 2"))


def test_other_words_are_seen_and_other_numbers_are_not(tmp_path, capsys):
    notebook = cells("print('3.25 apples')")
    notebook["cells"][0]["outputs"] = notebooks.run(cells("print('17 apples')"))[0]
    assert not notebooks.check("x", notebook, notebooks.run(notebook))
    notebook["cells"][0]["outputs"] = notebooks.run(cells("print('17 pears')"))[0]
    assert notebooks.check("x", notebook, notebooks.run(notebook)) and "apples" in capsys.readouterr().err


def test_pages_keep_their_links(tmp_path):
    pages = build.gather(tmp_path)
    wanted = {
        "index.md",
        "docs/library.md",
        "docs/library_in_ten_minutes.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    }
    assert wanted <= set(pages) and {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(
        pages
    )
    links = 0
    for page in pages:
        text = (tmp_path / page).read_text(encoding="utf-8")
        for part in build.FENCED.split(text)[::2]:
            for _, target in build.LINK.findall(part):
                if "://" not in target and not target.startswith("#"):
                    links += 1
                    assert ((tmp_path / page).parent / target.partition("#")[0]).is_file(), (
                        f"{page}: {target}"
                    )
    assert links > 80
    listed = "".join(build.contents(pages))
    assert all(f"\n{page.removesuffix('.md')}\n" in listed for page in pages if page != "index.md")


def test_a_link_to_the_readme_leads_to_the_first_page():
    text, files = build.relinked(
        "docs/running.md", "[a](../README.md#start) [b](cluster.md) [c](../tests) [d](x://y)"
    )
    assert text == "[a](../index.md#start) [b](cluster.md) c [d](x://y)"
    assert files == ["README.md", "docs/cluster.md"]


def test_the_api_tells_of_every_name():
    text = "".join(build.reference())
    for name in kafnets._EXPORTS:
        assert f":: kafnets.{name}\n" in text, name
    tables = [registry.ACTIVATIONS, registry.ARCHITECTURES, registry.ATTACKS, registry.ADVERSARIES]
    tables += [registry.CERTIFICATES, registry.DETECTORS, registry.DETECTION_ATTACKS]
    for table in tables:
        for name, entry in table.items():
            assert f"`{name}`" in text and entry.target.rpartition(":")[2] in text, name


def test_the_site(tmp_path):
    """With Sphinx, whose every warning is an error; a reader finds pages, notebooks and arguments."""
    if importlib.util.find_spec("sphinx") is None and not REQUIRED:
        pytest.skip("no Sphinx here: pip install -r requirements-docs.txt")
    done = subprocess.run(
        [sys.executable, BUILD, "--output", tmp_path],
        env=LIBRARY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    html = tmp_path / "html"
    assert 'href="docs/measures.html' in (html / "index.html").read_text(encoding="utf-8")
    assert "early_stop" in (html / "reference.html").read_text(encoding="utf-8")
    notebook = html / "docs/library_in_ten_minutes.html"
    assert "An activation that learns its shape" in notebook.read_text(encoding="utf-8")
    assert (html / "search.html").is_file() and (html / "_images/reference.png").is_file()
    of_the_run = html / build.RUN
    assert 'href="results.html"' in (of_the_run / "README.html").read_text(encoding="utf-8")
    page = (of_the_run / "results.html").read_text(encoding="utf-8")
    assert page.count("<svg") > 20 and "ResNet8, SmoothAdv" in page
    links = {urllib.parse.unquote(link) for link in re.findall(r'href="([^"#]+)"', page)}
    assert len(links) > 100 and all((of_the_run / link).is_file() for link in links)
