"""The numbers that the pages on certificates and detectors show are those of the committed records."""

import json
import re
import statistics

import pytest

from tests.conftest import REPOSITORY as ROOT

REFERENCE = ROOT / "results/reference/certified-cpu-2026-11-28"
SMOOTHED = {
    ("ResNet20 of the thesis (adversarial training)", "0.12"): "published",
    ("ResNet20 of the thesis (adversarial training)", "0.25"): "published",
    ("ResNet8, standard training", "0.25"): "standard",
    ("ResNet8, trained on noise", "0.25"): "noise",
    ("ResNet8, SmoothAdv", "0.25"): "smooth_adv",
}
NAMES = {
    "ReLU": "relu",
    "KAF": "kaf",
    "Swish": "swish",
    "MaxMin": "maxmin",
    "1-Lipschitz spline": "lipschitz_spline",
    "1-Lipschitz KAF": "kaf_1lip",
    "1-Lipschitz base+KAF": "kaf_base_1lip",
    "ReLU+KAF": "kaf_relu_base",
    "Swish+KAF": "kaf_silu_base",
}


def table(page, name):
    """The rows of a marked table as lists of cells, the head first."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"<!-- table: {name} -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    return rows[:1] + rows[2:]


def certified(experiment, activation, certificate, radius):
    """Clean accuracy, share certified at a radius and average radius, of the rows of the images."""
    place = REFERENCE / "certificates" / experiment / activation / "seed0"
    record = json.loads((place / f"{certificate}.json").read_text(encoding="utf-8"))
    head, *lines = (place / f"{certificate}.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
    radii = [float(row["radius"]) if row["prediction"] == row["label"] else -1.0 for row in rows]
    share = sum(found >= radius for found in radii) / len(radii)
    return 100 * record["clean_accuracy"], 100 * share, sum(max(found, 0.0) for found in radii) / len(radii)


def test_smoothing():
    head, *rows = table("certification.md", "smoothing")
    for network, sigma, *cells in rows:
        for column, cell in zip(head[2:], cells, strict=True):
            if cell == "–":
                continue
            _, share, mean = certified(
                SMOOTHED[network, sigma], NAMES[column], f"smoothing_{sigma[2:]}", 0.25
            )
            assert cell == f"{mean:.3f}, {share:.0f} %", (network, sigma, column)


def test_lipschitz():
    _, *rows = table("certification.md", "lipschitz")
    for name, *cells in rows:
        for experiment, cell in zip(("one_lipschitz", "margin"), cells, strict=True):
            if cell != "–":
                clean, share, mean = certified(experiment, NAMES[name], "lipschitz", 0.25)
                assert cell == f"{clean:.1f} %, {share:.1f} %, {mean:.3f}", (name, experiment)


def test_intervals():
    head, *rows = table("certification.md", "linf")
    for name, *cells in rows:
        for column, cell in zip(head[1:], cells, strict=True):
            certificate = "ibp" if name.startswith("clean") else name.split("`")[1]
            clean, share, _ = certified("ibp", NAMES[column], certificate, 8 / 255 - 1e-9)
            assert cell == f"{clean if name.startswith('clean') else share:.1f}", (name, column)


def test_detectors():
    found = (REFERENCE / "detections/standard.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(found[0].split(","), line.split(","), strict=True)) for line in found[1:]]
    said = {(row["activation"], row["detector"], row["attack"]): row for row in rows}
    head, *shown = table("detection.md", "detection")
    for detector, *cells in shown:
        for column, cell in zip(head[1:], cells, strict=True):
            key = NAMES[column.partition(":")[0]], detector.replace(" ", "_")
            static, adaptive = said[*key, "static"], said[*key, "adaptive"]
            detected, before, after = (
                100 * float(row[name])
                for row, name in ((static, "detected_5"), (static, "evaded_5"), (adaptive, "evaded_5"))
            )
            assert cell == f"{detected:.1f}, {before:.0f} → {after:.0f}", (detector, column)
            assert float(adaptive["robust_5"]) == 0


def radii(experiment, activation, certificate):
    """Of each image the certified radius, 0 where the answer is wrong."""
    place = REFERENCE / "certificates" / experiment / activation / "seed0" / f"{certificate}.csv"
    head, *lines = place.read_text(encoding="utf-8").splitlines()
    rows = (dict(zip(head.split(","), line.split(","), strict=True)) for line in lines)
    return {row["image"]: float(row["radius"]) if row["prediction"] == row["label"] else 0.0 for row in rows}


@pytest.mark.parametrize(
    ("experiment", "certificate", "first", "second", "said"),
    [
        ("standard", "smoothing_25", "kaf", "relu", ("0.031", "0.006", "0.057")),
        ("one_lipschitz", "lipschitz", "kaf_base_1lip", "relu", ("0.026", "0.017", "0.035")),
        ("one_lipschitz", "lipschitz", "relu", "kaf_1lip", ("0.012", "0.004", "0.020")),
        ("one_lipschitz", "lipschitz", "maxmin", "kaf_base_1lip", ("0.049", "0.037", "0.062")),
        ("margin", "lipschitz", "kaf_relu_base", "relu", ("0.005", "0.002", "0.008")),
        ("margin", "lipschitz", "maxmin", "kaf_relu_base", ("0.057", "0.053", "0.062")),
    ],
)
def test_differences_are_those_of_the_images(experiment, certificate, first, second, said):
    """Paired, the mean and a 95 % interval by a normal approximation, as the page says them."""
    one, other = radii(experiment, first, certificate), radii(experiment, second, certificate)
    found = [one[image] - other[image] for image in one]
    mean, reach = statistics.mean(found), 1.96 * statistics.stdev(found) / len(found) ** 0.5
    assert tuple(f"{value:.3f}" for value in (mean, mean - reach, mean + reach)) == said
    page = " ".join((ROOT / "docs/certification.md").read_text(encoding="utf-8").split())
    assert said[0] in page and f"{said[1]} to {said[2]}" in page


@pytest.mark.parametrize(
    ("experiment", "attack", "certificates", "radius"),
    [
        ("one_lipschitz", "pgd_l2", ("lipschitz",), 64 / 255),
        ("margin", "pgd_l2", ("lipschitz",), 64 / 255),
        ("ibp", "pgd", ("ibp", "crown"), 8 / 255),
    ],
)
def test_no_certified_image_fell_to_the_attack(experiment, attack, certificates, radius):
    from safetensors.torch import load_file

    checked = 0
    for place in sorted((REFERENCE / "evaluations" / experiment).iterdir()):
        robust = load_file(place / "seed0" / f"{attack}.safetensors")["robust"].tolist()
        for certificate in certificates:
            rows = REFERENCE / "certificates" / experiment / place.name / "seed0" / f"{certificate}.csv"
            head, *lines = rows.read_text(encoding="utf-8").splitlines()
            assert len(lines) == len(robust)
            for line, held in zip(lines, robust, strict=True):
                row = dict(zip(head.split(","), line.split(","), strict=True))
                if row["prediction"] == row["label"] and float(row["radius"]) >= radius - 1e-9:
                    assert held, (place.name, certificate, row["image"])
                    checked += 1
    assert checked == {"one_lipschitz": 338, "margin": 425, "ibp": 2992}[experiment]
