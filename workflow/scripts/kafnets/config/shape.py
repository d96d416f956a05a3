"""The shape of a configuration, by its JSON schema, and what is wrong with it in words."""

import difflib
import json
import math
import re

from .. import registry
from ..entry import RADIUS
from ..runtime.errors import UserError, optional
from .reading import dotted, error_at
from .slices import fraction

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


class Reader:
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
            raise error_at(path, value, problem, allowed_at(self.schema, path))
        return value

    def key(self, key, path):
        if not isinstance(key, str):
            raise error_at(
                path, key, "is a key and no text", "write a name (in quotes if it is yes, no or on)"
            )
        if _UNPRINTABLE.search(key):
            raise error_at(path, key, "is a key with unprintable characters", "write a name")
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


def check_shape(config, schema, above=()):
    """Checks a configuration, or the part of it that stands at `above`, against a schema.

    Raises:
        UserError: one line, of the fault that is nearest to the root.
    """
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
        raise _shape_error(schema, first, above)


def _shape_error(root, problem, above):
    inner, value, schema = tuple(problem.absolute_path), problem.instance, problem.schema
    path = (*above, *inner)
    if problem.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        unknown = next(key for key in value if key not in known)
        return error_at((*path, unknown), value[unknown], "is an unknown key", choice(unknown, known))
    if problem.validator == "required":
        missing = next(key for key in problem.validator_value if key not in value)
        return UserError(f"{dotted((*path, missing))}: is missing; {allowed_at(root, (*inner, missing))}")
    if "propertyNames" in problem.absolute_schema_path:
        return error_at(path, value, "is not a possible key", f"write {_describe(root, schema)}")
    if problem.validator == "uniqueItems":
        twice = next(item for index, item in enumerate(value) if item in value[:index])
        return error_at(path, twice, "is listed twice", "write it once")
    return error_at(
        path,
        value,
        _BROKEN.get(problem.validator, "is out of range"),
        f"{allowed_at(root, inner)}{_hint(root, value, schema)}",
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


def allowed_at(root, path):
    """What may stand at `path`, in words."""
    schema = root
    for part in path:
        schema = _resolve(root, schema)
        inner = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        inner = inner or schema.get("additionalProperties")
        if not isinstance(inner, dict):
            return choice(part, schema.get("properties", {}))
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
    if "type" not in schema:
        return "another value"
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


def _one_of(names):
    return f"{'one of ' if len(names) > 1 else ''}{', '.join(map(str, names))}"


def choice(name, known):
    """Which names are allowed, the closest to `name` first."""
    close = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if not known:
        return "write nothing here"
    return f"{hint}write {_one_of(known)}"


def choose(path, names, known):
    """Checks that each of `names`, the value at `path`, is one of `known`."""
    for index, name in enumerate([names] if isinstance(names, str) else names):
        if name not in known:
            where = path if isinstance(names, str) else (*path, index)
            raise error_at(where, name, "is not known", choice(name, known))


def check_settings(path, given, name, entry, root, key=None):
    """Checks settings by what the entry of the registry that they are for declares: names, and values.

    Args:
        path (tuple): of the mapping of settings.
        given (dict): the settings.
        name, entry (str, Entry): whose they are.
        root (dict): the schema of the whole configuration.
        key (str): among them, the key that names the entry.
    """
    for missing in entry.required:
        if missing not in given:
            needed = f"{name} needs {', '.join(entry.required)}"
            raise UserError(f"{dotted((*path, missing))}: is missing; write it: {needed}")
    schemas = entry.schemas()
    settings = {setting: value for setting, value in given.items() if setting != key}
    for setting, value in settings.items():
        if setting not in schemas:
            raise error_at((*path, setting), value, f"does not belong to {name}", choice(setting, schemas))
    check_shape(settings, {"type": "object", "properties": schemas, "$defs": root["$defs"]}, path)
    chosen = {**entry.arguments, **settings}
    for setting, value, other, only, problem in entry.conflicts:
        if chosen.get(setting) == value and chosen.get(other, only) != only:
            allowed = f"write {only}, or {setting}: {json.dumps(not value)}"
            raise error_at((*path, other), chosen[other], problem, allowed)
    for setting, schema in schemas.items():
        if setting in given and schema == RADIUS:
            check_radius((*path, setting), given[setting])


def check_radius(path, value):
    """Checks that a radius, which has the right shape, lies within the range of pixels."""
    try:
        fraction(value)
    except UserError:
        raise error_at(path, value, "is out of range", "write n/255 with n from 0 to 255") from None
