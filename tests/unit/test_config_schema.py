"""config.yaml, the schema, the registry and the presets say the same."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from jsonschema import Draft202012Validator
from kafnets import registry
from kafnets.config.checks import validate
from snakemake.utils import update_config

from tests.repository import ROOT
from tests.unit.config_builders import PUBLISHED, SCHEMA, read
from tests.unit.config_values import CONTAINERS, RIGHT

PRESETS = sorted([*(ROOT / "workflow/presets").glob("*.yaml"), *(ROOT / "tests").glob("*/*.yaml")])

# Whose entries say which settings the names take.
TABLES = (
    *(registry.ACTIVATIONS, registry.ARCHITECTURES, registry.ADVERSARIES, registry.ATTACKS),
    *(registry.CERTIFICATES, registry.DETECTORS, registry.DETECTION_ATTACKS),
)


def properties(schema, root, seen=()):
    """Every key that a schema knows, and every mapping in it."""
    schema = root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "properties" in schema or schema.get("type") == "object":
        yield None, schema
    for key, inner in schema.get("properties", {}).items():
        yield key, None
        yield from properties(inner, root)
    for inner in (schema.get("additionalProperties"), schema.get("items")):
        if isinstance(inner, dict):
            yield from properties(inner, root)


def test_every_key_of_the_schema_is_in_the_config_or_its_comments():
    root, written = read(SCHEMA), (ROOT / "config.yaml").read_text()
    known = {key for key, _ in properties(root, root) if key}
    for table in TABLES:
        known |= {name for entry in table.values() for name in entry.schemas()}
    assert len(known) > 50
    missing = [key for key in sorted(known) if not re.search(rf"\b{key}\b", written)]
    assert not missing, f"config.yaml does not tell of {missing}"


def test_the_schema_is_closed():
    root = read(SCHEMA)
    for _, mapping in properties(root, root):
        if mapping is not None:
            assert "additionalProperties" in mapping and mapping["additionalProperties"] is not True


def test_a_mapping_with_names_of_ones_own_is_shown():
    root = read(SCHEMA)
    own = [mapping for _, mapping in properties(root, root) if mapping and "properties" not in mapping]
    assert len(own) >= 5
    for mapping in own:
        assert re.search("{.+: .+}|in config.yaml", mapping["description"]), mapping


def test_the_table_above_has_every_setting_of_the_schema():
    root = read(SCHEMA)
    leaves = {key for key, _ in properties(root, root) if key}
    tested = {part for path in (*RIGHT, *CONTAINERS) for part in path if isinstance(part, str)}
    only_for_some = {"weights", "beside", *registry.OWN_TABLES}
    own = [schema for name, schema in root["$defs"].items() if name.startswith("own_")]
    of_own_names = {key for schema in own for key, _ in properties(schema, root)}
    assert leaves - tested <= only_for_some | of_own_names


def test_what_the_registry_says_of_settings_are_schemas():
    root = read(SCHEMA)
    for entry in (entry for table in TABLES for entry in table.values()):
        for name, schema in entry.schemas().items():
            assert schema, f"{name} may be anything"
            Draft202012Validator.check_schema(schema)
            assert schema.get("$ref", "#/$defs/name").removeprefix("#/$defs/") in root["$defs"]


def test_data_sets_are_as_large_as_the_registry_says():
    from kafnets.data import prepare_digits

    digits = prepare_digits()
    assert (len(digits.train_labels), len(digits.test_labels)) == registry.DATASETS["digits"].examples


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *PRESETS], ids=lambda path: path.name)
def test_config_and_presets_are_right(path):
    config = read(ROOT / "config.yaml")
    update_config(config, read(path))
    validate(config, SCHEMA, PUBLISHED)


class NoDuplicates(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, of which YAML silently takes the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"a key twice in line {node.start_mark.line + 1}"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("path", [ROOT / "config.yaml", SCHEMA, *PRESETS], ids=lambda path: path.name)
def test_no_key_stands_twice(path):
    yaml.load(path.read_text(), NoDuplicates)


def test_validation_is_quick_and_without_torch():
    code = (
        "import sys, time, yaml; from pathlib import Path\n"
        "config = yaml.safe_load(Path('config.yaml').read_text()); start = time.process_time()\n"
        "from kafnets.config.checks import validate\n"
        "validate(config, 'workflow/schemas/config.schema.yaml', 'workflow/resources/thesis_results.yaml')\n"
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    seconds, torch = result.stdout.split()
    assert torch == "False"
    assert float(seconds) < 0.6  # with the import of jsonschema; 0.25 on two slow cores
