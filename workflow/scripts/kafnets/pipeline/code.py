"""The code that a step of the workflow runs, found by following its imports, and a checksum of it.

A result is stale when the code that made it has changed, and only then. What a script runs is itself, every
module of the library that it imports, what these import, and so on; imports inside functions count. Names
that are looked up in the registry when the script runs (its activation, architecture, attack ...) are not
imported anywhere: the modules that define them are given beside the script.

Comments, docstrings, types of arguments and the layout of Python files do not count; other files (C++) count
as they are. What only says what there is, or what a record tells, does not count either.
"""

import ast
import functools
import gc
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from ..entry import BUILDER
from ..registry import ACTIVATIONS

LIBRARY = "kafnets"
SCRIPTS = Path(__file__).resolve().parents[2]
_REPORT = f"{LIBRARY}.report."
# They say where things are; what they say of a step's own names is in that step's parameters.
_NOT_FOLLOWED = re.compile(rf"{LIBRARY}\.(registry|entry|entries)(\..*)?")
# What they say is no part of any result: which names the library exports, what a record tells of its making.
# A change of them makes nothing stale; their checksums are taken for those of the time when this was decided,
# which made nothing stale either.
_NO_PART = {
    LIBRARY: "9d2f0fef6cfbbbc2a0c9fbb37814ae4775a959fdf54e9279a1c542438a13ec5c",
    f"{LIBRARY}.runtime.records": "f9edf51b1dcf46bc4a4c6481c617664e5888c75c1e0f4c3298a88bb078218a4a",
}
# Files that were rewritten such that every result stays what it was, to the bit, which tests show: the
# checksum of the file as it is now, and that of the file for which it is taken. Edited again, it counts.
_REWRITTEN = {
    "certify": (
        "33477013001d8774b6cb710113dbf3f1c9a6c0616420a0a3b03689f9d49fc6ef",
        "2e29fa0ef8bb0919200b04622d526a6bfbfb0bd81b11a5e0e9d0f635d2f57aac",
    ),
    "evaluate": (
        "04da73fb3513bd5b879c49fb3fc09045dd472df88aa08c2f0bcbb211334d3424",
        "f2c57a7093b97207800817fc8f058b70136eca868145db106355350e3d75c924",
    ),
    f"{LIBRARY}.certification.entry": (
        "5fdeb0586706b855dd900f0063232a910227fba464e98868cf63b12a16e7227c",
        "cdbbebe4195a1e73ed94938c555dc135ba5568232ebdb57d97b2c6a9e73bf0ea",
    ),
    f"{LIBRARY}.runtime.cli": (
        "1fdc9ececcd57ed18e1e43fcd971456b191e3e636fd489dd5e35ce74eb48b242",
        "60dc2961e42f98eef496061bc07bbe3933f830ab6ad7f3676a8179815167d57a",
    ),
    f"{LIBRARY}.runtime.compiled": (
        "a592c91b5412854a113138363ea2c0961390a0b5a0a1ca2bd1b8baef7d3727c7",
        "1957454a22bc41920f59a9a89e9e9e2de78121bf0b640509091afd2e05db046b",
    ),
    f"{LIBRARY}.data.dataset": (
        "365af3489924785254dbcc74c63d5915579edc4f31efad4790b7b89461bc7f7c",
        "db107b2a38cacc3315ee86eea82dd9ec100b34716ef85a356cfdc4aa19310ce8",
    ),
    f"{LIBRARY}.training.methods.ibp": (
        "acda64d0d9ef007d8cea6a91be16573d0657caf90eeb5c85a09b259417598919",
        "923727cc33de57797740caabea9b0ca98f76910ecd2b308c056e04d600ed5530",
    ),
    f"{LIBRARY}.training.selection": (
        "ffd966f7e3b4ec9c23cf7c5fb1bad2b212ab467097389459f28f2bd543d17df2",
        "fa9ec2bcdfaec5bd4764b1e1bffc20a890821760ff4e8a6de29f8560902ec76e",
    ),
}
_FILE_NAME = re.compile(r"\w+\.[a-z]+")
# Fields of syntax trees that say nothing more: "load" or "store" follows from the place; u"" is "".
_LEFT_OUT = {"ctx", "kind", "type_comment"}
_FUNCTIONS = {ast.FunctionDef, ast.AsyncFunctionDef}
_DOCUMENTED = {ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef}
_IMPORTS = {ast.Import, ast.ImportFrom}


def of_step(script, entries=()):
    """The checksum of the code of a step and of what the registry says of the names that it looks up.

    Args:
        script (str): a file of workflow/scripts.
        entries (iterable of Entry): of the registry, of these names: where their code is, and its arguments.
    """
    entries = list(entries)
    said = {repr(_said(entry)) for entry in entries}
    folders = {entry.folder for entry in entries if entry.folder}
    # what a figure or a table says of the user's own names; of the others, too, it may change without notice
    looks = {repr((entry.label, entry.colour, entry.marker)) for entry in ACTIVATIONS.values() if entry.own}
    return _of_step(script, modules_of(entries), *(tuple(sorted(one)) for one in (folders, said, looks)))


