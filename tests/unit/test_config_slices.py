"""The configuration in slices: the settings of each step."""

import copy
import json

import pytest
from kafnets.config.certification import (
    certificates_of,
    certification_settings,
    certified_settings,
)
from kafnets.config.checks import validate
from kafnets.config.slices import (
    card_settings,
    cells,
    evaluation_settings,
    iterated_attack,
    lr_range_settings,
    table_settings,
    training_settings,
    worst_case_attacks,
)
from kafnets.config.slices import (
    test_images as images_of,
)
from kafnets.pipeline.params import as_params

from tests.unit.config_builders import (
    BASE,
    EXPERIMENT,
    NAME,
    PUBLISHED,
    SCHEMA,
    at,
    changed,
    refused,
)

TRANSFER = {"method": "transfer", "eps": "8/255", "step": "2/255", "iterations": 3}


def with_transfer(activations=("relu", "kaf"), **settings):
    config = changed((*EXPERIMENT, "activations"), list(activations))
    config["evaluation"]["attacks"]["transfer"] = {**TRANSFER, **settings}
    config["evaluation"]["run"] = ["clean", "pgd", "transfer"]
    return config


def test_transfer_takes_the_models_of_the_other_activations():
    validate(with_transfer(), SCHEMA, PUBLISHED)
    config = with_transfer(("relu", "elu", "kaf"))
    assert evaluation_settings(config, NAME, "elu", 1, "transfer")["sources"] == ["relu", "kaf"]
    assert "sources" not in evaluation_settings(config, NAME, "elu", 1, "pgd")
    config = with_transfer(("relu", "elu", "kaf"), sources=["kaf", "elu"])
    validate(config, SCHEMA, PUBLISHED)
    assert evaluation_settings(config, NAME, "elu", 1, "transfer")["sources"] == ["kaf"]
    assert evaluation_settings(config, NAME, "relu", 1, "transfer")["sources"] == ["kaf", "elu"]


def test_what_the_worst_case_is_of():
    config = copy.deepcopy(BASE)
    pgd = config["evaluation"]["attacks"]["pgd"]
    config["evaluation"]["attacks"].update(
        same={"method": "fgsm", "eps": "8.0/255"},
        larger={**pgd, "eps": "9/255"},
        round={**pgd, "norm": "l2"},
        cw={"method": "cw", "eps": "8/255"},
        distances={"method": "fmn"},
    )
    config["evaluation"]["run"] = ["clean", "larger", *("pgd", "thesis_pgd", "round", "cw", "distances")]
    assert worst_case_attacks(config) == []
    assert 'headline: "worst_case" needs two' in refused(changed(("evaluation", "headline"), "worst_case"))
    config["evaluation"]["run"].append("same")
    validate(config, SCHEMA, PUBLISHED)
    assert worst_case_attacks(config) == ["pgd", "same"]
    assert worst_case_attacks(changed(("evaluation", "headline"), "round", config)) == ["round", "cw"]
    config["evaluation"]["run"].remove("larger")
    config["evaluation"]["headline"] = "worst_case"
    validate(config, SCHEMA, PUBLISHED)
    assert worst_case_attacks(config) == ["pgd", "same"]
    assert iterated_attack(config) == "pgd"
    config["evaluation"]["attacks"]["worst_case"] = pgd
    assert "worst_case" in refused(config)


@pytest.mark.parametrize(
    ("activations", "sources", "expected"),
    [
        (
            ("relu", "kaf"),
            ["kaff"],
            'transfer.sources[0]: "kaff" is no activation of tiny; did you mean kaf?',
        ),
        (("relu", "kaf"), ["relu", "elu"], 'transfer.sources[1]: "elu" is no activation of tiny'),
        (("relu", "kaf"), ["kaf"], "no other model to attack kaf from"),
        (("relu", "kaf"), [], "no other model to attack relu from"),
        (("relu",), None, "no other model to attack relu from"),
    ],
)
def test_transfer_without_a_model_to_start_from(activations, sources, expected):
    given = {} if sources is None else {"sources": sources}
    assert expected in refused(with_transfer(activations, **given))


