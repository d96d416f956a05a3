"""The LaTeX tables compile in a minimal document, with nothing running into the margin."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from kafnets.report import (
    detection_table,
    detections,
    differences,
    manifest,
    statistics,
    summary,
    tables,
    typesetting,
)

from tests.unit.detection_builder import SETTINGS, write_all

PUBLISHED = Path(__file__).parents[2] / "workflow" / "resources" / "thesis_results.yaml"
ATTACK = {"eps": "8/255", "step": "2/255", "iterations": 50, "restarts": 10}
ATTACKS = {
    "pgd": {"method": "pgd", **ATTACK},
    "thesis_pgd": {"method": "thesis_pgd", **ATTACK},
    "fgsm_1": {"method": "fgsm", "eps": "8/255"},
}
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-recommended)"
)


def row(activation, seed, attack, accuracy, overfitting):
    return {
        "experiment": "vgg",
        "dataset": "cifar10",
        "activation": activation,
        "seed": seed,
        "attack": attack,
        "method": ATTACKS.get(attack, {"method": "clean"})["method"],
        "examples": 10_000,
        "accuracy": accuracy,
        "clean_accuracy": 0.7,
        "catastrophic_overfitting": overfitting,
        "correct": round(accuracy * 10_000),
        "trainable_parameters": 551_000,
        "evaluation_seconds": 1234.5,
        "queries": 10,
        "zero_gradient_fraction": 0.0,
        "random": 0,
        "eps": "8/255",
    }


def check_it_compiles(tmp_path, table):
    (tmp_path / "table.tex").write_text(DOCUMENT % typesetting.to_tex(table))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 0
    assert "Overfull \\hbox" not in done.stdout, done.stdout


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("reference", [None, "vgg"])
@pytest.mark.parametrize("attacks", [["pgd"], ["pgd", "thesis_pgd"], ["pgd", "thesis_pgd", "fgsm_1"]])
def test_the_table_compiles_without_an_overfull_line(tmp_path, seeds, reference, attacks):
    activations = ["relu", "elu", "kaf", "kaf_relu", "kaf_swish"]
    rows = summary.as_frame(
        [
            row(name, seed, attack, 0.7 - 0.01 * i - 0.001 * seed, ["none", "at_end", "recovered"][i % 3])
            for i, name in enumerate(activations[:-1])
            for seed in range(seeds)
            for attack in ["clean", *attacks]
        ]
    )
    settings = {
        "title": "A_title & 100% {of} #what$ LaTeX~minds^\\",
        "activations": activations,
        "reference": reference,
        "headline": "pgd",
        "attacks": ATTACKS,
    }
    table = tables.build(rows, "vgg", settings, manifest.read_published(PUBLISHED, reference))
    check_it_compiles(tmp_path, table)


@pytest.mark.parametrize("attacks", [["pgd", "thesis_pgd"], ["pgd", "thesis_pgd", "fgsm_1"]])
def test_two_experiments_side_by_side_fit_too(tmp_path, attacks):
    rows = summary.as_frame(
        [
            {**row(name, 0, attack, 0.5123, None), "experiment": experiment}
            for experiment in ("vgg", "vgg_float16")
            for name in ("kaf_swish", "kaf_free")
            for attack in ["clean", *attacks]
        ]
    )
    settings = {
        "title": "ResNet20 of the thesis",
        "activations": ["kaf_swish", "kaf_free"],
        "reference": "vgg",
        "headline": "pgd",
        "attacks": ATTACKS,
        "weights": "published",
        "beside": {"experiment": "vgg_float16", "title": "Float16"},
    }
    table = tables.build(rows, "vgg", settings, manifest.read_published(PUBLISHED, "vgg"))
    check_it_compiles(tmp_path, table)


ACTIVATIONS = ["relu", "elu", "kaf", "kaf_relu", "kaf_elu", "swish", "kaf_swish", "kaf_free"]


def test_every_difference_of_the_thesis_table_fits(tmp_path):
    names = itertools.combinations(ACTIVATIONS, 2)
    found = statistics.Difference(-0.1234, -0.2345, 0.0123, 0.01)
    tested = [
        differences.Tested(*pair, quantity, 3, found, 0.05, quantity == "accuracy")
        for pair in names
        for quantity in differences.QUANTITIES
    ]
    check_it_compiles(tmp_path, tables.of_differences(tested, "vgg", {"title": "VGG_& 100%"}))


def test_every_attack_on_the_thesis_table_fits(tmp_path):
    attacks = {f"a_long_name_of_attack_{i}": ATTACKS["pgd"] for i in range(15)}
    rows = summary.as_frame(
        [row(name, 0, attack, 0.5123, None) for name in ACTIVATIONS for attack in [*attacks, "worst_case"]]
    )
    settings = {
        "title": "ResNet20 of the thesis",
        "activations": ACTIVATIONS,
        "attacks": attacks,
        "worst_case": list(attacks),
    }
    check_it_compiles(tmp_path, tables.by_attack(rows, "vgg", settings))


def test_the_tables_of_detectors_compile(tmp_path):
    paths = write_all(tmp_path, ("kaf_elu_base", "lipschitz_spline"))
    guarded = detections.guarded([detections.read(path) for path in paths], SETTINGS)
    for build in (detection_table.build, detection_table.of_attacks):
        check_it_compiles(tmp_path, build(guarded, SETTINGS))
