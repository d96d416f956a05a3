"""The page of a study, and the choice of learning rates, on records whose numbers are known."""

import csv
import io
import json
import re
import runpy
import subprocess
import sys

import numpy
import pytest
import yaml
from kafnets.config.slices import study_settings
from kafnets.pipeline.grid import Grid
from kafnets.report import manifest, planned, study, summary
from kafnets.report.statistics import compare, compare_in_blocks, holm, paired_bootstrap, residual_spread
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import write_json
from record_builders import ATTACKS, EXAMPLES, Results, edit_json
from scipy import stats
from snakemake.utils import update_config

from tests.repository import ENVIRONMENT, ROOT

ACTIVATIONS = ["relu", "swish", "elu", "kaf_elu_base"]
# robust of EXAMPLES, by seed: swish far above all, elu a little, kaf_elu_base below elu
ROBUST = {
    "relu": (80, 84, 81),
    "swish": (120, 126, 123),
    "elu": (82, 84, 84),
    "kaf_elu_base": (60, 62, 63),
}
SETTINGS = {
    "run": ["fbf", "fbf_layer"],
    "controls": ["relu", "swish"],
    "null_models": {"kaf_elu_base": "elu", "kaf_silu_base": "swish"},
    "variants": {"fbf_layer": "fbf"},
    "rates": [],
    "experiments": {
        name: {
            "title": title,
            "activations": activations,
            "headline": "pgd",
            "attacks": {"pgd": ATTACKS["pgd"]},
        }
        for name, title, activations in (
            ("fbf", "FBF", ACTIVATIONS),
            ("fbf_layer", "FBF, by layer", ["kaf_elu_base"]),
        )
    },
}
TRAINING = {
    "adversary": {"name": "fbf", "eps": "8/255", "step": "10/255"},
    "epochs": 6,
    "batch_size": 64,
    "augmentation": "crop_flip",
    "momentum": 0.9,
    "l2": {"conv": 0.0, "dense": 0.001},
    "learning_rate": [0.001, 0.1],
    "tail": {"epochs": 0},
}
TEMPLATE = (ROOT / "workflow/resources/study.md").read_text()


def add(results, experiment, activation, seed, robust, parameters, **training):
    """A network of 150 right images; its training of 1,000 images in 6 epochs took 192 s."""
    line = results.add(activation, {"clean": 150, "pgd": robust}, experiment=experiment, seed=seed)
    line["architecture"] = "resnet8"
    line["training_settings"] |= {
        "architecture": "resnet8",
        "architecture_arguments": {"block": "original"},
        "activation_arguments": {"share": "layer"} if experiment == "fbf_layer" else {},
        "train_examples": 1000,
        "training": {**TRAINING, **training},
    }
    edit_json(
        line["training_record"],
        settings=line["training_settings"],
        parameters={"trainable": 75_000, "activation": parameters},
        wall_seconds=192.0 + seed,
        environment={"device": "cpu"},
        finished="2026-01-02T03:04:05",
    )


@pytest.fixture
def results(tmp_path):
    built = Results(tmp_path)
    for activation, of_seeds in ROBUST.items():
        for seed, robust in enumerate(of_seeds):
            add(built, "fbf", activation, seed, robust, 5040 if "kaf" in activation else 0)
    for seed, robust in enumerate((64, 66, 67)):
        add(built, "fbf_layer", "kaf_elu_base", seed, robust, 147)
    return built


def made(results, settings=SETTINGS):
    runs = manifest.read_manifest(results.manifest())
    rows = summary.summarize(runs)
    tested = planned.planned(runs, rows, "pgd", settings)
    return tested, study.page(TEMPLATE, rows, runs, tested, settings)


# -- statistics


