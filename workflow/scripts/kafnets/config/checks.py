"""The whole configuration, checked before anything runs.

Every error is one line: the key (dotted), its value, what is wrong, what to write. Imports nothing but the
standard library, jsonschema and PyYAML, which Snakemake's own environment has.
"""

import difflib
import functools
import json
import math
import os
import re
import sys
from pathlib import Path

from .. import registry
from ..registry import ACTIVATIONS, ADVERSARIES, ARCHITECTURES, ATTACKS, DATASETS, PUBLISHED, is_trainable
from ..runtime.errors import UserError, optional
from ..runtime.units import fraction
from .slices import WORST_CASE, rates, source_activations, worst_case_attacks

# Beyond these a configuration is a mistake or an attack (YAML aliases can grow without end), not a grid.
MAX_ENTRIES = 200_000
MAX_DEPTH = 20
MAX_INTEGER = 2**63 - 1

# Line breaks and other control characters, and halves of surrogate pairs, which no file name can hold.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_BROKEN = {
    "minItems": "has too few items",
    "maxItems": "has too many items",
    "minProperties": "is empty",
    "minLength": "is empty",
    "maxLength": "is too long",
    "pattern": "is not allowed",
    "enum": "is not allowed",
    "oneOf": "is not allowed",
    "type": "has the wrong type",
}


def validate(config, schema_path, published_path=None):
    """Checks the whole configuration.

    Args:
        config (dict): as Snakemake parsed and merged it.
        schema_path (Path): of config.schema.yaml.
        published_path (Path, optional): of thesis_results.yaml, whose row sets `reference` may name.

    Raises:
        UserError: one line that names the key, its value and what to write.
    """
    schema = read_yaml(schema_path)
    _check_size(config)
    config = _Reader(schema).read(config)
    _check_shape(config, schema)
    _check_evaluation(config["evaluation"])
    _choose(("run",), config["run"], config["experiments"])
    _check_card(config["card"], config["experiments"])
    published = None if published_path is None else read_yaml(published_path)
    for name, experiment in config["experiments"].items():
        _check_experiment(("experiments", name), experiment, published)
        if "beside" in experiment:
            _choose(("experiments", name, "beside"), experiment["beside"], config["experiments"])
    for name in config["run"]:
        experiment = config["experiments"][name]
        for table in ("attacks", "differences"):
            if f"{name}_{table}" in config["run"]:
                problem = f"has the name of a table of {name}"
                raise _error(("run",), f"{name}_{table}", problem, "write another name for the experiment")
        _check_sources_of_attacks(config, name)
        _check_source(config, experiment["dataset"])
        if "weights" in experiment:
            _check_source(config, experiment["weights"])
            _check_archives(config["data"][experiment["weights"]], experiment["activations"])
    low, high = config["lr_range"]["min"], config["lr_range"]["max"]
    if low >= high:
        raise _error(("lr_range",), {"min": low, "max": high}, "is no range", "write min less than max")


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
                    f"{path}, line {line}: {_short(key.value)} is there for the second time; write it once"
                )
            known.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))


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


def typed(config):
    """Numbers and booleans in what Snakemake read of `--config`: its lists and mappings hold only texts.

    Raises:
        UserError: when it is too large or too deep to go through.
    """
    _check_size(config)
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


def _check_size(config):
    """Checks that a configuration can be gone through: aliases may make it grow without end."""
    open_items, entries = [((), config)], 0
    while open_items:
        path, value = open_items.pop()
        entries += 1
        if entries > MAX_ENTRIES:
            raise _error(path[:1], "...", f"has more than {MAX_ENTRIES} entries", "write fewer")
        if len(path) > MAX_DEPTH:
            raise _error(path[:8], "...", f"is nested more than {MAX_DEPTH} deep", "write it flatter")
        if isinstance(value, dict):
            open_items += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            open_items += [((*path, index), item) for index, item in enumerate(value)]


