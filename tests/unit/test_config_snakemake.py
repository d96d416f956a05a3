"""Wrong configurations through Snakemake itself: it ends before any job, with one message.

A sample, for each costs a process: thousands go through the same check in test_config_values.py.
"""

import json
import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafnets.runtime.driver import has_gpu

from tests.planner import Planner
from tests.repository import copy_repository
from tests.unit.config_builders import BASE, at, changed
from tests.unit.config_values import HOSTILE, ODDITIES, RIGHT, TRAINING, assert_told, generated, values


@pytest.fixture(scope="module")
def planner():
    with Planner() as planner:
        yield planner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where snakemake is called: it holds a right configuration."""
    folder = tmp_path_factory.mktemp("called")
    (folder / "right.yaml").write_text(yaml.safe_dump(BASE))
    return folder


def contents(folder):
    """Every file but Snakemake's own, with its bytes."""
    found = sorted(path for path in folder.rglob("*") if ".snakemake" not in path.relative_to(folder).parts)
    return {path: path.read_bytes() if path.is_file() else None for path in found}


def ended(planner, folder, *arguments):
    """The words of a snakemake that ends by itself, before any job, and writes nothing."""
    before = contents(folder)
    code, words = planner.run(folder, folder.with_suffix(".log"), *arguments)
    assert code == 1, words
    assert contents(folder) == before
    assert not re.search("^(Building DAG|rule |localrule |Job stats)", words, re.MULTILINE), words
    return words


def refused_by_the_workflow(planner, folder, *arguments):
    """The one message with which snakemake ends."""
    words = ended(planner, folder, *arguments)
    rest = re.sub("^(Using workflow specific profile|Config file) .*\n", "", words, flags=re.MULTILINE)
    where = r'"?.*/workflow/rules/common\.smk"?, line \d+'
    told = re.fullmatch(
        rf"WorkflowError in file {where}:\nerror in the configuration: (.+)\n  File {where}, in <module>\n",
        rest.lstrip("\n"),
    )
    assert told, words
    return told[1]


def ways(dry):
    return ["-n"] if dry else []


@settings(generated, max_examples=80)
@given(path=st.sampled_from(list(RIGHT)), value=values, dry=st.booleans())
@example(path=("output",), value={}, dry=True)  # Snakemake merges an empty mapping into whatever there is
@example(path=("device",), value={}, dry=True)
@example(path=("lr_range", "epochs"), value={}, dry=False)
def test_snakemake_refuses_a_wrong_file(planner, folder, tally, path, value, dry):
    try:
        text = yaml.safe_dump(changed(path, value))
        value = at(path, yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, TypeError):
        return  # nothing that a file can hold
    if RIGHT[path](value):
        return
    tally.tried("wrong configurations through snakemake")
    wrong = folder / "wrong.yaml"
    wrong.write_text(text)
    assert_told(path, value, refused_by_the_workflow(planner, folder, "--configfile", wrong, *ways(dry)))
    tally.held("wrong configurations through snakemake")


def only(path, value):
    """A mapping with `value` at `path` and nothing that it can do without: lists are given whole."""
    if not path or isinstance(path[0], int):
        return value
    return {path[0]: only(path[1:], value)}


GIVEN = [path for path in RIGHT if len(path) > 1]
texts = st.sampled_from(HOSTILE + ODDITIES) | st.text(max_size=20) | st.integers().map(str)