def test_slices_hold_what_their_step_needs():
    assert cells(BASE) == [(NAME, name, seed) for name in ("relu", "kaf") for seed in (0, 1)]
    training = training_settings(BASE, NAME, "kaf", 1)
    assert (
        training["training"]["learning_rate"] == [0.01, 0.2] and training["activation_arguments"]["D"] == 20
    )
    assert training_settings(BASE, NAME, "relu", 0)["training"]["learning_rate"] == [0.01, 0.1]
    assert "evaluation" not in training and "test_examples" not in training
    assert lr_range_settings(BASE, NAME, "kaf")["lr_range"] == BASE["lr_range"]
    attack = evaluation_settings(BASE, NAME, "kaf", 1, "pgd")
    assert attack["seed"] == 1 and attack["iterations"] == 50 and "training" not in attack
    assert table_settings(BASE, NAME)["headline"] == "pgd"
    card = card_settings(BASE, NAME, "kaf", 1)
    assert card["examples"] == 40, "no more than the experiment has"
    assert card["card"]["eps"] == "8/255" and not card["card"].keys() & {"run", "sources", "examples"}
    json.dumps([training, attack, card], allow_nan=False)


@pytest.mark.parametrize(
    ("of_the_experiment", "wanted", "found"),
    [(None, None, None), (None, 100, 100), (None, 500, 397), (40, None, 40), (40, 500, 40), (397, 500, 397)],
)
def test_a_section_uses_no_more_images_than_there_are(of_the_experiment, wanted, found):
    experiment = {"dataset": "digits8", "test_examples": of_the_experiment}
    assert images_of(experiment, wanted) == found
    config = changed(EXPERIMENT, {**at(EXPERIMENT), **experiment})
    config["card"]["examples"] = config["certification"]["examples"] = wanted
    config["certification"]["certificates"]["smoothing_50"].pop("examples", None)
    settings = [
        card_settings(config, NAME, "kaf", 1),
        certification_settings(config, NAME, "relu", 0, "smoothing_50"),
    ]
    assert [one["examples"] for one in settings] == [found, found]


def test_certificates_are_of_the_experiments_that_they_name():
    settings = certification_settings(BASE, NAME, "kaf", 1, "smoothing_25")
    assert settings["examples"] == 20 and settings["method"] == "smoothing"
    given = {"sigma": 0.25, "samples": 1000, "selection_samples": 100, "alpha": 0.001, "seed": 0}
    assert settings["arguments"] == given
    config = copy.deepcopy(BASE)
    config["experiments"]["other"] = config["experiments"][NAME]
    config["run"] = [NAME, "other"]
    config["certification"]["run"] = ["smoothing_50", "smoothing_25"]
    validate(config, SCHEMA, PUBLISHED)
    assert certificates_of(config, NAME) == ["smoothing_50", "smoothing_25"]
    assert certificates_of(config, "other") == ["smoothing_50"]
    # no more images than the experiment has
    assert certification_settings(config, "other", "relu", 0, "smoothing_50")["examples"] == 40
    shown = certified_settings(config, NAME)
    assert list(shown["certificates"]) == ["smoothing_50", "smoothing_25"]
    assert shown["certificates"]["smoothing_25"]["norm"] == "l2" and shown["balls"]["pgd"][0] == "linf"
    del config["certification"]
    validate(config, SCHEMA, PUBLISHED)
    assert certificates_of(config, NAME) == []


@pytest.mark.parametrize(
    ("settings", "section"),
    [
        (training_settings(BASE, NAME, "kaf", 1), "training"),
        (lr_range_settings(BASE, NAME, "kaf"), "training"),
        (card_settings(BASE, NAME, "kaf", 1), "card"),
        (table_settings(BASE, NAME), None),
        (certification_settings(BASE, NAME, "kaf", 1, "smoothing_25"), "arguments"),
        (certified_settings(BASE, NAME), None),
    ],
)
def test_a_change_of_any_setting_changes_a_param_and_is_short(settings, section):
    params = as_params(lambda changed: changed, section)
    assert json.loads(params.pop("settings")(settings, output=None)) == settings
    before = {function(settings) for function in params.values()}
    assert max(map(len, before)) < 700  # with every setting that there is
    paths = [(key,) for key in settings if key != section]
    for path in [*paths, *((section, key) for key in settings.get(section, ()))]:
        after = {function(changed(path, "another", settings)) for function in params.values()}
        assert f'{path[-1]}: "another"' in " ".join(after - before)