def _said(entry):
    """What an entry says that results depend on; a decay, and a network's facts, only where there are any.

    The weights of a user's own network count by their content, an input of the step that reads them.
    """
    decay = (entry.decay,) if entry.decay else ()
    network = (entry.key, entry.mean, entry.std) if entry.weights else ()
    return entry.target, sorted(entry.arguments.items()), entry.per, *decay, *network


def modules_of(entries):
    """The dotted names of the modules in which entries of the registry have their code."""
    entries = list(entries)
    targets = [target for entry in entries for target in (entry.target, entry.backend) if target]
    targets += [BUILDER for entry in entries if entry.weights]
    return tuple(sorted({target.partition(":")[0] for target in targets}))


@functools.cache
def _of_step(script, modules, folders, said, looks):
    code = checksum(script, modules, folders)
    drawn = looks and any(name.startswith(_REPORT) for name, _ in files(script, modules, folders))
    return hashlib.sha256((code + "\n".join([*said, *(looks if drawn else ())])).encode()).hexdigest()


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
    for name, path in files(script, tuple(sorted(set(modules))), beside):
        digest.update(f"{name}\0{_NO_PART.get(name) or _as_before(name, _checksum_of(path))}\0".encode())
    return digest.hexdigest()


def _as_before(name, found):
    """The checksum of a file, or that of the one for which it is taken."""
    now, before = _REWRITTEN.get(name, (None, None))
    return before if found == now else found


@functools.cache
def files(script, modules=(), beside=()):
    """The files of code that a step runs, as (name, path), ordered by name; arguments as of :func:`checksum`.

    The name of a Python file is that of its module, that of a file beside it "module/file".
    """
    found = {}
    queue = [name for name in (Path(script).stem, *modules) if _is_followed(name, beside)]
    while queue:
        name = queue.pop()
        if name not in found:
            found[name] = _file_of(name, beside)
            queue += _run_by(name, beside)
    read = {f"{name}/{file.name}": file for name, path in found.items() for file in _read_by(path)}
    return tuple(sorted({**found, **read}.items()))


@functools.cache
def _run_by(name, beside):
    """The modules that importing one runs: its packages, and what it imports anywhere."""
    parts = name.split(".")
    packages = [".".join(parts[:length]) for length in range(1, len(parts))]
    found = dict.fromkeys([*packages, *_imports(_file_of(name, beside), name)])
    return tuple(one for one in found if _is_followed(one, beside))


def _is_followed(name, beside):
    return _file_of(name, beside) is not None and not _NOT_FOLLOWED.fullmatch(name)


@functools.cache
def _file_of(name, beside=()):
    """The file of a module of the library, of the scripts, or of the user's own; None for any other."""
    for folder in (SCRIPTS, *map(Path, beside)):
        base = folder.joinpath(*name.split("."))
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _imports(path, name):
    """The dotted names that a file imports anywhere; what `from a import b` names may be a module or not."""
    found = []
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in _source(path).imports:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        else:
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


@functools.cache
def _read_by(path):
    """Files beside a module that its code names, such as C++ that it compiles."""
    return [path.parent / name for name in _source(path).names if (path.parent / name).is_file()]


def _checksum_of(path):
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _source(path).checksum


class _Source(NamedTuple):
    """What one Python file holds."""

    imports: tuple  # of ast.Import and ast.ImportFrom
    names: tuple  # of strings that look like file names
    checksum: str  # of its syntax tree


@functools.cache
def _source(path):
    """What one Python file holds; each process of Snakemake reads many.

    Without the garbage collector, which would search the growing tree again and again, more than half of the
    time, and find nothing: no node of it refers to one above.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return _read(path)
    finally:
        if collects:
            gc.enable()


def _read(path):
    """One walk over the syntax tree of a file.

    The checksum is of the tree with one value a line, parents first: of a node its type and the names of its
    fields, of a list its length, then what is in them. Docstrings, positions in the file and empty fields are
    left out, so that it is the same in every version of Python.
    """
    lines, imports, names = [], [], set()
    waiting = [ast.parse(path.read_bytes(), str(path))]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is list:
            lines.append(f"[{len(item)}]")
            waiting += item
            continue
        fields = _fields(kind)
        if fields is None:  # a name or a constant
            lines.append(repr(item))
            if kind is str and "." in item and _FILE_NAME.fullmatch(item):
                names.add(item)
            continue
        lines.append(kind.__name__)
        if kind in _DOCUMENTED and _has_docstring(item):
            del item.body[0]
        if kind in _FUNCTIONS and not item.decorator_list:
            _forget_types(item)
        elif kind in _IMPORTS:
            imports.append(item)
        for field in fields:
            value = getattr(item, field, None)
            if value is not None and value != []:
                lines.append(field)
                waiting.append(value)
    checksum = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return _Source(tuple(imports), tuple(sorted(names)), checksum)


def _forget_types(function):
    """The types of arguments and of what is returned say nothing unless a decorator (Triton's) reads them."""
    function.returns = None
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            node.annotation = None


@functools.cache
def _fields(kind):
    """The fields of a type of node that say something; None for what is no node."""
    if not issubclass(kind, ast.AST):
        return None
    return tuple(name for name in kind._fields if name not in _LEFT_OUT)


def _has_docstring(node):
    first = node.body[0] if node.body else None
    constant = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return constant and isinstance(first.value.value, str)