@settings(generated, max_examples=80)
@given(path=st.sampled_from(GIVEN), text=texts, dry=st.booleans())
@example(path=("seeds", 0), text="2020-99-99", dry=True)
@example(path=("seeds", 0), text="1" * 5000, dry=True)
@example(path=("seeds", 0), text="[" * 700 + "]" * 700, dry=True)
@example(path=(*TRAINING, "epochs"), text="!!int x", dry=False)
@example(path=(*TRAINING, "epochs"), text="!!bool x", dry=False)
@example(path=(*TRAINING, "epochs"), text="!!timestamp x", dry=False)
@example(path=(*TRAINING, "epochs"), text="&a {b: *a}", dry=False)
def test_snakemake_refuses_a_wrong_value(planner, folder, tally, path, text, dry):
    try:
        value = text if "*" in text else yaml.safe_load(text)
    except Exception:
        value = text
    if RIGHT[path](value):
        return
    tally.tried("wrong configurations through snakemake")
    first = next((index for index, part in enumerate(path) if isinstance(part, int)), len(path))
    whole = text if first == len(path) else at(path[:first], changed(path, text))
    given = f"{path[0]}={json.dumps(only(path[1:first], whole))}"
    words = refused_by_the_workflow(
        planner, folder, "--configfile", folder / "right.yaml", "--config", given, *ways(dry)
    )
    assert_told(path, value, words)
    tally.held("wrong configurations through snakemake")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("output=$(touch pwned)", 'output: "$(touch pwned)" is not allowed'),
        ("output=2020-01-01", 'output: "2020-01-01" has the wrong type (date)'),
        ("device=1e999", "device: Infinity is no finite number"),
        ("seeds=[0, 1.5]", "seeds[1]: 1.5 has the wrong type; write a whole number"),
        ("seeds=&a [*a]", 'seeds: "&a [*a]" has the wrong type'),
        ("experiments={'; touch pwned': {}}", 'experiments: "; touch pwned" is not a possible key'),
        ("run=vgg", "write a list"),
        ("data={cifar10: {source: '/data/{x}'}}", 'data.cifar10.source: "/data/{x}" is not allowed'),
        ("data={cifar10: {source: '/data/<x>'}}", 'data.cifar10.source: "/data/<x>" is not allowed'),
        ("data={published: {source: '-x'}}", 'data.published.source: "-x" is not allowed'),
        ("data={published: {url: 'http://raw.githubusercontent.com/x'}}", "begins with https://"),
        (
            "data={published: {url: 'https://example.org/x'}}",
            "begins with https://raw.githubusercontent.com/",
        ),
    ],
)
def test_snakemake_says_of_a_wrong_value(planner, folder, tally, given, expected):
    tally.tried("wrong configurations through snakemake")
    words = refused_by_the_workflow(planner, folder, "--configfile", folder / "right.yaml", "--config", given)
    assert expected in words
    tally.held("wrong configurations through snakemake")


def test_snakemake_refuses_a_key_given_twice(planner, folder, tally):
    tally.tried("wrong configurations through snakemake")
    twice = folder / "twice.yaml"
    twice.write_text(f"{(folder / 'right.yaml').read_text()}\nseeds: [2]\n")
    line = twice.read_text().count("\n")
    expected = f'{twice}, line {line}: "seeds" is there for the second time; write it once'
    assert refused_by_the_workflow(planner, folder, "--configfile", twice) == expected
    tally.held("wrong configurations through snakemake")


@pytest.mark.parametrize(
    "text",
    [
        "seeds: [0\nrun: {",
        "- 1\n- 2\n",
        "seeds\n",
        "seeds: [2020-99-99]\n",
        "output: !!int x\n",
        "output: !!python/object/apply:os.system [touch pwned]\n",
        "seeds: &a {b: *a}\n",
        "pathvars: 3\n",
        "\tseeds: [0]\n",
        None,
    ],
)
def test_what_snakemake_itself_cannot_read(planner, folder, tally, text):
    """Snakemake reads configuration files before the workflow: the words are its own, but no job starts."""
    tally.tried("wrong configurations through snakemake")
    broken = folder / "broken.yaml"
    broken.unlink(missing_ok=True)
    if text is not None:
        broken.write_text(text)
    assert "rror" in ended(planner, folder, "--configfile", broken)
    tally.held("wrong configurations through snakemake")


def test_cuda_without_a_gpu_ends_before_any_job(planner, folder, tmp_path):
    copy_repository(tmp_path)
    given = ("--configfile", folder / "right.yaml", "--config", "device=cuda")
    code, words = planner.run(tmp_path, folder.with_suffix(".log"), *given, "-n")
    assert code == 0, "a plan needs no GPU"
    if has_gpu():
        pytest.skip("a GPU is here")
    before = contents(tmp_path)
    code, words = planner.run(tmp_path, folder.with_suffix(".log"), *given)
    assert code == 1 and contents(tmp_path) == before and "Traceback" not in words
    said = 'device: "cuda" is asked for, but this machine has no GPU; write auto or cpu'
    assert f"error in the configuration: {said}" in words
    assert not re.search("^(rule |localrule )", words, re.MULTILINE)


def test_more_than_a_hundred_were_wrong(request, tally):
    """After the tests above: how many of what they generated was wrong."""
    here = {item.originalname for item in request.session.items if item.path == request.path}
    names = {name for name, test in globals().items() if hasattr(test, "hypothesis")}
    if not names <= here:
        pytest.skip("only a part of this file is run")
    assert len(names) == 2
    assert tally.rows["wrong configurations through snakemake"]["tried"] > 100