def test_the_residual_spread_is_that_of_the_regression_on_kinds_and_seeds():
    generator = numpy.random.default_rng(0)
    accuracies = generator.normal(size=(5, 3)) + numpy.arange(5)[:, None] + 10 * numpy.arange(3)
    kinds, seeds = (index.ravel() for index in numpy.indices((5, 3)))
    columns = numpy.column_stack([kinds[:, None] == range(5), seeds[:, None] == range(1, 3)]).astype(float)
    left = numpy.linalg.lstsq(columns, accuracies.ravel(), rcond=None)[1][0]
    spread, freedom = residual_spread(accuracies)
    assert freedom == 8 and spread == pytest.approx((left / 8) ** 0.5)
    assert residual_spread(accuracies[:, :1])[1] == residual_spread(accuracies[:1])[1] == 0


def test_of_two_kinds_it_is_the_paired_t_test():
    generator = numpy.random.default_rng(1)
    first, second = generator.random((2, 4, 300)) < numpy.array([0.45, 0.42])[:, None, None]
    spread, freedom = residual_spread([first.mean(1), second.mean(1)])
    found = compare_in_blocks(first, second, spread, freedom)
    paired = stats.ttest_rel(first.mean(1), second.mean(1))
    bootstrap = paired_bootstrap(first, second)
    assert found.p_value == pytest.approx(max(paired.pvalue, bootstrap.p_value))
    reach = paired.confidence_interval()
    assert found.low == pytest.approx(min(reach.low, bootstrap.low))
    assert found.high == pytest.approx(max(reach.high, bootstrap.high))


def test_of_one_seed_it_is_what_it_was():
    first, second = numpy.arange(200) < numpy.array([100, 120])[:, None]
    assert compare_in_blocks(first[None], second[None], numpy.nan, 0) == compare(first[None], second[None])


def test_more_kinds_tell_what_two_alone_cannot():
    """Of three seeds a paired t-test has two degrees of freedom."""
    robust = numpy.array([(90, 84, 96), (80, 80, 80), *ROBUST.values()])
    right = numpy.arange(EXAMPLES) < robust[..., None]
    spread, freedom = residual_spread(right.mean(2))
    alone, together = compare(right[0], right[1]), compare_in_blocks(right[0], right[1], spread, freedom)
    assert freedom == 10 and together.estimate == alone.estimate == pytest.approx(0.05)
    # by hand: differences of 5, 2 and 8 points, whose standard error is 3 ** 0.5
    assert alone.p_value == pytest.approx(2 * stats.t.sf(5 / 3**0.5, 2)) and alone.p_value > 0.1
    assert together.p_value == pytest.approx(2 * stats.t.sf(0.05 / spread / (2 / 3) ** 0.5, 10))
    assert together.p_value < 0.02


# -- the planned comparisons


def test_the_comparisons_are_those_that_were_planned_each_once(results):
    tested, _ = made(results)
    found = {(*test.first, *test.second): test.kind for test in tested}
    assert found == {
        ("fbf", "kaf_elu_base", "fbf", "elu"): planned.NULL_MODEL,
        ("fbf", "swish", "fbf", "relu"): planned.CONTROL,
        ("fbf", "elu", "fbf", "relu"): planned.CONTROL,
        ("fbf", "kaf_elu_base", "fbf", "relu"): planned.CONTROL,
        ("fbf", "elu", "fbf", "swish"): planned.CONTROL,
        ("fbf", "kaf_elu_base", "fbf", "swish"): planned.CONTROL,
        ("fbf_layer", "kaf_elu_base", "fbf", "kaf_elu_base"): planned.VARIANT,
    }
    assert len(tested) == 2 * len(found)
    _, corrected = holm([test.found.p_value for test in tested])
    assert [test.corrected for test in tested] == pytest.approx(corrected)
    robust = {test.first + test.second: test for test in tested if test.quantity == "robustness"}
    assert robust["fbf", "swish", "fbf", "relu"].real
    assert not robust["fbf", "elu", "fbf", "relu"].real
    assert robust["fbf", "kaf_elu_base", "fbf", "elu"].found.estimate == pytest.approx(-65 / 3 / EXAMPLES)


