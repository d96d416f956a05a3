"""Any locale will do: text files are UTF-8, and what a terminal or log cannot show does not end a script."""

import io
import os
import tokenize

import pytest

from tests.repository import ROOT

SOURCES = [
    ROOT / "Snakefile",
    *sorted((ROOT / "workflow").rglob("*.smk")),
    *sorted((ROOT / "workflow").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
# no UTF-8 mode and no locale but C's: what Python reads and writes by default is ASCII
ASCII = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


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
