"""summary.csv holds exactly what the manifest's records say, and nothing from a stale or damaged one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pandas
import pytest
from kafnets.report import manifest, summary
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256, write_sealed
from record_builders import EXAMPLES, Results, edit_json, first
from safetensors.numpy import save_file

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "aggregate.py"


@pytest.fixture
def results(tmp_path):
    built = Results(tmp_path)
    built.add("relu", {"clean": 150, "pgd": 80})
    built.add("kaf", {"clean": 160, "pgd": 90}, overfitting="at_end")
    return built


def rows_of(results, missing=None):
    return summary.summarize(manifest.read_manifest(results.manifest()), missing)


def cells(rows):
    return list(zip(rows["activation"], rows["attack"], strict=True))


def aggregate(results, *arguments):
    command = [sys.executable, SCRIPT, "--manifest", results.manifest(), "--output", results.folder / "s.csv"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def test_one_row_a_run_and_attack_in_the_manifests_order(results):
    rows = rows_of(results)
    assert cells(rows) == [("relu", "clean"), ("relu", "pgd"), ("kaf", "clean"), ("kaf", "pgd")]
    assert list(rows) == list(summary.COLUMNS)
    pgd = rows.iloc[3]
    assert (pgd["correct"], pgd["examples"], pgd["accuracy"]) == (90, EXAMPLES, 0.45)
    assert pgd["clean_accuracy"] == 0.8
    assert (pgd["eps"], pgd["adversary"], pgd["catastrophic_overfitting"]) == ("8/255", "fbf", "at_end")


def test_rows_survive_the_csv_file_with_their_types(results, tmp_path):
    rows = rows_of(results)
    rows.loc[0, "adversary"] = "NA"  # a text like any other
    rows["training_seconds"] = [0.1 + 0.2, 1 / 3, 1.7976931348623157e308, float("nan")]
    rows["evaluation_seconds"] = numpy.random.default_rng(0).random(4) * [1e-9, 1, 1e9, 1e300]
    summary.write_rows(tmp_path / "summary.csv", rows)
    pandas.testing.assert_frame_equal(summary.read_rows(tmp_path / "summary.csv"), rows, check_exact=True)
    assert summary.read_rows(tmp_path / "summary.csv", "resnet20").empty
    head, first_line, *_ = (tmp_path / "summary.csv").read_text().splitlines()
    assert head.startswith("experiment,architecture,dataset,activation,seed,attack,method,eps,examples")
    assert first_line.startswith(
        "vgg,vgg,cifar10,relu,0,clean,clean,,200,150,0.75,0.75,551000,0.30000000000000004,"
    )


def test_records_that_the_manifest_does_not_list_are_not_read(results):
    results.add("elu", {"clean": 10})
    results.lines.pop()
    assert set(rows_of(results)["activation"]) == {"relu", "kaf"}


def test_a_record_with_other_settings_is_refused_with_file_and_key(results):
    pgd = results.lines[0]["evaluations"]["pgd"]
    pgd["settings"] = {**pgd["settings"], "iterations": 10}
    with pytest.raises(UserError, match=r"relu/seed0/pgd\.json.*iterations is 50 in the record, 10 in the"):
        rows_of(results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 7}, "training.epochs is 6 in the record, 7 in the configuration"),
        ({"momentum": 0.9}, "training.momentum is not in the record, 0.9 in the configuration"),
    ],
)
def test_a_training_with_other_settings_is_refused(results, change, message):
    settings = results.lines[1]["training_settings"]
    results.lines[1]["training_settings"] = {**settings, "training": {**settings["training"], **change}}
    with pytest.raises(UserError, match=rf"kaf/seed0/record\.json.*{message}"):
        rows_of(results)


def test_a_setting_that_only_the_record_has_is_a_difference(results):
    results.lines[0]["training_settings"].pop("architecture")
    with pytest.raises(UserError, match="architecture is 'vgg' in the record, not in the configuration"):
        rows_of(results)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "training"}, "kind is 'training' where 'evaluation' belongs"),
        ({"seed": 3}, "seed is 3 where 0 belongs"),
        ({"attack": "fgsm"}, "attack is 'fgsm' where 'pgd' belongs"),
        ({"examples": None}, "lacks examples"),
        ({"correct": 81}, "says 81 correct, its verdicts 80"),
        ({"accuracy": 0.5}, "accuracy is 0.5, its verdicts say 80/200"),
        ({"clean_accuracy": 0.5}, "clean_accuracy is 0.5, its verdicts say 150/200"),
        ({"verdicts_sha256": "0"}, r"pgd\.safetensors: its checksum is not the one in"),
        ({"model_sha256": "other"}, "evaluated other weights"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(results, changes, message):
    edit_json(results.lines[0]["evaluations"]["pgd"]["record"], **changes)
    with pytest.raises(UserError, match=message):
        rows_of(results)


def test_damaged_verdicts_are_refused(results):
    verdicts = Path(results.lines[0]["evaluations"]["pgd"]["verdicts"])
    content = bytearray(verdicts.read_bytes())
    content[-1] ^= 1
    verdicts.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        rows_of(results)


def test_verdicts_of_another_length_are_refused(results):
    pgd = results.lines[0]["evaluations"]["pgd"]
    save_file({"robust": first(80)[:100], "clean": first(150)[:100]}, pgd["verdicts"])
    edit_json(pgd["record"], verdicts_sha256=sha256(pgd["verdicts"]))
    with pytest.raises(UserError, match="does not hold 200 'robust' verdicts"):
        rows_of(results)


def test_partial_lists_what_is_missing_or_stale_and_keeps_the_rest(results):
    Path(results.lines[1]["training_record"]).unlink()
    results.lines[0]["evaluations"]["pgd"]["settings"] = {"method": "pgd"}
    done = aggregate(results, "--partial", results.folder / "missing.txt")
    assert done.returncode == 0, done.stderr
    rows = summary.read_rows(results.folder / "s.csv")
    assert cells(rows) == [("relu", "clean")]
    missing = (results.folder / "missing.txt").read_text().splitlines()
    assert len(missing) == 2
    assert missing[0].startswith("vgg/relu/seed0/pgd: ") and "made with other settings" in missing[0]
    assert missing[1] == "vgg/kaf/seed0: not made yet"


def test_the_partial_tables_tell_what_is_not_made_yet_from_what_is_damaged(results, tmp_path):
    Path(results.lines[1]["training_record"]).unlink()
    damaged = Path(results.lines[0]["evaluations"]["pgd"]["record"])
    damaged.write_text("{", encoding="utf-8")
    Path(results.lines[0]["evaluations"]["clean"]["record"]).unlink()
    command = [sys.executable, SCRIPT.with_name("partial.py"), "--manifest", results.manifest()]
    command += ["--settings", "{}", "--published", "not read", "--output", tmp_path / "p"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[:4] == [
        "Not made yet (snakemake makes it):",
        "  vgg/relu/seed0: clean",
        "  vgg/kaf/seed0: its training, and so its attacks",
        "Damaged, or made with other settings:",
    ]
    assert told[4].startswith(f"  vgg/relu/seed0/pgd: {damaged}: ")
    folder = tmp_path / "p"
    assert told[5] == f"0 results in {folder}/summary.csv; 3 missing; all of them: {folder}/missing.txt"


def test_the_script_ends_with_one_line_and_writes_nothing_on_a_stale_record(results):
    results.lines[0]["training_settings"]["seed"] = 1
    done = aggregate(results)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (results.folder / "s.csv").exists()


def test_the_script_writes_the_same_bytes_again(results):
    written = []
    for _ in range(2):
        assert aggregate(results).returncode == 0
        written.append((results.folder / "s.csv").read_bytes())
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == 5


def test_a_manifest_that_lists_a_run_twice_is_refused(results):
    results.lines.append(results.lines[0])
    with pytest.raises(UserError, match="vgg/relu/seed0 is listed twice"):
        rows_of(results)


@pytest.mark.parametrize("line", ["{", "[]", json.dumps({"experiment": "vgg"})])
def test_a_line_that_is_no_run_is_named(tmp_path, line):
    write_sealed(tmp_path / "manifest.jsonl", f"\n{line}\n")
    with pytest.raises(UserError, match="line 2: not a run"):
        manifest.read_manifest(tmp_path / "manifest.jsonl")


def test_a_file_that_is_no_summary_is_refused(tmp_path):
    write_sealed(tmp_path / "s.csv", "experiment,colour\nvgg,red\n")
    with pytest.raises(UserError, match="missing or unknown columns"):
        summary.read_rows(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("seed", "first", "invalid literal for int.*column 'seed'"), ("correct", "", "NaN.*column 'correct'")],
)
def test_a_value_of_another_type_is_refused(results, tmp_path, column, value, message):
    rows = rows_of(results).astype("object")
    rows.loc[1, column] = value
    summary.write_rows(tmp_path / "s.csv", rows)
    with pytest.raises(UserError, match=f"s.csv: .*{message}"):
        summary.read_rows(tmp_path / "s.csv")


def test_mean_and_sample_deviation_over_seeds(tmp_path):
    results = Results(tmp_path)
    for seed, correct in enumerate((80, 90, 100)):
        results.add("relu", {"clean": 150, "pgd": correct}, seed=seed)
    results.add("kaf", {"clean": 150, "pgd": 70})
    found = summary.over_seeds(rows_of(results), "pgd")
    assert list(found.index) == ["relu", "kaf"], "an activation that was not attacked has no row"
    assert found.loc["relu"].to_dict() == pytest.approx(
        {"mean": 0.45, "std": 0.05, "seeds": 3, "examples": 200}
    )
    assert found["mean"]["kaf"] == 0.35 and found["seeds"]["kaf"] == 1 and numpy.isnan(found["std"]["kaf"])


def merged(results, *attacks):
    for line in results.lines:
        line["worst_case"] = list(attacks)
    return rows_of(results)


def test_the_worst_case_is_the_conjunction_of_its_attacks(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80, "thesis_pgd": 84})
    files = results.lines[0]["evaluations"]["thesis_pgd"]  # it stands here for any other attack
    robust = first(90) - first(6)
    save_file({"robust": robust, "clean": first(150)}, files["verdicts"])
    edit_json(files["record"], verdicts_sha256=sha256(files["verdicts"]))
    rows = merged(results, "pgd", "thesis_pgd")
    worst = rows.iloc[3]
    assert len(rows) == 4 and worst["attack"] == worst["method"] == "worst_case"
    assert (worst["correct"], worst["accuracy"], worst["clean_accuracy"]) == (74, 0.37, 0.75)
    assert (worst["queries"], worst["evaluation_seconds"], worst["eps"]) == (2000, 6.5, "8/255")
    (run,) = manifest.read_manifest(results.manifest())
    assert (manifest.verdicts(run, "worst_case")["robust"] == (first(80) - first(6))).all()


def test_without_all_of_its_attacks_there_is_no_worst_case(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80, "thesis_pgd": 84})
    Path(results.lines[0]["evaluations"]["pgd"]["record"]).unlink()
    results.lines[0]["worst_case"] = ["pgd", "thesis_pgd"]
    missing = []
    assert list(rows_of(results, missing)["attack"]) == ["clean", "thesis_pgd"]
    assert len(missing) == 1


def test_trade_off_is_the_harmonic_mean():
    assert summary.trade_off(0.8, 0.4) == pytest.approx(0.5333333)
    assert summary.trade_off(0.0, 0.0) == 0.0