def test_a_null_model_that_is_a_control_is_compared_once():
    settings = {**SETTINGS, "null_models": {"swish": "relu"}}
    found = planned.pairs(["fbf"], {"fbf": dict.fromkeys(["relu", "swish"])}, settings)
    assert found == [(("fbf", "swish"), ("fbf", "relu"), planned.NULL_MODEL)]


def test_networks_without_a_common_seed_are_an_error(tmp_path):
    built = Results(tmp_path)
    add(built, "fbf", "relu", 0, 80, 0)
    add(built, "fbf", "swish", 1, 80, 0)
    with pytest.raises(UserError, match="no seed in common"):
        made(built)


def fails(results, activation, seed, how):
    """A network as two seeds of it learned and one did not."""
    line = results.add(
        activation,
        {"clean": 20 if how == "at chance" else 150, "pgd": 10},
        experiment="fbf",
        seed=seed,
        overfitting="at_end" if how == "overfitted" else None,
    )
    edit_json(line["training_record"], parameters={"trainable": 75_000, "activation": 0})


@pytest.mark.parametrize("how", ["at chance", "overfitted"])
def test_what_did_not_learn_does_not_blur_the_others(results, how):
    before, _ = made(results)
    for seed in range(2):
        add(results, "fbf", "gelu", seed, 100 + seed, 0)
    fails(results, "gelu", 2, how)
    runs = manifest.read_manifest(results.manifest())
    settings = {**SETTINGS, "experiments": {**SETTINGS["experiments"]}}
    settings["experiments"]["fbf"] = {**SETTINGS["experiments"]["fbf"], "activations": [*ACTIVATIONS, "gelu"]}
    after = planned.planned(runs, summary.summarize(runs), "pgd", settings)
    found = {(test.first, test.second, test.quantity): test.found for test in after}
    assert {key: found[key] for key in found if "gelu" not in key[0]} == {
        (test.first, test.second, test.quantity): test.found for test in before
    }
    gelu, relu = (
        numpy.arange(EXAMPLES) < numpy.array(of)[:, None] for of in ((100, 101, 10), ROBUST["relu"])
    )
    assert found[("fbf", "gelu"), ("fbf", "relu"), "robustness"] == compare(gelu, relu)


# -- the page


def table(text, head):
    """The rows, as lists of cells, of the first table whose head begins with `head`."""
    (lines,) = re.findall(rf"^\| {head}.*\n((?:\|.*\n)+)", text, re.MULTILINE)[:1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()[1:]]


def test_the_page_says_what_the_records_say(results):
    _, text = made(results)
    rows = {row[0]: row[1:] for row in table(text, "Activation +\\| +Parameters")}
    # 192 s, 6 epochs of 16 steps
    assert rows["ReLU"] == ["0", "0.1", "**75.00** ± 0.00", "40.83 ± 1.04", "2000"]
    assert rows["Swish"][3] == "**61.50** ± 1.50" and rows["ELU+KAF"][0] == "5,040"
    compared = {row[0]: row[1:] for row in table(text, "Activation +\\| +− ReLU")}
    assert re.fullmatch(r"\*\*\+20\.7 \[\+1\d\.\d, \+2\d\.\d\]\*\*", compared["Swish"][1])
    assert "ReLU" not in compared and compared["Swish"][2:] == ["–", "–"]
    words = " ".join(text.split())
    assert "in robustness Swish +20.7 above it, ELU+KAF −10.0 below it, 1 of 3 not to" in words
    assert "**Against Swish**: in accuracy none above it, none below it" in words
    assert "15 trainings, 0.8 hours of training in all, on cpu; the last finished 2026-01-02" in words
    assert "1,000 training images of CIFAR-10, FBF (eps 8/255, step 10/255), 6 epochs of 16 steps" in words
    assert "ResNet8 (original block)" in words and "ELU+KAF: share layer" in words
    assert "96 updates by 1,000 images" in words and "3 seeds of each network" in words
    assert "One range for all, 0.001 to 0.1" in words
    assert table(text, "Pair")[0][0] == "ELU+KAF − ELU"
    assert "ELU+KAF (147 against 5040 parameters)" in text and "![Accuracy" in text
    assert "$" not in text and text.startswith("# The study of activations\n\nFor who")


