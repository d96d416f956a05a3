"""The thesis's own networks, through the workflow."""

import csv

from kafnets.registry import PUBLISHED

from tests.repository import ROOT, copy_repository, planned, snakemake

PRESET = "workflow/presets/published_smoke.yaml"


def test_the_archives_are_fetched_converted_and_judged(plan):
    jobs = planned(plan(ROOT, "-n", "--nolock", "--configfile", PRESET))
    assert jobs["download_published"] == jobs["convert_published"] == len(PUBLISHED)
    assert jobs["import_published"] == 8 + 5 and jobs["evaluate"] == 13 * 16
    assert jobs["card"] == jobs["plot_gallery"] == 8
    assert not jobs.keys() & {"train", "plot_history", "plot_schedule"}


def test_converted_weights_need_neither_network_nor_tensorflow(plan, tmp_path):
    source = f"data={{published: {{source: {tmp_path}}}}}"
    for name in PUBLISHED.values():
        (tmp_path / f"{name}.safetensors").touch()
    jobs = planned(plan(ROOT, "-n", "--nolock", "--configfile", PRESET, "--config", source))
    assert not jobs.keys() & {"download_published", "convert_published"}
    assert jobs["import_published"] == 13


def test_two_rows_on_a_few_images(plan, tmp_path, published_folder, cifar10_folder):
    folder = copy_repository(tmp_path)
    few = (
        "published: {activations: [relu, kaf_elu], test_examples: 20}, "
        "published_float16: {activations: [kaf_elu], test_examples: 20}"
    )
    chosen = [
        *("--configfile", PRESET, "--config"),
        f"data={{published: {{source: {published_folder}}}, cifar10: {{source: {cifar10_folder}}}}}",
        f"experiments={{{few}}}",
        "evaluation={run: [clean, pgd], headline: pgd, attacks: {pgd: {iterations: 2, restarts: 2}}}",
        "card={run: []}",
    ]
    snakemake(folder, *chosen)
    out = folder / "results/published_smoke"
    with open(out / "tables/published.csv", encoding="utf-8") as file:
        rows = {row["activation"]: row for row in csv.DictReader(file)}
    assert rows["relu"]["published_accuracy"] == "77.52" and rows["relu"]["published_float16_accuracy"] == ""
    assert (
        float(rows["kaf_elu"]["accuracy"]) > 60 and float(rows["kaf_elu"]["published_float16_accuracy"]) > 60
    )
    assert (out / "plots/published/tradeoff.pdf").exists()
    assert "Nothing to be done" in plan(folder, "-n", *chosen)
