"""The table of differences, on verdicts whose tests can be done by hand."""

import csv
import io

import numpy
import pytest
from kafnets.report import captions, differences, manifest, tables, typesetting
from kafnets.report.statistics import compare, holm
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256
from record_builders import EXAMPLES, Results, edit_json, first
from safetensors.numpy import save_file
from scipy.stats import binom

SETTINGS = {"title": "VGG", "activations": ["relu", "elu", "kaf"], "headline": "pgd"}


@pytest.fixture
def results(tmp_path):
    built = Results(tmp_path)
    built.add("relu", {"clean": 150, "pgd": 80})
    built.add("elu", {"clean": 150, "pgd": 84})
    built.add("kaf", {"clean": 160, "pgd": 110})
    return built


def of(results, **settings):
    runs = manifest.read_manifest(results.manifest())
    return differences.differences(runs, {**SETTINGS, **settings})


def test_every_pair_is_tested_and_corrected_over_the_table(results):
    found = {(test.first, test.second, test.quantity): test for test in of(results)}
    assert len(found) == 6
    # verdicts of the builder are nested: all disagreements are on one side, so p = 2 * 0.5 ** n
    expected = {
        ("relu", "elu", "accuracy"): 1.0,
        ("relu", "kaf", "accuracy"): 2 * binom.cdf(0, 10, 0.5),
        ("elu", "kaf", "accuracy"): 2 * binom.cdf(0, 10, 0.5),
        ("relu", "elu", "robustness"): 2 * binom.cdf(0, 4, 0.5),
        ("relu", "kaf", "robustness"): 2 * binom.cdf(0, 30, 0.5),
        ("elu", "kaf", "robustness"): 2 * binom.cdf(0, 26, 0.5),
    }
    assert {key: test.found.p_value for key, test in found.items()} == pytest.approx(expected)
    _, corrected = holm([test.found.p_value for test in found.values()])
    assert [test.corrected for test in found.values()] == pytest.approx(corrected)
    # by hand: six tests, the fifth smallest p is multiplied by two
    assert found["relu", "elu", "robustness"].corrected == pytest.approx(2 * 0.125)
    assert [key for key, test in found.items() if not test.real] == [
        ("relu", "elu", "accuracy"),
        ("relu", "elu", "robustness"),
    ]
    test = found["relu", "kaf", "robustness"]
    assert test.found.estimate == pytest.approx(-0.15) and test.found.low < -0.15 < test.found.high < 0


def test_the_caption_of_the_main_table_says_it_in_one_sentence(results):
    assert captions.differences_in_one_sentence(of(results)) == (
        "Of the 3 differences in robustness 2 are real at the 5% level after Holm's correction: "
        "KAF above ReLU, KAF above ELU; of those in accuracy 2."
    )
    assert captions.differences_in_one_sentence([]) == ""


def test_the_table_marks_what_is_real(results):
    table = tables.of_differences(of(results), "vgg", SETTINGS)
    assert [row[0].text for row in table.rows] == ["ReLU − ELU", "ReLU − KAF", "ELU − KAF"]
    assert table.rows[0][1].text.startswith("+0.00 [") and table.rows[0][2] == typesetting.Cell("1.000")
    assert table.rows[1][3].text.startswith("−15.00 [−") and table.rows[1][3].bold
    assert table.rows[1][4] == typesetting.Cell("< 0.001", bold=True)
    assert "exact McNemar" in table.caption and "bootstrap over seeds and images" not in table.caption
    rows = list(csv.DictReader(io.StringIO(typesetting.to_csv(table))))
    assert len(rows) == 6 and rows[1]["difference"] == "-5.00" and rows[1]["real"] == "true"
    assert "**−15.00" in typesetting.to_markdown(table)
    assert r"\textbf{$-$15.00" in typesetting.to_tex(table)


def test_the_headline_may_be_the_worst_case(results):
    results.add("elu", {"clean": 150, "pgd": 70}, seed=1)
    for line in results.lines:
        line["worst_case"] = ["pgd", "clean"]
    worst = of(results, headline="worst_case")
    assert [test.found for test in worst] == [test.found for test in of(results)]


def test_missing_verdicts_leave_their_activation_out_or_are_refused(results):
    files = results.lines[0]["evaluations"]["pgd"]
    save_file({"robust": first(81), "clean": first(150)}, files["verdicts"])
    with pytest.raises(UserError, match="checksum"):
        of(results)
    runs = manifest.read_manifest(results.manifest())
    left = differences.differences(runs, SETTINGS, missing=[])
    assert {(test.first, test.second) for test in left} == {("elu", "kaf")}
    edit_json(files["record"], verdicts_sha256=sha256(files["verdicts"]), correct=81, accuracy=81 / EXAMPLES)
    assert len(of(results)) == 6


def test_seeds_are_paired_and_only_common_ones_compared(results):
    for seed, (relu, kaf) in enumerate([(78, 101), (82, 108), (79, 99)], 1):
        results.add("relu", {"clean": 150, "pgd": relu}, seed=seed)
        results.add("kaf", {"clean": 150, "pgd": kaf}, seed=seed)
    found = {(test.first, test.second): test for test in of(results) if test.quantity == "robustness"}
    assert found["relu", "kaf"].seeds == 4 and found["relu", "elu"].seeds == 1
    assert found["relu", "kaf"].found.estimate == pytest.approx(-(30 + 23 + 26 + 20) / 4 / EXAMPLES)
    caption = captions.differences(of(results), "VGG")
    assert "exact McNemar" in caption and "for 4 seeds the paired bootstrap over seeds" in caption


def test_three_seeds_that_agree_by_chance_are_no_proof():
    """No true difference, seeds that vary: the test keeps its level, which the bootstrap alone would not."""
    generator = numpy.random.default_rng(0)
    false = 0
    for _ in range(200):
        levels = generator.normal(0.5, 0.03, size=(2, 3, 1))
        first_, second_ = generator.random((2, 3, 400)) < levels
        false += compare(first_, second_).p_value < 0.05
    assert false <= 0.09 * 200


def test_equal_networks_over_seeds():
    same = numpy.random.default_rng(0).random((3, 50)) < 0.5
    found = compare(same, same)
    assert (found.estimate, found.low, found.high, found.p_value) == (0, 0, 0, 1)