def test_of_one_seed_nothing_is_said_of_seeds(tmp_path):
    built = Results(tmp_path)
    for activation in ("relu", "swish"):
        add(built, "fbf", activation, 0, ROBUST[activation][0], 0)
    experiments = {"fbf": {**SETTINGS["experiments"]["fbf"], "activations": ["relu", "swish"]}}
    _, text = made(built, {**SETTINGS, "run": ["fbf"], "variants": {}, "experiments": experiments})
    words = " ".join(text.split())
    assert "in percent, one seed." in words and "by McNemar's exact test" in words
    rows = {row[0]: row[1:] for row in table(text, "Activation +\\| +Parameters")}
    assert rows["Swish"][2:4] == ["**75.00**", "**60.00**"] and "nan" not in text
    assert "differs from another in this alone" in words and "None among these activations" in words


def test_ranges_of_their_own_and_a_network_at_chance_are_told(results):
    for seed in range(3):
        add(results, "fbf", "gelu", seed, 190, 0, learning_rate=[0.003, 0.3])
        line = results.lines[-1]
        evaluation = results._evaluation(
            {key: line[key] for key in ("experiment", "activation", "seed")},
            f"fbf/gelu/seed{seed}",
            *("pgd", 190, 20),
        )
        line["evaluations"]["pgd"] = evaluation
    settings = {**SETTINGS, "rates": ["low", "high"]}
    settings["experiments"] = {**SETTINGS["experiments"]}
    settings["experiments"]["fbf"] = {**SETTINGS["experiments"]["fbf"], "activations": [*ACTIVATIONS, "gelu"]}
    _, text = made(results, settings)
    rows = {row[0]: row[1:] for row in table(text, "Activation +\\| +Parameters")}
    assert rows["GELU ¶"][1] == "0.3" and rows["GELU ¶"][3] == "95.00 ± 0.00"
    assert rows["Swish"][3] == "**61.50** ± 1.50"  # nothing at chance is the best
    assert "¶ classifies no better than chance (10%)" in " ".join(text.split())
    assert "of those that 2 experiments of short trials tried" in " ".join(text.split())


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "workflow/scripts" / name, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def test_the_script_writes_page_and_comparisons(results, tmp_path):
    rows = summary.summarize(manifest.read_manifest(results.manifest()))
    summary.write_rows(tmp_path / "summary.csv", rows)
    done = script(
        "render_study.py",
        *("--summary", tmp_path / "summary.csv", "--manifest", tmp_path / "manifest.jsonl"),
        *("--settings", json.dumps(SETTINGS), "--template", ROOT / "workflow/resources/study.md"),
        *("--md", tmp_path / "study.md", "--csv", tmp_path / "study.csv"),
    )
    assert done.returncode == 0, done.stderr
    tested, text = made(results)
    assert (tmp_path / "study.md").read_text() == text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "study.csv").read_text())))
    assert len(rows) == len(tested) and float(rows[0]["difference"]) == 100 * tested[0].found.estimate


def test_the_page_in_the_documentation_is_that_of_the_newest_run(tmp_path):
    page = runpy.run_path(str(ROOT / "docs/study.py"))["page"]
    assert page(tmp_path) is None
    for day in ("01", "02"):
        folder = tmp_path / f"results/reference/activations-cpu-2026-01-{day}"
        folder.mkdir(parents=True)
        (folder / "study.md").write_text(f"{day} ![x](plots/fbf/tradeoff.png)")
        (folder / "README.md").write_text(f"On day {day}.")
    text = page(tmp_path)
    beside = "../results/reference/activations-cpu-2026-01-02/"
    assert text.startswith(f"02 ![x]({beside}plots/fbf/tradeoff.png)\n")
    assert text.endswith(f"[activations-cpu-2026-01-02]({beside}).\n\nOn day 02.")
    there = ROOT / "docs/study.md"
    assert page(ROOT) == (there.read_text() if there.exists() else None)


