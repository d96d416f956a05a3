"""The code that a step of the workflow runs, found by following its imports, and a checksum of it.

A result is stale when the code that made it has changed, and only then. What a script runs is itself, every
module of the library that it imports, what these import, and so on; imports inside functions count. Names
that are looked up in the registry when the script runs (its activation, architecture, attack ...) are not
imported anywhere: the modules that define them are given beside the script.

Comments, docstrings and the layout of Python files do not count; other files (C++) count as they are.
"""

import ast
import functools
import hashlib
import re
from pathlib import Path

from ..registry import ACTIVATIONS

LIBRARY = "kafnets"
SCRIPTS = Path(__file__).resolve().parents[2]
_REPORT = SCRIPTS / LIBRARY / "report"
# They say where things are; what they say of a step's own names is in that step's parameters.
_NOT_FOLLOWED = (f"{LIBRARY}.registry", f"{LIBRARY}.entry")


def of_step(script, entries=()):
    """The checksum of the code of a step and of what the registry says of the names that it looks up.

    Args:
        script (str): a file of workflow/scripts.
        entries (iterable of Entry): of the registry, of these names: where their code is, and its arguments.
    """
    entries = list(entries)
    said = {repr((entry.target, sorted(entry.arguments.items()), entry.per)) for entry in entries}
    modules = {entry.target.partition(":")[0] for entry in entries}
    folders = {entry.folder for entry in entries if entry.folder}
    # what a figure or a table says of the user's own names; of the others, too, it may change without notice
    looks = {repr((entry.label, entry.colour, entry.marker)) for entry in ACTIVATIONS.values() if entry.own}
    return _of_step(script, *(tuple(sorted(one)) for one in (modules, folders, said, looks)))


@functools.cache
def _of_step(script, modules, folders, said, looks):
    code = checksum(script, modules, folders)
    drawn = looks if any(_REPORT in path.parents for path in files(script, modules, folders)) else ()
    return hashlib.sha256((code + "\n".join([*said, *drawn])).encode()).hexdigest()


def checksum(script, modules=(), beside=()):
    """One checksum of all code that a step runs.

    Args:
        script (str): a file of workflow/scripts.
        modules (iterable of str): dotted names of modules that it loads by name.
        beside (tuple of str): folders of the user's own modules.

    Returns:
        str: hexadecimal; it changes when a file of :func:`files` changes in what it does.
    """
    digest = hashlib.sha256()
    for path in files(script, tuple(sorted(set(modules))), beside):
        digest.update(path.name.encode() + b"\0" + _content(path, path.stat().st_mtime_ns) + b"\0")
    return digest.hexdigest()


@functools.cache
def files(script, modules=(), beside=()):
    """The files of code that a step runs, ordered by name; arguments as of :func:`checksum`."""
    found = {}
    queue = [_as_module(SCRIPTS / script), *modules]
    while queue:
        name = queue.pop()
        path = _file_of(name, beside)
        if name in found or path is None or name in _NOT_FOLLOWED:
            continue
        found[name] = path
        queue += [*_parents(name), *_imports(path, name, path.stem == "__init__")]
    data = {file for path in found.values() for file in _read_by(path)}
    return tuple(sorted({*found.values(), *data}))


def _as_module(script):
    return ".".join(script.relative_to(SCRIPTS).with_suffix("").parts)


def _parents(name):
    """Importing a module runs its packages too."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _file_of(name, beside=()):
    """The file of a module of the library, of the scripts, or of the user's own; None for any other."""
    for folder in (SCRIPTS, *map(Path, beside)):
        base = folder.joinpath(*name.split("."))
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
    return None


@functools.cache
def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _imports(path, name, is_package):
    """The dotted names that a file imports anywhere; what `from a import b` names may be a module or not."""
    found = []
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


@functools.cache
def _read_by(path):
    """Files beside a module that its code names, such as C++ that it compiles."""
    names = {node.value for node in ast.walk(_tree(path)) if _is_file_name(node)}
    return [path.parent / name for name in sorted(names) if (path.parent / name).is_file()]


def _is_file_name(node):
    return isinstance(node, ast.Constant) and bool(re.fullmatch(r"\w+\.[a-z]+", str(node.value)))


@functools.cache
def _content(path, _modified):
    """What a file does, as bytes."""
    if path.suffix != ".py":
        return path.read_bytes()
    return repr(_canonical(_tree(path))).encode()


def _canonical(node):
    """A syntax tree as nested tuples without docstrings, places and empty fields, alike for every Python."""
    if isinstance(node, list):
        return tuple(_canonical(item) for item in node)
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if _has_docstring(node):
        fields["body"] = fields["body"][1:]
    return type(node).__name__, *((name, _canonical(value)) for name, value in fields.items())


def _has_docstring(node):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