class _Reader:
    """Turns what YAML gave into what JSON can hold, and refuses the rest."""

    def __init__(self, schema):
        self.schema = schema

    def read(self, value, path=()):
        if isinstance(value, dict):
            return {self.key(key, path): self.read(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.read(item, (*path, index)) for index, item in enumerate(value)]
        problem = _not_json(value)
        if problem:
            raise _error(path, value, problem, _allowed(self.schema, path))
        return value

    def key(self, key, path):
        if not isinstance(key, str):
            raise _error(path, key, "is a key and no text", "write a name (in quotes if it is yes, no or on)")
        if _UNPRINTABLE.search(key):
            raise _error(path, key, "is a key with unprintable characters", "write a name")
        return key


def _not_json(value):
    """What keeps a scalar out of JSON, or from ever being meant, in words."""
    if isinstance(value, str):
        return "holds unprintable characters" if _UNPRINTABLE.search(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "is no finite number"
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else "is out of range"
    return None if value is None else f"has the wrong type ({type(value).__name__})"


def _check_shape(config, schema):
    jsonschema = optional("jsonschema", "config")
    draft = jsonschema.Draft202012Validator
    # JSON calls 60.0 an integer; here it is a number, because the name of a seed's folder has no dot.
    types = draft.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    validator = jsonschema.validators.extend(draft, type_checker=types)(schema)
    problems = validator.iter_errors(config)
    first = min(problems, key=lambda problem: (len(problem.absolute_path), str(problem.path)), default=None)
    if first is not None:
        raise _shape_error(schema, first)


def _shape_error(root, problem):
    path, value, schema = tuple(problem.absolute_path), problem.instance, problem.schema
    if problem.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        unknown = next(key for key in value if key not in known)
        return _error((*path, unknown), value[unknown], "is an unknown key", _choice(unknown, known))
    if problem.validator == "required":
        missing = next(key for key in problem.validator_value if key not in value)
        return UserError(f"{_name((*path, missing))}: is missing; {_allowed(root, (*path, missing))}")
    if "propertyNames" in problem.absolute_schema_path:
        return _error(path, value, "is not a possible key", f"write {_describe(root, schema)}")
    if problem.validator == "uniqueItems":
        twice = next(item for index, item in enumerate(value) if item in value[:index])
        return _error(path, twice, "is listed twice", "write it once")
    return _error(
        path,
        value,
        _BROKEN.get(problem.validator, "is out of range"),
        f"{_allowed(root, path)}{_hint(root, value, schema)}",
    )


def _hint(root, value, schema):
    """The value as it was probably meant: YAML reads 1e-4 as text, a radius needs its /255, a list its []."""
    if schema.get("type") == "array":
        return _list_hint(value, schema.get("minItems", 0), _resolve(root, schema["items"])["type"])
    number = _number(value)
    if number is None:
        return ""
    if str(schema.get("pattern", "")).endswith("/255$"):
        return _radius_hint(number)
    of_numbers = schema.get("type") in ("number", "integer")
    if isinstance(value, str) and of_numbers and 1e-12 < abs(number) < 1e12:
        return f"; {number:.12f}".rstrip("0").rstrip(".") + ", without quotes or an exponent?"
    return ""


def _list_hint(value, least, kind):
    """A single name or number in brackets, where a list of one would do."""
    single = {"string": isinstance(value, str) and re.fullmatch("[a-z][a-z0-9_]{0,63}", value)}
    single["integer"] = isinstance(value, int) and not isinstance(value, bool)
    return f"; [{value}]?" if least <= 1 and single.get(kind) else ""


def _radius_hint(number):
    """What a number may have meant as a radius: below 1 a part of the pixels' range, else grey levels."""
    if 0 < number < 1:
        nearest = max(1, round(255 * number))
        return f"; {number:g} is {255 * number:.4g}/255 ({nearest}/255 is {nearest / 255:.4f})"
    return f"; {number:g}/255?" if 0 <= number <= 255 else ""


def _number(value):
    """A finite number, or a text of one, as a float; None for anything else."""
    try:
        number = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        )
    except (ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _resolve(root, schema):
    """A schema with what it refers to; what stands beside the reference is of this place, and goes first."""
    reference = schema.get("$ref")
    return {**root["$defs"][reference.rpartition("/")[2]], **schema} if reference else schema


def _allowed(root, path):
    """What may stand at `path`, in words."""
    schema = root
    for part in path:
        schema = _resolve(root, schema)
        inner = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        inner = inner or schema.get("additionalProperties")
        if not isinstance(inner, dict):
            return _choice(part, schema.get("properties", {}))
        schema = inner
    return f"write {_describe(root, schema)}"


def _describe(root, schema):
    """What a schema allows, in words."""
    schema = _resolve(root, schema)
    if "registry" in schema:
        return _one_of(getattr(registry, schema["registry"]))
    if "description" in schema:
        return schema["description"]
    if "enum" in schema:
        return _one_of(schema["enum"])
    if "oneOf" in schema:
        return ", or ".join(_describe(root, option) for option in schema["oneOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_describe_kind(root, schema, kind) for kind in kinds)


def _describe_kind(root, schema, kind):
    if kind in ("integer", "number"):
        name = "a whole number" if kind == "integer" else "a number"
        limits = (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        said = " and ".join(f"{word} {schema[key]}" for key, word in limits if key in schema)
        return f"{name} {said}".rstrip()
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        number = f" of exactly {least}" if least == most else f" of at least {least}" if least else ""
        example = ", ".join("abcd"[:most] if most else ["a", "b", *(["..."] if least > 2 else [])])
        return f"a list{number}, as in [{example}], each {_describe(root, schema['items'])}"
    if kind == "object":
        keys = list(schema.get("properties", {}))
        if not keys:
            return f"names, each with {_describe(root, schema['additionalProperties'])}"
        return f"a mapping with the key{'s' if keys[1:] else ''} {', '.join(keys)}"
    return {"boolean": "true or false", "null": "null"}.get(kind, kind)


def _error(path, value, problem, allowed):
    return UserError(f"{_name(path)}: {_short(value)} {problem}; {allowed}")


def _name(path):
    """The dotted name of a key, as in experiments.vgg.activations[2]."""
    text = ""
    for part in path:
        if isinstance(part, int) and not isinstance(part, bool):
            text += f"[{part}]"
        else:
            plain = isinstance(part, str) and re.fullmatch("[A-Za-z0-9_-]{1,64}", part)
            text += f".{part if plain else _short(part)}"
    return text.lstrip(".") or "config"


def _short(value, length=80):
    try:
        text = json.dumps(value, default=str)
    except (ValueError, TypeError):  # an integer of thousands of digits, keys that are not text, a loop
        text = f"this {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _one_of(names):
    return f"{'one of ' if len(names) > 1 else ''}{', '.join(map(str, names))}"


def _choice(name, known):
    """Which names are allowed, the closest to `name` first."""
    close = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if not known:
        return "write nothing here"
    return f"{hint}write {_one_of(known)}"


def _choose(path, names, known):
    """Checks that each of `names`, the value at `path`, is one of `known`."""
    for index, name in enumerate([names] if isinstance(names, str) else names):
        if name not in known:
            where = path if isinstance(names, str) else (*path, index)
            raise _error(where, name, "is not known", _choice(name, known))


def _check_evaluation(evaluation):
    attacks = evaluation["attacks"]
    _choose(("evaluation", "run"), evaluation["run"], attacks)
    if "clean" not in evaluation["run"]:
        raise _error(
            ("evaluation", "run"), evaluation["run"], "lacks clean", "write clean too: tables need it"
        )
    if WORST_CASE in attacks:
        problem = "is not the name of an attack"
        raise _error(
            ("evaluation", "attacks", WORST_CASE), attacks[WORST_CASE], problem, "write another name"
        )
    for name, attack in attacks.items():
        path = ("evaluation", "attacks", name)
        _choose((*path, "method"), attack["method"], ATTACKS)
        _check_settings(path, attack, "method", ATTACKS[attack["method"]])
    _check_headline(evaluation)
    method = attacks["clean"]["method"]
    if method != "clean":
        raise _error(("evaluation", "attacks", "clean", "method"), method, "is an attack", "write clean")


def _check_headline(evaluation):
    headline = evaluation["headline"]
    if headline != WORST_CASE:
        _choose(("evaluation", "headline"), headline, evaluation["run"])
    elif not worst_case_attacks({"evaluation": evaluation}):
        problem = "needs two attacks of the same norm and eps in evaluation.run"
        raise _error(("evaluation", "headline"), headline, problem, "write one attack, or run another")


def _check_sources_of_attacks(config, experiment):
    """Attacks that craft examples on the models of other activations need these activations."""
    activations = config["experiments"][experiment]["activations"]
    for attack in config["evaluation"]["run"]:
        settings = config["evaluation"]["attacks"][attack]
        for index, name in enumerate(settings.get("sources", [])):
            if name not in activations:
                path = ("evaluation", "attacks", attack, "sources", index)
                raise _error(path, name, f"is no activation of {experiment}", _choice(name, activations))
        if ATTACKS[settings["method"]].sources != "needed":
            continue
        for activation in activations:
            if not source_activations(config, experiment, activation, attack):
                problem = f"leave {attack} no other model to attack {activation} from"
                allowed = f"write another activation too, or leave {attack} out of evaluation.run"
                raise _error(("experiments", experiment, "activations"), activations, problem, allowed)


def _check_settings(path, given, key, entry):
    """Checks the settings beside `key`, which names an entry: all that it needs, none that is foreign."""
    for name in entry.required:
        if name not in given:
            needed = f"{given[key]} needs {', '.join(entry.required)}"
            raise UserError(f"{_name((*path, name))}: is missing; write it: {needed}")
    known = (*entry.required, *entry.optional)
    for name, value in given.items():
        if name != key and name not in known:
            raise _error((*path, name), value, f"does not belong to {given[key]}", _choice(name, known))
        if value == "ensemble" and given[key] != "adaptive_pgd":
            raise _error((*path, name), value, f"does not belong to {given[key]}", "write one loss")
        if name in ("eps", "step"):
            _check_radius((*path, name), value)


def _check_radius(path, value):
    try:
        fraction(value)
    except UserError:
        raise _error(path, value, "is out of range", "write n/255 with n from 0 to 255") from None


def _check_card(card, experiments):
    _choose(("card", "run"), card["run"], experiments)
    for key in ("eps", "step"):
        _check_radius(("card", key), card[key])
    for index, radius in enumerate(card["radii"]):
        _check_radius(("card", "radii", index), radius)
    radii = [fraction(radius) for radius in card["radii"]]
    if radii[0] or radii != sorted(set(radii)):
        raise _error(
            ("card", "radii"), card["radii"], "does not grow from 0", "write 0/255, then larger ones"
        )
    few, many = (card[key] for key in ("iterations", "most_iterations"))
    if few >= many:
        given = {"iterations": few, "most_iterations": many}
        raise _error(("card",), given, "shows no further iterations", "write more most_iterations")


def _check_experiment(path, experiment, published):
    _choose((*path, "dataset"), experiment["dataset"], DATASETS)
    _choose((*path, "architecture"), experiment["architecture"], ARCHITECTURES)
    _choose((*path, "activations"), experiment["activations"], ACTIVATIONS)
    if published is not None and experiment["reference"] is not None:
        _choose((*path, "reference"), experiment["reference"], published)
    _check_examples(path, experiment)
    _check_architecture_arguments((*path, "architecture_arguments"), experiment)
    for activation, arguments in experiment["activation_arguments"].items():
        _check_activation_arguments((*path, "activation_arguments"), activation, arguments)
    if "weights" in experiment:
        _check_published(path, experiment)
        return
    for key in ("train_examples", "training"):
        if key not in experiment:
            raise UserError(f"{_name((*path, key))}: is missing; write it, or weights: published")
    training = experiment["training"]
    _check_batch_size(path, experiment)
    _check_learning_rates((*path, "training", "learning_rate"), training, experiment["activations"])
    adversary = training["adversary"]
    _choose((*path, "training", "adversary", "name"), adversary["name"], ADVERSARIES)
    _check_settings((*path, "training", "adversary"), adversary, "name", ADVERSARIES[adversary["name"]])
    _check_radius((*path, "training", "monitor", "eps"), training["monitor"]["eps"])


def _check_published(path, experiment):
    """Published weights are of one network, and nothing of them is trained here."""
    for key in ("train_examples", "training"):
        if key in experiment:
            raise _error(
                (*path, key),
                experiment[key],
                "does not belong to published weights",
                "write it only where networks are trained",
            )
    _choose((*path, "activations"), experiment["activations"], PUBLISHED)
    network = {
        "architecture": "resnet20",
        "architecture_arguments": {"block": "thesis"},
        "dataset": "cifar10",
    }
    for key, only in network.items():
        if experiment[key] != only:
            problem = "is not what the published weights are of"
            raise _error((*path, key), experiment[key], problem, f"write {json.dumps(only)}")
    for activation, arguments in experiment["activation_arguments"].items():
        for name, value in arguments.items():
            if name != "arithmetic":
                problem = "does not belong to published weights"
                raise _error(
                    (*path, "activation_arguments", activation, name),
                    value,
                    problem,
                    "write arithmetic, or nothing",
                )


def _check_archives(published, activations):
    for activation in activations:
        if published["source"] is None and activation not in published["archives"]:
            path = ("data", "published", "archives", activation)
            raise UserError(
                f"{_name(path)}: is missing; write its bytes and sha256, or data.published.source"
            )


def _check_examples(path, experiment):
    available = DATASETS[experiment["dataset"]].examples
    for key, most in zip(("train_examples", "test_examples"), available, strict=True):
        wanted = experiment.get(key)
        if wanted is not None and wanted > most:
            allowed = f"write at most {most}, or null for all {most}"
            raise _error((*path, key), wanted, f"is more than {experiment['dataset']} has", allowed)


def _check_batch_size(path, experiment):
    """A batch larger than the training set would be one step an epoch, of fewer images than asked for."""
    images = experiment["train_examples"] or DATASETS[experiment["dataset"]].examples[0]
    size = experiment["training"]["batch_size"]
    if size > images:
        problem = f"is more than the {images} training images (train_examples)"
        raise _error((*path, "training", "batch_size"), size, problem, f"write at most {images}")


def _check_architecture_arguments(path, experiment):
    architecture = experiment["architecture"]
    belongs = "block" if architecture.startswith("resnet") else "dropout"
    for name, value in experiment["architecture_arguments"].items():
        if name != belongs:
            problem = f"does not belong to {architecture}"
            raise _error((*path, name), value, problem, f"write {belongs}, or nothing")


def _check_activation_arguments(path, activation, arguments):
    _choose((*path, activation), activation, ACTIVATIONS)
    if arguments and not is_trainable(activation):
        trainable = [name for name in ACTIVATIONS if is_trainable(name)]
        allowed = f"write it for one of {', '.join(trainable)}"
        raise _error((*path, activation), arguments, "is for a fixed activation", allowed)
    chosen = {**ACTIVATIONS[activation].arguments, **arguments}
    if chosen.get("trainable_bandwidth") and chosen.get("kernel", "gaussian") != "gaussian":
        kernel = arguments["kernel"]
        problem = "has no bandwidth to train"
        raise _error(
            (*path, activation, "kernel"), kernel, problem, "write gaussian, or trainable_bandwidth: false"
        )


def _check_learning_rates(path, training, activations):
    given = training["learning_rate"]
    for activation in given:
        _choose((*path, activation), activation, (*ACTIVATIONS, "default"))
    for activation in activations:
        if rates(given, activation) is None:
            raise UserError(
                f"{_name((*path, activation))}: is missing; write [min, max], or default: [min, max]"
            )
    for activation, (low, high) in given.items():
        if low > high:
            raise _error((*path, activation), [low, high], "is the wrong way round", "write [min, max]")


def _check_source(config, dataset):
    source = config["data"].get(dataset, {}).get("source")
    if source is not None and not os.path.exists(source):
        allowed = "write a path that exists, or null to download"
        raise _error(("data", dataset, "source"), source, "does not exist", allowed)
