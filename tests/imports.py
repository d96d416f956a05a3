"""What a script imports: itself and through the library files that it reaches, in functions too."""

import ast
import functools
import sys
from pathlib import Path

from kafnets import registry

from tests.repository import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
_KINDS = ("ACTIVATIONS", "ARCHITECTURES", "ADVERSARIES", "AROUND", "ATTACKS", "CERTIFICATES", "DATASETS")
_TABLES = {name: table for name, table in vars(registry).items() if name in _KINDS}


def third_party(path, skipped=()):
    """The modules of other packages that a Python file imports, each with one file that does.

    Args:
        path: a file under workflow/scripts.
        skipped: functions, "kafnets/published.py:load_weights", whose imports do not count.
    """
    found, seen, waiting = {}, set(), [Path(path)]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in _imported(file, tuple(skipped)):
            files = _files(module)
            waiting += files
            if not files and module.partition(".")[0] not in sys.stdlib_module_names:
                found.setdefault(module, file.relative_to(SCRIPTS).as_posix())
    return found


@functools.cache
def _imported(file, skipped):
    return list(_statements(file, skipped))


def _statements(file, skipped):
    """The absolute names of what one file imports, by statement or by name."""
    name = file.relative_to(SCRIPTS).as_posix()
    package = file.relative_to(SCRIPTS).parent.parts
    waiting, nodes = [ast.parse(file.read_text(encoding="utf-8"))], []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef) and f"{name}:{node.name}" in skipped:
            continue
        nodes.append(node)
        waiting += ast.iter_child_nodes(node)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield module
            yield from (inner for alias in node.names if _files(inner := f"{module}.{alias.name}"))
        elif isinstance(node, ast.Call):
            yield from _by_name(node, nodes)


def _by_name(call, nodes):
    """What a call imports whose argument names it, or that loads an entry of the registry."""
    function = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if function in ("import_module", "optional") and call.args and isinstance(call.args[0], ast.Constant):
        yield call.args[0].value
    if function == "load" and not (call.args or call.keywords):
        for table in {getattr(node, "attr", getattr(node, "id", "")) for node in nodes} & _TABLES.keys():
            yield from (entry.target.partition(":")[0] for entry in _TABLES[table].values())


def _files(module):
    """The files that importing a module of this repository runs; none for one of another package."""
    *above, last = module.split(".")
    path = SCRIPTS.joinpath(*above, last)
    own = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not own.is_file():
        return []
    packages = [SCRIPTS.joinpath(*above[: depth + 1], "__init__.py") for depth in range(len(above))]
    return [*packages, own]
