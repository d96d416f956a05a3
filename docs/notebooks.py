"""Runs the notebooks of this folder with plain Python, and writes down what their cells show.

    python docs/notebooks.py docs/library_in_ten_minutes.ipynb           after an edit
    python docs/notebooks.py --check docs/library_in_ten_minutes.ipynb   whether it still shows the same

Of a cell the printed text is kept, and the value of its last line: a matplotlib figure as a picture, anything
else as text. Whether numbers are the same is not compared: in the last digits they differ from machine to
machine, and in the cells themselves stands what must hold of them.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")


def run(notebook):
    """The outputs of each cell of a notebook, run in order in an empty folder; none for texts."""
    names, folder = {"__name__": "__main__"}, os.getcwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            return [outputs_of(cell, names) for cell in notebook["cells"]]
        finally:
            os.chdir(folder)


def outputs_of(cell, names):
    if cell["cell_type"] != "code":
        return None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        value = value_of("".join(cell["source"]), names)
    outputs = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        data = {
            "data": shown(value),
            "execution_count": None,
            "metadata": {},
            "output_type": "execute_result",
        }
        outputs.append(data)
    return outputs


def value_of(source, names):
    """Runs a cell; the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def shown(value):
    """A value as a notebook keeps it."""
    if not hasattr(value, "savefig"):
        return {"text/plain": repr(value).splitlines(keepends=True)}
    picture = io.BytesIO()
    value.savefig(picture, dpi=80, bbox_inches="tight", metadata={"Software": None})
    return {"image/png": base64.b64encode(picture.getvalue()).decode()}


def words(outputs):
    """What outputs say, without their numbers; of a picture only that it is there."""
    for output in outputs:
        text = output.get("text") or output["data"].get("text/plain", "a picture")
        yield NUMBER.sub("#", "".join(text))


def check(path, notebook, found):
    """Says where a notebook now shows something else; whether it does. One without outputs never."""
    differ = False
    if not any(cell.get("outputs") for cell in notebook["cells"]):
        return differ
    for number, (cell, outputs) in enumerate(zip(notebook["cells"], found, strict=True)):
        if outputs is not None and list(words(cell["outputs"])) != list(words(outputs)):
            differ = True
            now = "".join(words(outputs)) or "nothing"
            print(f"{path}: cell {number} shows something else now, numbers aside:\n{now}", file=sys.stderr)
    return differ


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where they differ")
    options = parser.parse_args()
    differ = False
    for path in options.notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found = run(notebook)
        if options.check:
            differ |= check(path, notebook, found)
            continue
        for cell, outputs in zip(notebook["cells"], found, strict=True):
            if outputs is not None:
                cell["outputs"] = outputs
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
