"""Where compiled code is kept: compiled once, whatever home there is, and not at all where it lies ready."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kafnets.runtime import compiled

from tests.repository import ENVIRONMENT, ROOT

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
SCRIPTS = ROOT / "workflow" / "scripts"
LOAD = """
import logging, sys
from pathlib import Path
from kafnets.runtime import compiled

logging.basicConfig(format="%(message)s")
print(compiled.load(Path(sys.argv[1])).answer())
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "package" / "answer.cpp"
    path.parent.mkdir()
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


@pytest.fixture
def load(source, tmp_path):
    """A function: loads the library in a process of its own; how often it compiled, and what it said."""
    count, temporary = tmp_path / "count", tmp_path / "temporary"
    compiler = tmp_path / "cxx"
    compiler.write_text(f'#!/bin/sh\necho >> {count}\nexec {shutil.which("g++")} "$@"\n')
    compiler.chmod(0o755)
    temporary.mkdir()
    hidden = ("KAFNETS_CACHE", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
    rest = {name: value for name, value in ENVIRONMENT.items() if name not in hidden}

    def load(**variables):
        count.write_text("")
        environment = {**rest, "CXX": str(compiler), "TMPDIR": str(temporary), "PYTHONPATH": str(SCRIPTS)}
        command = [sys.executable, "-c", LOAD, source]
        done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True)
        assert done.stdout == "42\n", done.stderr
        assert not list(temporary.iterdir())
        return len(count.read_text()), done.stderr

    return load


# A home in which nothing can be made, not even by root
NO_HOME = {"HOME": "/proc/self/fd"}


def test_in_the_home(load, source, tmp_path):
    for times in (1, 0):
        assert load(HOME=str(tmp_path / "home")) == (times, "")
    assert len(list((tmp_path / "home" / ".cache" / "kafnets").glob("answer-native-*.so"))) == 1
    source.write_text(source.read_text() + "// edited\n")
    assert load(HOME=str(tmp_path / "home")) == (1, "")


def test_without_a_home_beside_the_source(load, source):
    for times in (1, 0):
        assert load(**NO_HOME) == (times, "")
    assert list((source.parent / "__pycache__").glob("answer-native-*.so"))


def test_with_a_package_that_is_read_only_in_the_folder_of_the_session(load, source, tmp_path):
    (source.parent / "__pycache__").touch()  # no folder can be made there
    for times in (1, 0):
        assert load(**NO_HOME, XDG_RUNTIME_DIR=str(tmp_path / "session")) == (times, "")


def test_where_nothing_can_be_written_nothing_stays_and_it_is_said(load, source):
    (source.parent / "__pycache__").touch()
    times, said = load(**NO_HOME)
    assert times == 1 and said.count("\n") == 1 and "set KAFNETS_CACHE" in said
    assert [path.name for path in source.parent.iterdir() if path.is_dir()] == []


def test_a_cache_that_is_named_is_the_only_one(load, tmp_path):
    load(HOME=str(tmp_path / "home"))
    for times in (1, 0):
        assert load(HOME=str(tmp_path / "home"), KAFNETS_CACHE=str(tmp_path / "cache")) == (times, "")


def test_without_a_home_no_folder_is_called_tilde(source, monkeypatch):
    for name in ("KAFNETS_CACHE", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert compiled._caches(source) == [source.parent / "__pycache__"]


@pytest.fixture
def ready(source, tmp_path, monkeypatch, capsys):
    """A cache with what `python -m kafnets.runtime.compiled` makes; then the compiler is gone."""
    monkeypatch.setenv("KAFNETS_CACHE", str(tmp_path / "ready"))
    monkeypatch.setattr(compiled, "_sources", lambda: [source])
    compiled.main()
    made = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(made) == len(compiled._levels()) and all(path.is_file() for path in made)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    return made


def test_what_was_compiled_beforehand_needs_no_compiler(source, ready):
    assert compiled.load(source).answer() == 42


def test_a_named_folder_is_read_and_the_cache_is_another(source, ready, monkeypatch, tmp_path):
    """As in the image of a container, where root compiles and any user downloads."""
    monkeypatch.setenv("KAFNETS_CACHE", str(tmp_path / "own"))
    with pytest.raises(compiled.NotCompiled, match=r"no C\+\+ compiler found"):
        compiled.load(source)
    monkeypatch.setenv(compiled.BEFOREHAND, str(tmp_path / "ready"))
    assert compiled.load(source).answer() == 42
    assert not (tmp_path / "own").exists()


def test_only_what_the_processor_can_run_is_loaded(source, ready, monkeypatch):
    for path in ready[:-1]:
        path.write_bytes(b"for another processor")
    monkeypatch.setattr(compiled, "_cpu_flags", lambda: {"sse2"})
    assert compiled.load(source).answer() == 42
    ready[-1].unlink()
    with pytest.raises(compiled.NotCompiled, match=r"no C\+\+ compiler found"):
        compiled.load(source)


def test_levels_are_chosen_by_what_the_processor_says(monkeypatch):
    monkeypatch.setattr(compiled.platform, "machine", lambda: "x86_64")
    v3 = {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}
    assert compiled._levels(flags=v3) == ["x86-64-v3", "any"]
    assert compiled._levels(flags=v3 - {"fma"}) == ["any"]
    assert compiled._levels(flags=v3 | {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}) == [
        "x86-64-v4",
        "x86-64-v3",
        "any",
    ]
    monkeypatch.setattr(compiled.platform, "machine", lambda: "aarch64")
    assert compiled._levels() == ["any"]


def test_the_library_of_each_source_is_asked_for_by_name():
    """What is compiled beforehand is all that there is."""
    assert [path.name for path in compiled._sources()] == ["piecewise.cpp", "normalise.cpp"]
