"""Any locale will do: text files are UTF-8, and what a terminal or log cannot show does not end a script."""

import io
import json
import os
import subprocess
import sys
import tokenize

import pytest
from card_builder import write_card
from record_builders import ATTACKS, Results

from tests.repository import ROOT

SOURCES = [
    ROOT / "Snakefile",
    *sorted((ROOT / "workflow").rglob("*.smk")),
    *sorted((ROOT / "workflow").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
SCRIPTS = ROOT / "workflow" / "scripts"
LOCALES = {
    # no UTF-8 mode and no locale but C's: what Python reads and writes by default is ASCII
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
}


def without_encoding(source):
    """The calls of a program, or of a Snakefile, that read or write text in the locale's encoding."""
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in (tokenize.NL, tokenize.COMMENT)
    ]
    for index, token in enumerate(tokens[:-1]):
        if token.type != tokenize.NAME or tokens[index + 1].string != "(":
            continue
        method = index and tokens[index - 1].string == "."
        words, depth = [], 0
        for later in tokens[index + 1 :]:
            depth += {"(": 1, ")": -1}.get(later.string, 0)
            if depth == 0:
                break
            words.append(later.string)
        binary = any(word.strip("\"'") in ("rb", "wb", "ab", "r+b", "a+b", "xb") for word in words)
        opens = token.string in ("read_text", "write_text") or (token.string == "open" and not method)
        pipes = "text = True" in " ".join(words) or "universal_newlines" in words
        if ((opens and not binary) or pipes) and "encoding" not in words:
            yield f"line {token.start[0]}: {token.string}({' '.join(words[1:])})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_say_their_encoding(path):
    """What ruff's PLW1514 does not see: methods of what it cannot know to be a path, pipes, .smk files."""
    assert list(without_encoding(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "path.read_text()",
        "path.write_text(\n    text\n)",
        "open(path, 'w', newline='')",
        "subprocess.run(command, text=True)",
        "rule a:\n    run:\n        with open(output[0], 'w') as file:\n            pass\n",
    ],
)
def test_the_check_itself_catches(source):
    assert len(list(without_encoding(source))) == 1


@pytest.mark.parametrize("locale", LOCALES)
def test_scripts_write_utf8_and_print_what_the_locale_has(tmp_path, locale):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    results.add("kaf", {"clean": 160, "pgd": 90}, overfitting="at_end")
    card = write_card(tmp_path / "cards")
    manifest = results.manifest()
    settings = {
        "title": "VGG",
        "activations": ["relu", "kaf"],
        "reference": "vgg",
        "headline": "pgd",
        "attacks": {"pgd": ATTACKS["pgd"]},
    }
    published = ROOT / "workflow" / "resources" / "thesis_results.yaml"
    out = tmp_path / "out"
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")

    def call(script, *arguments):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))
        }
        command = [sys.executable, SCRIPTS / script, *arguments]
        done = subprocess.run(command, env={**environment, **LOCALES[locale]}, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("latin-1" if locale == "latin-1" else "ascii")

    rows = out / "summary.csv"
    call("aggregate.py", "--manifest", manifest, "--output", rows, "--partial", out / "missing.txt")
    call(
        *("render_tables.py", "--summary", rows, "--manifest", manifest, "--experiment", "vgg"),
        *("--settings", tmp_path / "settings.json", "--published", published, "--output", out / "tables"),
    )
    cards = ("--csv", out / "tables" / "cards.csv", "--md", out / "tables" / "cards.md")
    call("render_cards.py", "--cards", card, "--title", "VGG", *cards)
    call("plot_radii.py", "--cards", card, "--pdf", out / "radii.pdf", "--png", out / "radii.png")
    printed = call("print_tables.py", "--output", out)
    printed += call(
        *("partial.py", "--manifest", manifest, "--settings", json.dumps({"vgg": settings})),
        *("--published", published, "--output", out / "partial"),
    )
    text = "".join(path.read_bytes().decode("utf-8") for path in sorted(out.glob("**/*.md")))
    assert "\u2013" in text  # intervals, 10.1\u201320.2, in the files as they are
    assert "\\u2013" in printed and "vgg" in printed  # and on a terminal without it
    assert "\u03b5" not in printed
