"""The workflow, run for real on handwritten digits in a copy of the repository."""

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.repository import ENVIRONMENT, ROOT, copy_repository, make_venv, planned, snakemake

TINY = ROOT / "tests" / "workflow" / "tiny.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the repository with the tiny run done."""
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    snakemake(folder, "--configfile", TINY)
    return folder


def tiny(folder, *arguments, **kwargs):
    return snakemake(folder, *arguments, "--configfile", TINY, **kwargs)


@pytest.fixture
def dry(plan, folder):
    """A function: what the tiny run would do now."""
    return lambda *arguments: plan(folder, "-n", *arguments, "--configfile", TINY)


def read_summary(folder):
    with open(folder / "results/tiny/summary.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_is_there(folder):
    out = folder / "results/tiny"
    for suffix in ("tex", "csv", "md", "json"):
        for table in ("", "_attacks", "_differences"):
            assert (out / f"tables/tiny_resnet8{table}.{suffix}").stat().st_size > 100
        assert (out / f"certificates/tiny_resnet8.{suffix}").stat().st_size > 100
    for kind in ("tradeoff", "history", "iterations", "schedule", "kafs_kaf_seed0"):
        assert (out / f"plots/tiny_resnet8/{kind}.pdf").read_bytes().startswith(b"%PDF")
        assert (out / f"plots/tiny_resnet8/{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (out / f"plots/tiny_resnet8/{kind}.svg").read_text(encoding="utf-8")
    of_cards = ("radii", "depth", "saliency", "landscapes", "gallery_kaf_seed0", "layers_relu_seed0")
    for kind in ("classes", "certified_radii", "certified_accuracy", *of_cards):
        assert (out / f"plots/tiny_resnet8/{kind}.pdf").read_bytes().startswith(b"%PDF")
        assert (out / f"plots/tiny_resnet8/{kind}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "results.html").read_text(encoding="utf-8")
    assert "ResNet8, tiny" in page and page.count("<img") == 12 and page.count("<details") == 4
    for path in ("cards/tiny_resnet8/kaf/seed1.json", "plots/tiny_resnet8/gallery_kaf_seed0.png"):
        assert f'href="{path}"' in page and (out / path).is_file()
    assert not list(out.rglob("resume-*"))  # finished runs leave no checkpoint


def test_the_summary_has_one_row_a_run_and_attack(folder):
    rows = read_summary(folder)
    assert {(row["activation"], row["seed"], row["attack"]) for row in rows} == {
        (activation, seed, attack)
        for activation in ("relu", "kaf")
        for seed in "01"
        for attack in ("clean", "pgd", "thesis_pgd", "transfer", "worst_case")
    }
    for row in rows:
        assert float(row["accuracy"]) == pytest.approx(int(row["correct"]) / int(row["examples"]))


def test_records_say_where_their_numbers_come_from(folder):
    out = folder / "results/tiny"
    record = json.loads((out / "models/tiny_resnet8/kaf/seed0/record.json").read_text())
    assert record["settings"]["training"]["learning_rate"] == [0.01, 0.1]
    for key in ("torch", "python", "device", "git_commit", "git_dirty", "job_id", "cuda"):
        assert key in record["environment"]
    assert record["wall_seconds"] > 0 and record["peak_memory_bytes"] > 1e6
    evaluation = json.loads((out / "evaluations/tiny_resnet8/kaf/seed0/pgd.json").read_text())
    assert evaluation["model_sha256"] == record["model_sha256"]
    verdicts = load_file(out / "evaluations/tiny_resnet8/kaf/seed0/pgd.safetensors")
    assert int(verdicts["robust"].sum()) == evaluation["correct"]
    assert not (verdicts["robust"] & ~verdicts["clean"]).any()


def test_transfer_is_from_the_other_activation_of_the_same_seed(folder):
    out = folder / "results/tiny"
    record = json.loads((out / "evaluations/tiny_resnet8/kaf/seed1/transfer.json").read_text())
    assert record["settings"]["sources"] == ["relu"]
    source = json.loads((out / "models/tiny_resnet8/relu/seed1/record.json").read_text())
    assert record["source_sha256"] == {"relu": source["model_sha256"]}
    assert record["gradients"] > 0 and record["correct"] <= record["clean_accuracy"] * record["examples"]


def test_every_network_has_a_card(folder):
    out = folder / "results/tiny"
    with open(out / "cards/tiny_resnet8.csv", encoding="utf-8") as file:
        rows = {(row["activation"], row["seed"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {(activation, seed) for activation in ("relu", "kaf") for seed in "01"}
    for (activation, seed), row in rows.items():
        record = json.loads((out / f"cards/tiny_resnet8/{activation}/seed{seed}.json").read_text())
        model = json.loads((out / f"models/tiny_resnet8/{activation}/seed{seed}/record.json").read_text())
        assert record["model_sha256"] == model["model_sha256"] and record["figures"]["examples"] == 10
        failed = [check["name"] for check in record["checks"] if not check["passed"]]
        assert int(row["failed"]) == len(failed)
        # examples of the other activation's network were tried on this one
        other = {"relu": "kaf", "kaf": "relu"}[activation]
        assert record["sources"] == [f"results/tiny/models/tiny_resnet8/{other}/seed{seed}/model.safetensors"]
        # the curve over the radii begins where the tables' accuracy is measured, on a part of its images
        assert record["figures"]["radii"][0]["accuracy"] == record["figures"]["clean_accuracy"]


def test_every_network_has_a_certificate(folder):
    out = folder / "results/tiny/certificates"
    with open(out / "tiny_resnet8.csv", encoding="utf-8") as file:
        rows = {row["activation"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"relu", "kaf"} and {row["seeds"] for row in rows.values()} == {"2"}
    for activation, row in rows.items():
        records = [
            json.loads((out / f"tiny_resnet8/{activation}/seed{seed}/smoothing.json").read_text())
            for seed in "01"
        ]
        assert [record["examples"] for record in records] == [4, 4]
        assert float(row["acr"]) == pytest.approx(sum(r["average_radius"] for r in records) / 2, abs=1e-4)


def test_a_second_run_does_nothing(folder):
    assert "Nothing to be done" in tiny(folder).stdout


LIBRARY = "workflow/scripts/kafnets"


@contextlib.contextmanager
def edited(folder, changes):
    """Files of the repository with other texts: path -> function of the old text (None for a new file)."""
    paths = {folder / name: change for name, change in changes.items()}
    before = {path: path.read_text(encoding="utf-8") if path.exists() else None for path in paths}
    try:
        for path, change in paths.items():
            path.write_text(change(before[path]), encoding="utf-8")
        yield
    finally:
        for path, text in before.items():
            path.unlink() if text is None else path.write_text(text, encoding="utf-8")


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    return change


def commented(text):
    """Another docstring and a comment."""
    assert text.startswith('"""')
    return '"""Other words. ' + text[3:] + "\n# edited\n"


def test_what_changes_no_code_plans_nothing(folder, dry):
    (folder / f"{LIBRARY}/models/resnet.py").touch()
    (folder / "workflow/scripts/train.py").touch()
    seen = ("models/resnet.py", "activations/kaf/layer.py", "attacks/pgd.py", "report/tables.py")
    changes = {f"{LIBRARY}/{name}": commented for name in seen}
    changes["workflow/scripts/train.py"] = commented
    # a new activation: its file, its line
    changes[f"{LIBRARY}/activations/mine.py"] = lambda text: (
        "from torch import nn\n\n\nclass Mine(nn.ReLU): ...\n"
    )
    line = 'ACTIVATIONS = {\n    "mine": Entry("kafnets.activations.mine:Mine", label="Mine"),\n'
    changes[f"{LIBRARY}/registry.py"] = replaced("ACTIVATIONS = {\n", line)
    changes[f"{LIBRARY}/models/empty.py"] = lambda text: ""
    with edited(folder, changes):
        assert "Nothing to be done" in dry()


@pytest.mark.parametrize(
    "name, line, jobs",
    [
        ("models/resnet.py", "from torch import nn", {"train": 4, "evaluate": 16}),
        # what computes a KAF is no part of a network without one, but of attacks on it from a KAF's network
        ("activations/kaf/cpu.py", "import ctypes", {"train": 2, "evaluate": 8 + 2}),
        ("attacks/thesis.py", "from .arguments import", {"evaluate": 4}),
        ("training/lr_range.py", "import math", {}),
        ("report/plots/radii.py", "import numpy", {"plot_radii": 1}),
        ("certification/smoothing.py", "import functools", {"certify": 4}),
    ],
)
def test_an_edit_plans_what_runs_it_and_nothing_else(folder, dry, name, line, jobs):
    with edited(folder, {f"{LIBRARY}/{name}": replaced(line, f"EDITED = 1\n\n{line}")}):
        found = planned(dry())
    kinds = ("train", "evaluate") if "train" in jobs else ("train", "evaluate", "plot_radii", "certify")
    assert {kind: found[kind] for kind in kinds if found.get(kind)} == jobs


def test_only_what_a_change_concerns_runs_again(dry):
    plot = planned(dry("--config", "experiments={tiny_resnet8: {title: Other}}"))
    assert plot["render_tables"] == 1 and not plot.keys() & {"train", "evaluate", "plot_schedule"}
    attack = planned(dry("--config", "evaluation={attacks: {pgd: {restarts: 3}}}"))
    assert attack["evaluate"] == 4 and "train" not in attack
    card = planned(dry("--config", "card={queries: 11}"))
    assert card["card"] == 4 and not card.keys() & {"train", "evaluate", "aggregate"}
    changed = "certification={certificates: {smoothing: {sigma: 0.5}}}"
    certificate = planned(dry("--config", changed))
    assert certificate["certify"] == 4 and certificate["render_certificates"] == 1
    assert not certificate.keys() & {"train", "evaluate", "aggregate", "render_tables", "card"}
    # and without them nothing is made anew but the page that showed them
    assert planned(dry("--config", "certification={run: []}")).keys() == {"render_page", "all", "total"}
    batch = dry("--config", "evaluation={batch_size: 17}", "device=auto")
    assert "Nothing to be done" in batch
    seed = planned(dry("--config", "seeds=[0,1,2]"))
    assert seed["train"] == 2 and seed["evaluate"] == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seeds=[0,1,2]", "list_cells"),
        ("experiments={tiny_resnet8: {training: {epochs: 2}}}", "epochs: 2"),
        ("experiments={tiny_resnet8: {title: Other}}", "title: "),
        ("card={queries: 11}", "queries: 11"),
    ],
)
def test_the_reason_why_a_job_runs_again_is_short_and_names_what_changed(dry, change, named):
    words = dry("--config", change)
    reasons = [line for line in words.splitlines() if "Params have changed" in line]
    assert named in words and reasons and max(map(len, reasons)) < 700


def test_the_partial_target_lists_what_is_missing(folder):
    record = folder / "results/tiny/evaluations/tiny_resnet8/relu/seed1/pgd.json"
    content = record.read_text()
    record.unlink()
    try:
        output = tiny(folder, "partial").stdout
    finally:
        record.write_text(content)
    # pgd of one network, and so its worst case
    assert "18 results" in output and "1 missing" in output
    missing = (folder / "results/tiny/partial/missing.txt").read_text()
    assert missing.count("\n") == 1 and "relu" in missing and "pgd" in missing
    again = tiny(folder, "partial").stdout
    assert "20 results" in again and "0 missing" in again


def test_the_range_test_has_a_target_of_its_own(folder):
    tiny(folder, "lr_range")
    out = folder / "results/tiny"
    with open(out / "lr_range/tiny_resnet8/kaf.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and float(rows[-1]["learning_rate"]) == pytest.approx(0.1)
    assert "suggested" in json.loads((out / "lr_range/tiny_resnet8/kaf.json").read_text())
    assert (out / "plots/tiny_resnet8/lr_range.pdf").exists()


def test_scripts_run_without_snakemake(folder):
    """One reviewer, one row: the attack again by hand gives the recorded verdicts."""
    out = folder / "results/tiny"
    record = json.loads((out / "evaluations/tiny_resnet8/relu/seed0/pgd.json").read_text())
    subprocess.run(
        [sys.executable, "workflow/scripts/evaluate.py", "--settings", json.dumps(record["settings"])]
        + ["--model", out / "models/tiny_resnet8/relu/seed0/model.safetensors"]
        + ["--data", out / "data/digits.safetensors"]
        + ["--record", folder / "again.json", "--verdicts", folder / "again.safetensors", "--device", "cpu"],
        cwd=folder,
        check=True,
    )
    assert json.loads((folder / "again.json").read_text())["verdicts_sha256"] == record["verdicts_sha256"]


def test_the_report_opens_in_a_browser(folder, tmp_path):
    """Made in an environment that holds what `make venv` installs, and no more."""
    make_venv(folder)
    command = [".venv/bin/snakemake", "--report", tmp_path / "report.zip", "--configfile", TINY]
    made = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        archive.extractall(tmp_path)
    page = next(tmp_path.rglob("report.html"))
    # the chart of runtimes has a logarithmic axis
    seconds = [float(value) for value in re.findall(r'"runtime": ([^,}]+)', page.read_text())]
    assert len(seconds) > 30 and min(seconds) > 0
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        + ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        + [
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert all(category in shown.stdout for category in ("Tables", "Plots", "Results page"))


@pytest.mark.parametrize("conda", [False, True])
def test_the_python_of_the_jobs(tmp_path, conda):
    """The one that runs snakemake, which is not in PATH; with --use-conda that of the job's environment.

    Conda puts its folder where that of the environment before was: behind an activated .venv.
    """
    folder = copy_repository(tmp_path / "repository")
    (folder / "asked.smk").write_text('include: "Snakefile"\nprint("PREFIX:", shell._process_prefix)\n')
    # where there is no conda it ends after this line
    said = snakemake(folder, "-n", "--snakefile", "asked.smk", *["--use-conda"] * conda, check=False).stdout
    (prefix,) = re.findall("^PREFIX: (.*)$", said, re.MULTILINE)
    for name in ("venv", "job"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho {name}\n")
        python.chmod(0o755)
    path = os.pathsep.join([f"{tmp_path}/venv/bin", f"{tmp_path}/job/bin", ENVIRONMENT["PATH"]])
    found = subprocess.run(
        ["bash", "-c", f"{prefix} exec python -c 'import sys; print(sys.executable)'"],
        env={"PATH": path, "CONDA_PREFIX": str(tmp_path / "job")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{'job' if conda else sys.executable}\n"


# -- the configuration as it stands


def test_the_thesis_is_fifteen_trainings(plan):
    jobs = planned(plan(ROOT, "-n", "--nolock"))
    assert jobs["train"] == 15 and jobs["evaluate"] == 45 and jobs["download_cifar10"] == 1


def test_a_local_archive_needs_no_download(plan, tmp_path):
    source = tmp_path / "cifar-10-python.tar.gz"
    source.write_bytes(b"")
    jobs = planned(plan(ROOT, "-n", "--nolock", "--config", f"data={{cifar10: {{source: {source}}}}}"))
    assert "download_cifar10" not in jobs and jobs["prepare_data"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("experiments={vgg: {activations: [relu, kaf_elo]}}", "did you mean kaf_elu"),
        ("experiments={vgg: {trainings: {}}}", "did you mean training"),
        ("evaluation={attacks: {pgd: {eps: 8}}}", "for example 8/255"),
        ("seeds=[0,0]", "listed twice"),
    ],
)
def test_a_wrong_config_ends_in_one_line(plan, change, message):
    words = plan(ROOT, "-n", "--nolock", "--config", change, code=1)
    (line,) = [line for line in words.splitlines() if line.startswith("error")]
    assert message in line and "Traceback" not in words


def test_style():
    run = [sys.executable, "-m"]
    subprocess.run([*run, "ruff", "check", "."], cwd=ROOT, check=True)
    subprocess.run([*run, "ruff", "format", "--check", "."], cwd=ROOT, check=True)
    subprocess.run(
        [Path(sys.executable).parent / "snakefmt", "--check", "Snakefile", "workflow/rules"],
        cwd=ROOT,
        check=True,
    )


def test_lint():
    assert "Congratulations" in snakemake(ROOT, "--lint").stdout
