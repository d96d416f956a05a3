"""The presets of the README, run as a user runs them."""

import csv
import json

import pytest

from tests.repository import ROOT, copy_repository, planned, snakemake


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("repository"))


def accuracies(folder, output):
    """(experiment, activation, attack) -> accuracy."""
    with open(folder / output / "summary.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(row["experiment"], row["activation"], row["attack"]): float(row["accuracy"]) for row in rows}


ALL = ["relu", "swish", "kaf", "kaf_swish"]


def chosen(**activations):
    """Options: of these experiments only these activations."""
    return [
        "--config",
        f"experiments={json.dumps({name: {'activations': a} for name, a in activations.items()})}",
    ]


@pytest.mark.parametrize(
    ("vgg", "resnet8"),
    [
        pytest.param(["relu"], ["relu", "kaf_swish"], id="some"),
        pytest.param(ALL, ALL, id="all", marks=pytest.mark.slow),
    ],
)
def test_in_the_demo_every_network_learns_and_adversarial_training_pays(folder, vgg, resnet8):
    """As it stands, and of its nine networks four: the same rules, scripts and thresholds."""
    some = chosen(digits_vgg=vgg, digits_resnet8=resnet8)
    snakemake(folder, "--configfile", "workflow/presets/demo.yaml", *some)
    found = accuracies(folder, "results/demo")
    assert len(found) == (len(vgg) + len(resnet8) + 1) * 3
    for experiment, activations in (("digits_vgg", vgg), ("digits_resnet8", resnet8)):
        for activation in activations:
            assert found[experiment, activation, "clean"] >= 0.6, (experiment, activation)
            # chance is 0.1; so short a training of the VGG with KAFs comes to 0.29 or 0.59 by rounding alone
            assert found[experiment, activation, "pgd"] >= 0.2, (experiment, activation)
    # the same network, the same data: only the adversary is missing
    assert found["digits_standard", "relu", "clean"] >= 0.9
    assert found["digits_standard", "relu", "pgd"] <= found["digits_resnet8", "relu", "pgd"] - 0.3
    # and their gradients stand side by side
    out = folder / "results/demo"
    assert (out / "plots/digits_resnet8/saliency.pdf").read_bytes().startswith(b"%PDF")
    page = (out / "study.md").read_text()
    assert "### ResNet8 on digits" in page and "plots/digits_resnet8/tradeoff.png" in page
    assert "**Against ReLU**" in page and "McNemar's exact test" in " ".join(page.split())
    card = json.loads((out / "cards/digits_standard/relu/seed0.json").read_text())
    assert card["training"] == "none" and card["figures"]["attacks"]["pgd"]["accuracy"] < 0.4


@pytest.mark.parametrize(
    ("vgg", "resnet20"),
    [
        pytest.param(["kaf"], ["relu"], id="some"),
        pytest.param(["relu", "kaf"], ["relu", "kaf_swish"], id="all", marks=pytest.mark.slow),
    ],
)
def test_real_cifar10_goes_through_the_whole_pipeline(folder, cifar10_folder, vgg, resnet20):
    """As it stands, and of its four networks one of either kind, one with KAFs."""
    source = f"data={{cifar10: {{source: {cifar10_folder}}}}}"
    some = chosen(vgg=vgg, resnet20=resnet20)
    snakemake(folder, "--configfile", "workflow/presets/cifar10_smoke.yaml", *some, source)
    found = accuracies(folder, "results/cifar10_smoke")
    networks = len(vgg) + len(resnet20)
    assert len(found) == networks * 3
    # two epochs of 1,000 images teach too little to be told from chance on 100: the training loss tells
    histories = [
        [float(row["loss"]) for row in csv.DictReader(path.read_text().splitlines())]
        for path in (folder / "results/cifar10_smoke/models").rglob("history.csv")
    ]
    assert len(histories) == networks and sum(losses[-1] - losses[0] for losses in histories) < 0
    for name, published in (("vgg", "77.93"), ("resnet20", "77.52")):  # of KAF and of ReLU, beside ours
        assert published in (folder / f"results/cifar10_smoke/tables/{name}.md").read_text()


@pytest.mark.parametrize(
    ("preset", "networks", "attacks"), [("activations_cpu", 28, 2), ("activations", 54, 3)]
)
def test_the_studies_are_planned(plan, tmp_path, preset, networks, attacks):
    """With one seed; how many networks there are in all is counted in tests/unit/test_study.py."""
    preset = ("--configfile", ROOT / f"workflow/presets/{preset}.yaml")
    counts = planned(plan(tmp_path, "-n", *preset, "--config", "seeds=[0]", "--quiet", "rules"))
    assert (counts["train"], counts["evaluate"]) == (networks, attacks * networks)
    assert counts["render_study"] == 1 and "choose_rates" not in counts


@pytest.mark.parametrize(
    ("preset", "trained", "published", "attacks", "certificates", "guarded"),
    [("certified_cpu", 22, 3, 3, 32, 3), ("certified", 75, 8, 4, 111, 8)],
)
def test_the_certificates_are_planned(
    plan, tmp_path, preset, trained, published, attacks, certificates, guarded
):
    preset = ("--configfile", ROOT / f"workflow/presets/{preset}.yaml")
    counts = planned(plan(tmp_path, "-n", *preset, "--quiet", "rules"))
    assert (counts["train"], counts["import_published"]) == (trained, published)
    assert counts["evaluate"] == attacks * (trained + published)
    assert counts["certify"] == certificates
    kinds = ("render_certificates", "plot_certified_radii", "plot_certified_accuracy")
    assert [counts[kind] for kind in kinds] == [7, 7, 7]
    # four detectors beside each network, under six attacks
    assert (counts["train_detector"], counts["detect"]) == (4 * guarded, 24 * guarded)


def test_rates_are_tried_before_a_study(plan, tmp_path):
    preset = ("--configfile", ROOT / "workflow/presets/activations_cpu.yaml")
    counts = planned(plan(tmp_path, "-n", "rates", *preset, "--quiet", "rules"))
    assert (counts["train"], counts["choose_rates"], counts.get("evaluate")) == (72, 1, None)
