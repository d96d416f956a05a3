"""The configuration as YAML and the command line give it, in a form that can be checked.

Imports nothing but the standard library and PyYAML, which Snakemake's own environment has.
"""

import functools
import json
import re
import sys
from pathlib import Path

from ..runtime.errors import UserError

# Beyond these a configuration is a mistake or an attack (YAML aliases can grow without end), not a grid.
MAX_ENTRIES = 200_000
MAX_DEPTH = 20


@functools.cache
def read_yaml(path):
    """What a YAML file of this repository holds (with libyaml where PyYAML has it: ten times faster).

    Read once; not to be changed.
    """
    import yaml

    try:
        from yaml import CSafeLoader as SafeLoader
    except ImportError:
        from yaml import SafeLoader
    return yaml.load(Path(path).read_bytes(), Loader=SafeLoader)


def check_keys(path):
    """Checks that no mapping of a configuration file has a key twice: Snakemake would take the last.

    Raises:
        UserError: one line that names the file, the line and the key.
    """
    import yaml

    try:
        open_nodes = [
            yaml.compose(Path(path).read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        ]
    except (yaml.YAMLError, RecursionError):
        return  # Snakemake has read it, as JSON then, and what it read is checked
    passed = set()  # an alias leads to a node a second time, and may to the one that it is in
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in passed or not isinstance(node, yaml.CollectionNode):
            continue
        passed.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            open_nodes += node.value
            continue
        known = set()
        for key, value in node.value:
            open_nodes.append(value)
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                line = key.start_mark.line + 1
                raise UserError(
                    f"{path}, line {line}: {short(key.value)} is there for the second time; write it once"
                )
            known.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))


def check_mappings(config, given):
    """Checks that no mapping of `given` stands where the merged `config` has none.

    An empty one leaves what it should replace as it was: Snakemake merges key by key.

    Raises:
        UserError: one line that names the key, or when it is too large or too deep to go through.
    """
    check_size(given)
    open_items = [((key,), config.get(key), value) for key, value in given.items()]
    while open_items:
        path, merged, value = open_items.pop()
        if not isinstance(value, dict):
            continue
        if merged is not None and not isinstance(merged, dict):
            raise error_at(path, value, "has the wrong type (dict)", f"write {kind(merged)}")
        open_items += [((*path, key), (merged or {}).get(key), item) for key, item in value.items()]


def kind(value):
    """What a value is, in the words of a YAML file."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "a text"


def check_locale(*folders):
    """Checks that the locale has the letters of the folders' names: Snakemake cannot work there otherwise.

    Raises:
        UserError: one line that names the folder and a locale that has them.
    """
    encoding = sys.getfilesystemencoding()
    for folder in map(str, folders):
        if encoding != "utf-8" and not folder.isascii():
            raise UserError(
                f"{folder}: Snakemake cannot work in this folder under a locale without UTF-8 ({encoding}); "
                "set LC_ALL=C.UTF-8, or give the folder a name of plain letters"
            )


def told(config, given):
    """What of `given` stands in `config` as it is: what the command line said of a module's settings."""
    found = {}
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            found[key] = told(config[key], value)
        elif key in config and config[key] == value:
            found[key] = value
    return found


def typed(config):
    """Numbers and booleans in what Snakemake read of `--config`: its lists and mappings hold only texts.

    Raises:
        UserError: when it is too large or too deep to go through.
    """
    check_size(config)
    return _typed(config)


def _typed(value):
    import yaml

    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    try:
        if not isinstance(value, str) or any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(value)
        ):
            return value
        return yaml.safe_load(value)
    except Exception:  # of a date such as 2020-99-99, a ValueError; of !!bool x, a KeyError; ...
        return value


def check_size(config):
    """Checks that a configuration can be gone through: aliases may make it grow without end."""
    open_items, entries = [((), config)], 0
    while open_items:
        path, value = open_items.pop()
        entries += 1
        if entries > MAX_ENTRIES:
            raise error_at(path[:1], "...", f"has more than {MAX_ENTRIES} entries", "write fewer")
        if len(path) > MAX_DEPTH:
            raise error_at(path[:8], "...", f"is nested more than {MAX_DEPTH} deep", "write it flatter")
        if isinstance(value, dict):
            open_items += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            open_items += [((*path, index), item) for index, item in enumerate(value)]


def error_at(path, value, problem, allowed):
    return UserError(f"{dotted(path)}: {short(value)} {problem}; {allowed}")


def dotted(path):
    """The dotted name of a key, as in experiments.vgg.activations[2]."""
    text = ""
    for part in path:
        if isinstance(part, int) and not isinstance(part, bool):
            text += f"[{part}]"
        else:
            plain = isinstance(part, str) and re.fullmatch("[A-Za-z0-9_-]{1,64}", part)
            text += f".{part if plain else short(part)}"
    return text.lstrip(".") or "config"


def short(value, length=80):
    try:
        text = json.dumps(value, default=str)
    except (ValueError, TypeError):  # an integer of thousands of digits, keys that are not text, a loop
        text = f"this {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 3]}..."
