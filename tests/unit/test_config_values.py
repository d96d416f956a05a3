"""Wrong values, hostile names, unknown and missing keys, many generated: each is refused in one line."""

import copy
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafnets import registry
from kafnets.config.checks import validate

from tests.unit.config_builders import (
    BASE,
    EXPERIMENT,
    PUBLISHED,
    SCHEMA,
    at,
    changed,
    dotted,
    refused,
)
from tests.unit.config_values import (
    ARCHIVE,
    CERTIFICATE,
    CLOSED,
    CONTAINERS,
    KAF,
    NAMED,
    OTHER_DATA,
    RIGHT,
    TRAINING,
    assert_told,
    generated,
    keys,
    named,
    scalars,
    shown,
    values,
)


def test_the_right_configuration_passes():
    validate(BASE, SCHEMA, PUBLISHED)


@settings(generated, max_examples=1300)
@given(path=st.sampled_from(list(RIGHT)), value=values)
@example(path=("seeds", 0), value=1.0)
@example(path=(*TRAINING, "epochs"), value=1)
def test_a_wrong_value(tally, path, value):
    if RIGHT[path](value):
        return
    tally.tried("wrong configurations")
    message = refused(changed(path, value))
    assert_told(path, value, message)
    tally.held("wrong configurations")


@settings(generated, max_examples=400)
@given(st.sampled_from(CONTAINERS), values)
def test_a_wrong_value_for_a_whole_section(tally, path, value):
    if isinstance(value, dict | list):
        return
    tally.tried("wrong configurations")
    message = refused(changed(path, value))
    assert message.startswith(f"{dotted(path)}: ")
    assert shown(value) in message
    tally.held("wrong configurations")


@settings(generated, max_examples=500)
@given(st.sampled_from(CLOSED), keys, scalars)
def test_an_unknown_key(tally, path, key, value):
    holder = at(path)
    if key in holder or key in registry.ACTIVATIONS:
        return
    tally.tried("wrong configurations")
    message = refused(changed((*path, key), value))
    assert message.startswith(dotted(path))
    assert named(key) in message
    # what is no name is told of the key alone
    assert shown(value) in message or " key" in message
    tally.held("wrong configurations")


@settings(generated, max_examples=300)
@given(st.sampled_from(NAMED), keys)
def test_a_hostile_name(tally, path, key):
    """An experiment, attack or archive whose name is no name: it would be a folder and a file."""
    if isinstance(key, str) and re.fullmatch("[a-z][a-z0-9_]{0,63}", key):
        return
    tally.tried("wrong configurations")
    inner = next(iter(at(path).values()))
    message = refused(changed((*path, key), copy.deepcopy(inner)))
    assert message.startswith(f"{dotted(path)}")
    assert named(key) in message
    tally.held("wrong configurations")


def mappings(value, path=()):
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from mappings(item, (*path, key))


OPTIONAL = [
    ("container",),
    ("study", "null_models", "kaf"),
    (*TRAINING, "activation_rate"),
    (*TRAINING, "penalties"),
    (*TRAINING, "penalties", "slope"),
    *((*TRAINING, name) for name in ("schedule", "awp", "averaging", "validation", "early_stopping")),
    (*TRAINING, "schedule", "factor"),
    *((*TRAINING, "awp", name) for name in ("gamma", "warm_up")),
    *((*TRAINING, "averaging", name) for name in ("start", "batch_norm", "keep")),
    *((*TRAINING, "validation", name) for name in ("every", "keep")),
    *((*TRAINING, "early_stopping", name) for name in ("iterations", "drop")),
    *(("data", name) for name in ("cifar10", *OTHER_DATA)),
    ("data", "published"),
    ARCHIVE,
    ("evaluation", "attacks", "autoattack"),
    ("certification",),
    ("detection",),
    ("networks",),
    ("certification", "certificates", "smoothing_50"),
    ("certification", "certificates", "smoothing_50", "samples"),
    *((*CERTIFICATE, name) for name in ("experiments", "examples")),
    *((*CERTIFICATE, name) for name in ("samples", "selection_samples", "alpha", "seed")),
    *((*EXPERIMENT, "architecture_arguments", name) for name in ("block", "dropout")),
]
NEEDED = [
    (*path, key)
    for path, mapping in mappings(BASE)
    for key in mapping
    if (*path, key) not in OPTIONAL
    and (*path, key)[: len(KAF)] != KAF
    and (*path, key) != (*TRAINING, "learning_rate", "kaf")
]


@pytest.mark.parametrize("path", NEEDED, ids=dotted)
def test_a_missing_key(tally, path):
    tally.tried("wrong configurations")
    config = copy.deepcopy(BASE)
    del at(path[:-1], config)[path[-1]]
    message = refused(config)
    # of the only experiment, its section is said to be empty
    assert str(path[-1]) in message or message.startswith(f"{dotted(path[:-1])}: {{}} is empty")
    tally.held("wrong configurations")


def test_aliases_without_end_are_refused():
    grown = [0] * 10
    for _ in range(9):
        grown = [grown] * 10
    assert "more than" in refused(changed(("seeds",), grown))
    loop = []
    loop.append(loop)
    assert "deep" in refused(changed(("seeds",), loop))


def test_thousands_were_wrong(request, tally):
    """After the tests above: how many of what they generated was wrong."""
    here = {item.originalname for item in request.session.items if item.path == request.path}
    names = {name for name, test in globals().items() if hasattr(test, "hypothesis")}
    if not names <= here:
        pytest.skip("only a part of this file is run")
    assert len(names) == 4
    assert tally.rows["wrong configurations"]["tried"] >= 2000