# -- learning rates


def tried(tmp_path, experiment, activation, high, accuracy):
    path = tmp_path / f"{experiment}_{activation}.json"
    last = None if accuracy is None else {"epoch": 4, "accuracy": 0.5, "pgd_accuracy": accuracy}
    record = {
        **{"experiment": experiment, "activation": activation, "seed": 3, "selection": {"last": last}},
        "settings": {"training": {"adversary": {"name": "fbf"}, "learning_rate": [high / 100, high]}},
    }
    write_json(path, record)
    return path


def test_each_activation_takes_the_range_that_made_it_most_robust(tmp_path):
    found = {"relu": (0.2, 0.25, 0.21), "kaf": (0.18, 0.12, 0.1), "elu": (0.2, 0.2, 0.1)}
    paths = [
        tried(tmp_path, name, activation, high, accuracies[number])
        for number, (name, high) in enumerate((("low", 0.03), ("middle", 0.1), ("high", 0.3)))
        for activation, accuracies in found.items()
    ]
    done = script("choose_rates.py", "--records", *reversed(paths), "--output", tmp_path / "rates.yaml")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "rates.yaml").read_text()
    chosen = yaml.safe_load(text)
    # of equal ones the smaller
    assert chosen["fbf"] == {"relu": [0.001, 0.1], "kaf": [0.0003, 0.03], "elu": [0.0003, 0.03]}
    assert "# 0.03: 20.0, 0.1: 25.0, 0.3: 21.0" in text


@pytest.mark.parametrize(
    ("accuracy", "names", "problem"),
    [(None, ("low",), "held no training images out"), (0.2, ("low", "again"), "was tried before")],
)
def test_what_cannot_be_chosen_from_is_told(tmp_path, accuracy, names, problem):
    paths = [tried(tmp_path, name, "relu", 0.1, accuracy) for name in names]
    done = script("choose_rates.py", "--records", *paths, "--output", tmp_path / "rates.yaml")
    assert done.returncode == 2 and problem in done.stderr and "Traceback" not in done.stderr


# -- the presets


def configured(name):
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, yaml.safe_load((ROOT / f"workflow/presets/{name}.yaml").read_text()))
    return config


@pytest.mark.parametrize(
    ("name", "networks", "tried"), [("activations_cpu", 84, 72), ("activations", 270, 96)]
)
def test_the_presets_compare_equals(name, networks, tried):
    config = configured(name)
    grid, experiments = Grid(config), config["experiments"]
    assert len(grid.cells) == networks and len(grid.rates_records()) == tried
    assert grid.study == [f"{config['output']}/study.md", f"{config['output']}/study.csv"]
    assert not {cell[2] for cell in grid.cells} & {max(config["seeds"]) + 1}
    # nothing but learning rates differs between the activations of an experiment, and each was tried
    for experiment in config["run"]:
        training = experiments[experiment]["training"]
        alike = [experiments[n]["training"] for n in config["study"]["rates"]]
        alike = [one for one in alike if one["adversary"] == training["adversary"]]
        found = [one["learning_rate"]["default"] for one in alike]
        assert len(found) == 3 and all(rates in found for rates in training["learning_rate"].values())
    for variant, root in config["study"]["variants"].items():
        of_variant, of_root = ({**experiments[n]} for n in (variant, root))
        assert set(of_variant.pop("activations")) < set(of_root.pop("activations"))
        assert of_variant.pop("activation_arguments") and not of_root.pop("activation_arguments")
        assert of_variant.pop("title") != of_root.pop("title") and of_variant == of_root
    assert study_settings(config)["run"] == config["run"]
    only = {**config, "run": config["study"]["rates"]}
    assert Grid(only).study == []
