"""Names of the user's own in a configuration, checked: nothing of theirs is run."""

import ast
import importlib.util
from pathlib import Path

from .. import registry
from ..entry import SETTINGS
from ..runtime.errors import UserError
from .reading import dotted, error_at


def check(config, folders, elsewhere=False):
    """Checks the names that a configuration adds to the registry; their shape is right already.

    Args:
        config (dict): the configuration.
        folders (iterable of Path): where their modules may lie.
        elsewhere (bool): whether a module that is not installed here may be installed where the jobs run.

    Raises:
        UserError: for a name of the registry's own, or a target that is not there.
    """
    for kind, table in registry.OWN_TABLES.items():
        for name, facts in config.get(kind, {}).items():
            path = (kind, name)
            taken = kind == "networks" and name in config.get("architectures", {})
            if taken or (name in table and not table[name].own):
                problem = "has the name of one that comes with the repository"
                problem = "has the name of an architecture" if taken else problem
                raise error_at(path, facts.get("target", facts.get("source")), problem, "write another name")
            if kind == "datasets":
                _check_data(path, facts, list(folders))
            if "target" not in facts:
                continue
            _check_target((*path, "target"), facts["target"], list(folders), elsewhere)
            if kind == "networks":
                _check_file((*path, "weights"), facts["weights"], list(folders), Path.is_file)
            required = facts.get("required", [])
            for setting in required:
                if setting not in facts.get("settings", {}) and setting not in SETTINGS:
                    where = dotted((*path, "settings", setting))
                    raise UserError(f"{where}: is missing; write what it may be, as in {{type: number}}")


def _check_data(path, facts, folders):
    """Of a data set either a function makes it, or its images lie in a folder or a file."""
    if "target" not in facts and "source" not in facts:
        where = dotted((*path, "source"))
        raise UserError(
            f"{where}: is missing; write the path of a folder of images or of a file of arrays, or write "
            "target, examples and classes"
        )
    if "target" in facts:
        for key, example in (("examples", "[1000, 200]"), ("classes", "10")):
            if key not in facts:
                raise UserError(f"{dotted((*path, key))}: is missing; write {key}, as in {example}")
    else:
        for key in ("arguments", "examples", "classes"):
            if key in facts:
                problem = "is what the images tell by themselves"
                raise error_at((*path, key), facts[key], problem, "write it only beside target")
        if facts.get("channels", 3) not in (1, 3):
            raise error_at(
                (*path, "channels"), facts["channels"], "is not possible for images", "write 1 or 3"
            )
    if "source" in facts:
        _check_file((*path, "source"), facts["source"], folders, Path.exists)


def _check_file(path, name, folders, is_there):
    file = registry.path_of(name, folders, is_there)
    if not is_there(Path(file)):
        searched = ", ".join(dict.fromkeys(str(Path(one).resolve()) for one in folders)) or "none"
        kind = "no file" if is_there is Path.is_file else "no file and no folder"
        problem = f"is {kind}, seen from the folders {searched}"
        of_what = "weights" if path[-1] == "weights" else "images"
        raise error_at(path, name, problem, f"write the path of the {of_what}")
    if set(file) & set("{}<>"):
        problem = f"is {file}, and Snakemake expands {{ }} < > in names"
        raise error_at(path, name, problem, "rename the folder, or link to the file from elsewhere")


def _check_target(path, target, folders, elsewhere):
    module, _, name = target.partition(":")
    folder = registry.folder_of(target, folders)
    if not folder:
        if not elsewhere and importlib.util.find_spec(module.partition(".")[0]) is None:
            searched = ", ".join(dict.fromkeys(str(Path(one).resolve()) for one in folders)) or "none"
            problem = f"names a module that is neither installed nor in the folders {searched}"
            raise error_at(path, target, problem, "write module:name, and put the module's file there")
        return
    base = Path(folder).joinpath(*module.split("."))
    file = next((one for one in (base.with_suffix(".py"), base / "__init__.py") if one.is_file()), None)
    if file is None:
        problem = f"names a module that is not in {folder}"
        raise error_at(path, target, problem, "write module:name, and put the module's file there")
    try:
        known = _names(ast.parse(file.read_bytes(), str(file)))
    except (SyntaxError, ValueError) as error:
        problem = f"names a file that is no Python ({file}: {error})"
        raise error_at(path, target, problem, "write module:name of a file that can be imported") from None
    if name not in known:
        raise error_at(path, target, f"names nothing in {file}", f"write one of {', '.join(sorted(known))}")


def _names(tree):
    """The names that the top level of a module binds."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found
