"""The tables say what the summary says, mark what is best and explain themselves."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from kafnets.report import manifest, marks, summary, tables, typesetting
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256
from record_builders import ATTACKS, Results, edit_json
from safetensors.numpy import save_file

WORKFLOW = Path(__file__).parents[2] / "workflow"
PUBLISHED = WORKFLOW / "resources" / "thesis_results.yaml"
SETTINGS = {
    "title": "VGG",
    "activations": ["relu", "elu", "kaf", "kaf_relu"],
    "reference": "vgg",
    "headline": "pgd",
    "attacks": {name: ATTACKS[name] for name in ("pgd", "thesis_pgd")},
}


@pytest.fixture
def results(tmp_path):
    built = Results(tmp_path)
    built.add("relu", {"clean": 150, "pgd": 80, "thesis_pgd": 84})
    built.add("elu", {"clean": 140, "pgd": 92, "thesis_pgd": 95}, overfitting="recovered")
    built.add("kaf", {"clean": 160, "pgd": 8}, overfitting="at_end")
    return built


def build(results, **settings):
    rows = summary.summarize(manifest.read_manifest(results.manifest()))
    settings = {**SETTINGS, **settings}
    published = manifest.read_published(PUBLISHED, settings["reference"])
    return tables.build(rows, "vgg", settings, published)


def body(table, intervals=False):
    """The rows of the Markdown table as lists of cells, with or without their intervals."""
    text = typesetting.to_markdown(table)
    if not intervals:
        text = re.sub(r" \([0-9.]+–[0-9.]+\)", "", text)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_rows_are_the_activations_in_the_settings_order(results):
    head, _, *rows = body(build(results))
    assert head == [
        "Activation",
        "Accuracy",
        "Robustness",
        "Robustness (thesis protocol)",
        "Published accuracy",
        "Published robustness",
    ]
    assert rows == [
        ["ReLU", "75.00", "40.00", "42.00", "78.10", "45.41"],
        ["ELU ‡", "*70.00*", "***46.00***", "**47.50**", "73.99", "45.49"],
        ["KAF †", "**80.00**", "4.00", "–", "*77.93*", "*46.80*"],
        ["KAF_ReLU", "–", "–", "–", "–", "–"],
    ]


def test_without_a_reference_there_is_no_published_column(results):
    head, *_ = body(build(results, reference=None))
    assert head == ["Activation", "Accuracy", "Robustness", "Robustness (thesis protocol)"]
    assert "Published" not in build(results, reference=None).caption


def test_an_attack_that_was_not_run_has_no_column(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    head, _, row, *_ = body(build(results, reference=None, activations=["relu"]))
    assert head == ["Activation", "Accuracy", "Robustness"]
    assert row == ["ReLU", "75.00", "40.00"], "a single row is not the best of anything"


def test_the_accuracy_is_the_headlines_clean_one_when_no_clean_evaluation_was_run(results):
    for line in results.lines:
        line["evaluations"].pop("clean")
    assert body(build(results))[2][1] == "75.00"


def test_equal_numbers_are_marked_alike(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    results.add("elu", {"clean": 150, "pgd": 70})
    rows = body(build(results, activations=["relu", "elu"], reference=None))[2:]
    assert [row[1] for row in rows] == ["***75.00***", "**75.00**"]


def test_mean_and_deviation_over_seeds_are_printed_and_explained(tmp_path):
    results = Results(tmp_path)
    for seed, correct in enumerate((80, 90, 100)):
        results.add("relu", {"clean": 150, "pgd": correct}, seed=seed)
    results.add("elu", {"clean": 140, "pgd": 70})
    table = build(results, activations=["relu", "elu"])
    rows = body(table)[2:]
    assert rows[0][1:3] == ["***75.00*** ± 0.00", "***45.00*** ± 5.00"]
    assert rows[1][1:3] == ["70.00", "35.00"]
    assert "mean ± sample standard deviation over n = 3 seeds (ELU 1)" in table.caption
    assert r"\underline{\textbf{45.00}}{\scriptsize\,$\pm$\,5.00}" in typesetting.to_tex(table)


def test_the_caption_says_what_the_columns_are(results):
    caption = build(results).caption
    for part in (
        "VGG: accuracy and robustness in percent",
        "Accuracy: correct on 200 test images of CIFAR-10 without an attack.",
        "one seed",
        "under every random restart of PGD against the true labels",
        "(L∞, ε = 8/255, step 2/255, 50 iterations, 10 random restarts), on 200 test images",
        "Robustness (thesis protocol)",
        "the model's own prediction",
        "Published: F. Peconi",
        "Underlined: best trade-off, the highest harmonic mean",
        "–: not run",
        "† the training ended in catastrophic overfitting",
        "‡ the training went through catastrophic overfitting",
    ):
        assert part in caption


def test_no_dagger_is_explained_when_none_is_printed(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    assert "catastrophic" not in build(results, activations=["relu"]).caption


def test_a_network_at_chance_is_not_the_best_of_anything_and_has_a_mark(tmp_path):
    """It names one class for every image, which no attack changes: a tenth of the images are "robust"."""
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 12})
    results.add("elu", {"clean": 22, "pgd": 22})
    results.add("kaf", {"clean": 140, "pgd": 10})
    table = build(results, reference=None, activations=["relu", "elu", "kaf"])
    assert [row[:3] for row in body(table)[2:]] == [
        ["ReLU", "***75.00***", "***6.00***"],
        ["ELU ¶", "11.00", "11.00"],
        ["KAF", "70.00", "5.00"],
    ]
    assert "¶ classifies no better than chance (10%)" in table.caption
    assert r"ELU$^\P$" in typesetting.to_tex(table).replace(" ", "")
    assert [record["marks"] for record in table.records] == ["", "chance", ""]
    nothing = build(results, reference=None, activations=["elu"])
    assert "*" not in typesetting.to_markdown(nothing), "the only one is at chance"


def changed(results, line, attack, **figures):
    """Other figures in one record of the results."""
    edit_json(results.lines[line]["evaluations"][attack]["record"], **figures)


def test_a_vanished_gradient_is_not_the_best_of_anything_and_has_a_mark(tmp_path):
    """What an attack cannot move may look robust: saturated outputs."""
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    results.add("elu", {"clean": 160, "pgd": 150})
    results.add("kaf", {"clean": 140, "pgd": 60})
    for attack in ("clean", "pgd"):
        changed(results, 1, attack, zero_gradient_fraction=0.9)
        changed(results, 2, attack, zero_gradient_fraction=0.01)  # two of 200: as many as its bound explains
    table = build(results, reference=None, activations=["relu", "elu", "kaf"])
    assert [row[:3] for row in body(table)[2:]] == [
        ["ReLU", "***75.00***", "***40.00***"],
        ["ELU ‖", "80.00", "75.00"],
        ["KAF", "70.00", "30.00"],
    ]
    assert "‖ the cross-entropy has no gradient" in table.caption and "(ELU: 90%)" in table.caption
    assert r"ELU$^\Vert$" in typesetting.to_tex(table).replace(" ", "")
    assert [record["marks"] for record in table.records] == ["", "no_gradient", ""]


def test_a_random_network_judged_by_one_draw_has_a_mark(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    results.add("elu", {"clean": 160, "pgd": 90})
    changed(results, 1, "pgd", random=True)
    table = build(results, reference=None, activations=["relu", "elu"])
    assert [row[0] for row in body(table)[2:]] == ["ReLU", "ELU ♯"] and "eot_samples" in table.caption


def test_one_seed_at_chance_marks_the_row_which_is_the_best_of_nothing(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80}, seed=0)
    results.add("relu", {"clean": 20, "pgd": 20}, seed=1)
    results.add("elu", {"clean": 60, "pgd": 20})
    rows = body(build(results, reference=None, activations=["relu", "elu"]))[2:]
    assert rows[0][:3] == ["ReLU ¶", "42.50 ± 45.96", "25.00 ± 21.21"]
    assert rows[1][:3] == ["ELU", "***30.00***", "***10.00***"]


def test_the_csv_holds_plain_numbers(results):
    rows = list(csv.DictReader(io.StringIO(typesetting.to_csv(build(results)))))
    assert rows[0] == {
        "activation": "relu",
        "label": "ReLU",
        "catastrophic_overfitting": "none",
        "marks": "",
        "accuracy": "75.00",
        "accuracy_std": "",
        "accuracy_seeds": "1",
        "accuracy_low": "68.57",
        "accuracy_high": "80.49",
        "robustness": "40.00",
        "robustness_std": "",
        "robustness_seeds": "1",
        "robustness_low": "33.46",
        "robustness_high": "46.92",
        "thesis_pgd": "42.00",
        "thesis_pgd_std": "",
        "thesis_pgd_seeds": "1",
        "thesis_pgd_low": "35.37",
        "thesis_pgd_high": "48.93",
        "published_accuracy": "78.10",
        "published_robustness": "45.41",
    }
    assert rows[3]["accuracy"] == "" and rows[3]["accuracy_seeds"] == "0"


def test_every_character_with_a_meaning_in_latex_is_escaped():
    assert typesetting.tex("a_b & 5% {x} #1 $ ~ ^ \\") == (
        r"a\_b \& 5\% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_every_mark_has_a_sign_of_its_own_that_latex_can_set():
    signs = [mark.sign for mark in marks.MARKS]
    assert len(set(signs)) == len(signs)
    assert all(typesetting.tex(sign).isascii() for sign in signs)


def test_the_published_numbers_are_the_slides():
    vgg, resnet20 = (manifest.read_published(PUBLISHED, name) for name in ("vgg", "resnet20"))
    assert len(vgg["results"]) == 7 and "kaf_relu" not in vgg["results"]
    assert len(resnet20["results"]) == 8
    assert resnet20["results"]["swish"] == {"accuracy": 78.68, "robustness": 53.88}
    for published in (vgg, resnet20):
        for quantity in ("accuracy", "robustness"):
            best = max(published["results"], key=lambda name: published["results"][name][quantity])
            assert best == published["marks"][quantity]


def test_an_unknown_reference_is_refused():
    with pytest.raises(UserError, match="no results for 'alexnet'; choose one of vgg, resnet20 or null"):
        manifest.read_published(PUBLISHED, "alexnet")


def test_a_reference_without_its_file_is_refused():
    with pytest.raises(UserError, match="needs --published"):
        manifest.read_published(None, "vgg")


def test_the_scripts_write_and_print_the_table(results, tmp_path):
    summary.write_rows(tmp_path / "s.csv", summary.summarize(manifest.read_manifest(results.manifest())))
    folder = tmp_path / "out" / "tables"
    scripts = WORKFLOW / "scripts"
    command = [sys.executable, scripts / "render_tables.py", "--summary", tmp_path / "s.csv"]
    command += ["--manifest", results.manifest(), "--output", folder]
    command += ["--experiment", "vgg", "--settings", json.dumps(SETTINGS), "--published", PUBLISHED]
    subprocess.run(command, check=True)
    runs = manifest.read_manifest(results.manifest())
    published = manifest.read_published(PUBLISHED, "vgg")
    texts = tables.texts(summary.summarize(runs), runs, "vgg", SETTINGS, published)
    assert len(texts) == 12
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        f"vgg{suffix}": text for suffix, text in texts.items()
    }
    assert texts[".csv"] == typesetting.to_csv(build(results))

    printed = print_tables(tmp_path / "out").stdout
    assert not re.search("<[a-z/]", printed), "HTML in a terminal"
    assert texts["_differences.md"] in printed
    assert printed.index("vgg_differences") < printed.index(texts[".md"])
    assert f"{tmp_path / 'out' / 'tables'}/" in printed


def print_tables(output, *arguments):
    command = [sys.executable, WORKFLOW / "scripts" / "print_tables.py", "--output", output, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_of_one_activation_there_is_no_table_of_differences_and_nothing_is_the_best(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80})
    runs = manifest.read_manifest(results.manifest())
    settings = {**SETTINGS, "activations": ["relu"], "reference": None}
    (tmp_path / "out" / "tables").mkdir(parents=True)
    texts = tables.texts(summary.summarize(runs), runs, "vgg", settings)
    assert {suffix.partition(".")[0] for suffix in texts} == {"", "_attacks"}
    assert "Bold" not in texts[".tex"] and "best trade-off" not in texts[".tex"]
    for suffix, text in texts.items():
        (tmp_path / "out" / "tables" / f"vgg{suffix}").write_text(text)
    printed = print_tables(tmp_path / "out").stdout
    assert "differences" not in printed and printed.index("vgg_attacks") < printed.index("| Activation |")


def test_printed_into_a_pipe_that_is_not_read_it_ends_quietly(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "vgg.md").write_text("| a |\n|---|\n| 1 |\n" * 10_000)
    script = f"{sys.executable} {WORKFLOW}/scripts/print_tables.py --output {tmp_path}"
    command = ["bash", "-c", f"{script} | head -n 2; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "\nvgg\n141\n" and done.stderr == ""


def test_without_an_output_the_tables_of_results_are_printed(tmp_path):
    command = [sys.executable, WORKFLOW / "scripts" / "print_tables.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(
        "error: results/tables: no table yet; run snakemake"
    )


def test_published_weights_and_what_stands_beside_them(tmp_path):
    """Two experiments on the same weights, none of them trained: one table."""
    results = Results(tmp_path)
    results.add("relu", {"clean": 156, "pgd": 78, "thesis_pgd": 100}, published=True)
    results.add("kaf", {"clean": 158, "pgd": 80, "thesis_pgd": 102}, published=True)
    results.add("kaf", {"clean": 157, "pgd": 84, "thesis_pgd": 104}, experiment="half", published=True)
    beside = {"experiment": "half", "title": "Float16"}
    table = build(results, activations=["relu", "kaf"], weights="published", beside=beside)
    head, _, *rows = body(table)
    assert head[4:7] == ["Float16 accuracy", "Float16 robustness", "Float16 robustness (thesis protocol)"]
    assert rows == [
        ["ReLU", "78.00", "39.00", "50.00", "–", "–", "–", "78.10", "45.41"],
        [
            "KAF",
            *("***79.00***", "***40.00***", "**51.00**"),
            *("78.50", "42.00", "52.00"),
            *("*77.93*", "*46.80*"),
        ],
    ]
    head = typesetting.to_csv(table).splitlines()[0].split(",")
    assert len(head) == len(set(head)) and "half_robustness" in head
    assert r"\multicolumn{3}{c}{Float16}" in typesetting.to_tex(table)
    for said in ("nothing was trained here", "Float16: the same weights", "noise in its way"):
        assert said in table.caption
    alone = build(results, activations=["relu", "kaf"], weights="published", beside={})
    assert "Float16" not in typesetting.to_tex(alone)


def test_a_number_of_one_seed_has_its_interval_beside_it(results):
    rows = body(build(results), intervals=True)[2:]
    assert rows[0][1:4] == ["75.00 (68.6–80.5)", "40.00 (33.5–46.9)", "42.00 (35.4–48.9)"]
    assert r"\shortstack[r]{75.00\\[-2pt]{\tiny 68.6--80.5}}" in typesetting.to_tex(build(results))
    assert "Wilson 95% interval" in build(results).caption


# -- several attacks


@pytest.fixture
def attacked(tmp_path, monkeypatch):
    """Two networks under three attacks, two of which are merged into the worst case."""
    monkeypatch.setitem(ATTACKS, "square", {"method": "square", "eps": "8.0/255", "queries": 100})
    monkeypatch.setitem(ATTACKS, "far", {"method": "fgsm", "eps": "16/255"})
    built = Results(tmp_path)
    for activation, counts in (("relu", (80, 90, 40)), ("elu", (92, 85, 50))):
        built.add(activation, {"clean": 150, "pgd": counts[0], "square": counts[1], "far": counts[2]})
        built.lines[-1]["worst_case"] = ["pgd", "square"]
    # relu's square attack finds images of which pgd fooled none
    files = built.lines[0]["evaluations"]["square"]
    robust = numpy.zeros(200, numpy.uint8)
    robust[:60] = robust[100:130] = 1
    save_file({"robust": robust, "clean": numpy.ones(200, numpy.uint8)}, files["verdicts"])
    edit_json(files["record"], verdicts_sha256=sha256(files["verdicts"]), clean_accuracy=1.0)
    return built


OF_ATTACKED = {
    "reference": None,
    "activations": ["relu", "elu"],
    "attacks": {
        "clean": {"method": "clean"},
        "pgd": ATTACKS["pgd"],
        "square": {"method": "square", "eps": "8.0/255", "queries": 100},
        "far": {"method": "fgsm", "eps": "16/255"},
    },
    "worst_case": ["pgd", "square"],
}


def test_the_worst_case_has_a_column_and_may_be_the_headline(attacked):
    table = build(attacked, **OF_ATTACKED)
    head, _, *rows = body(table)
    assert head == ["Activation", "Accuracy", "Robustness", "Worst case", "Under square", "Under far"]
    assert rows[0][2:] == ["40.00", "30.00", "**45.00**", "20.00"]
    assert rows[1][2:] == ["***46.00***", "**42.50**", "42.50", "**25.00**"]
    said = "Worst case: still correct under every one of pgd, square against the true labels (L∞, ε = 8/255)"
    assert said in table.caption
    headline = build(attacked, **{**OF_ATTACKED, "headline": "worst_case"})
    head, _, *rows = body(headline)
    assert head == ["Activation", "Accuracy", "Robustness"], "more attacks than have columns"
    assert [row[2] for row in rows] == ["30.00", "***42.50***"]
    assert "Robustness: still correct under every one of pgd, square" in headline.caption


def test_the_table_of_attacks(attacked):
    rows = summary.summarize(manifest.read_manifest(attacked.manifest()))
    table = tables.by_attack(rows, "vgg", {**SETTINGS, **OF_ATTACKED})
    assert [column.head for column in table.columns] == ["Attack", "ReLU", "ELU", "s"]
    assert [cell.text for cell in table.rows[-1]] == ["worst_case", "30.00", "42.50", "6"]
    rule = typesetting.to_markdown(table).splitlines()[1]
    assert all(re.fullmatch(" -+:? ", cell) for cell in rule.strip("|").split("|")), rule
    assert [record["attack"] for record in table.records] == ["clean", "pgd", "square", "far", "worst_case"]
    assert table.records[1] == {
        **{"attack": "pgd", "method": "pgd", "eps": "8/255", "examples": 200},
        **{"relu": "40.00", "elu": "46.00", "seconds": "3.2", "queries": 1000},
    }
