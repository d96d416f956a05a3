"""The evaluation card: what is measured is right, and a network that only hides its gradient is found out."""

import copy
import csv
import io
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card_builder import measured, write_card
from kafnets.activations import create_activation
from kafnets.diagnostics import card, checks, gradients, layers
from kafnets.models import create_model, save_model
from kafnets.report import captions, card_table, cards, manifest, summary, tables, typesetting
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import write_json
from record_builders import ATTACKS, Results
from torch import nn
from torch.nn import functional

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "card.py"
SETTINGS = {
    "pictures": 3,
    "eps": "32/255",
    "step": "8/255",
    "iterations": 10,
    "most_iterations": 30,
    "restarts": 2,
    "radii": [f"{n}/255" for n in (0, 4, 8, 16, 32, 64, 128, 255)],
    "radius_iterations": 20,
    "queries": 100,
    "samples": 5,
}


class Network(nn.Module):
    """Tells dark images from bright ones, and whether their left is the brighter half: four classes."""

    def __init__(self, masked=False, scale=1):
        super().__init__()
        self.specification = {"activation": "swish"}
        self.masked, self.scale = masked, scale
        self.act = create_activation("swish", 4)
        first = torch.zeros(4, 3, 8, 8)
        first[0] = first[1] = 1 / 64
        first[2, :, :, :4] = first[3, :, :, 4:] = 1 / 32
        self.first = nn.Parameter(first.flatten(1))
        self.last = nn.Parameter(torch.tensor([[-4.0, 0, 2, 0], [-4, 0, 0, 2], [4, 0, 2, 0], [4, 0, 0, 2]]))

    def forward(self, images):
        if self.masked:
            images = (images * 4).round() / 4  # its derivative is 0 wherever it has one
        means = functional.linear(images.flatten(1), self.first)
        return self.scale * (
            functional.linear(self.act(means), self.last) + torch.tensor([7.0, 7.0, 0.0, 0.0])
        )


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, 156, (24, 3, 8, 8), generator=generator)
    pixels[:12, :, :, :4] += 25
    pixels[12:, :, :, 4:] += 25
    pixels[::2] -= 40
    return pixels.to(torch.uint8)


def judged(network, images):
    with torch.no_grad():
        labels = network(images.float() / 255).argmax(1)
    figures, tensors = card.measure(network, images, labels, SETTINGS, [Network()], note=lambda line: None)
    return figures, {check["name"]: check["passed"] for check in checks.judge(figures)}, tensors


def test_an_honest_network_passes(images):
    figures, passed, tensors = judged(Network(), images)
    assert all(passed.values()), passed
    assert figures["clean_accuracy"] == 1 and figures["radii"][-1]["accuracy"] == 0
    assert len(figures["accuracy_by_iteration"]) == 31
    assert figures["attacks"]["transfer"]["accuracy"] <= figures["attacks"]["noise"]["accuracy"]
    assert tensors["landscapes"].shape == (3, gradients.GRID, gradients.GRID)
    assert (tensors["gallery_attacked"] - tensors["gallery_images"]).abs().max() <= 32 / 255 + 1e-6
    fooled = tensors["gallery_attacked_answer"] != tensors["gallery_labels"]
    assert fooled.all() and (tensors["gallery_clean_answer"] == tensors["gallery_labels"]).all()


def test_a_network_that_hides_its_gradient_is_found_out(images):
    figures, passed, _ = judged(Network(masked=True), images)
    assert figures["zero_gradients"] == 1
    for name in (
        "gradients_exist",
        "gradient_leads_up",
        "white_box_beats_black_box",
        "nothing_at_largest",
    ):
        assert not passed[name], (name, figures)


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_a_saturated_network_is_found_out_and_marked(images, tmp_path, scale):
    figures, passed, _ = judged(Network(scale=scale), images)
    assert not passed["gradients_exist"] and not passed["gradient_leads_up"], figures["zero_gradients"]
    of_all = [cards.read(write_card(tmp_path, "kaf", seed=seed, **figures)) for seed in range(3)]
    for of_network in (of_all[:1], of_all):
        assert {"gradients_exist", "gradient_leads_up"} <= set(cards.failed_checks(of_network)["kaf"])


def test_no_image_is_the_users_error(images):
    with pytest.raises(UserError, match="the test set is empty"):
        card.measure(Network(), images[:0], torch.empty(0, dtype=torch.int64), SETTINGS)


# -- checks


def test_good_figures_pass_every_check():
    assert [check["name"] for check in checks.judge(measured()) if not check["passed"]] == []


def accuracy(name, other, sign):
    """Puts the accuracy under the attack `name` `k` images above (1) or below (-1) that under `other`."""

    def change(figures, k):
        attacks = figures["attacks"]
        attacks[name]["accuracy"] = attacks[other]["accuracy"] + sign * k / figures["examples"]
        figures["left_by"][name if sign > 0 else other] = k

    return change


def radius_zero(figures, k):
    figures["radii"][0]["accuracy"] += k / figures["examples"]


def largest_radius(figures, k):
    figures["radii"][-2].update(accuracy=k / figures["examples"], regained=k)
    figures["radii"][-1].update(accuracy=k / figures["examples"])


def a_radius_in_between(figures, k):
    figures["radii"][3].update(accuracy=0.7 + k / figures["examples"], regained=k)


def share(name):
    return lambda figures, k: figures.update({name: k / figures["examples"]})


def layer(key, value):
    return lambda figures, k: figures["layers"][2].update({key: value})


# How `k` images break each check; of slopes, whatever `k` is.
BREAK = {
    "clean_at_zero": radius_zero,
    "nothing_at_largest": largest_radius,
    "falls_with_radius": a_radius_in_between,
    "iterations_suffice": lambda figures, k: figures.update(
        accuracy_by_iteration=[0.8] * 21 + [0.8 - k / figures["examples"]] * 130
    ),
    "restarts_suffice": accuracy("pgd_twice", "pgd", -1),
    "iterations_beat_one_step": accuracy("fgsm", "pgd", -1),
    "white_box_beats_black_box": share("only_black_box"),
    "black_box_beats_noise": accuracy("transfer", "noise", 1),
    "gradients_exist": share("zero_gradients"),
    "gradients_are_finite": share("nonfinite_gradients"),
    "gradient_leads_up": lambda figures, k: figures.update(rising_losses=1 - k / figures["examples"]),
    "slopes": layer("steepest", 10.5),
    "curvatures": layer("most_curved", None),
}
# Images that may break each of the first eleven, by the images in all: scipy.stats.binom.isf(0.05, n, bound),
# and where attacks are compared at least the 4 of McNemar's test.
ALLOWED = {
    30: [0, 1, 4, 2, 2, 4, 2, 4, 1, 0, 4],
    100: [0, 3, 5, 5, 5, 4, 5, 5, 3, 0, 9],
    1000: [0, 15, 28, 28, 28, 4, 28, 28, 15, 0, 62],
}


def failing(name, images, examples):
    figures = copy.deepcopy(measured(examples=examples))
    BREAK[name](figures, images)
    return [check["name"] for check in checks.judge(figures) if not check["passed"]]


@pytest.mark.parametrize("examples", ALLOWED)
@pytest.mark.parametrize(("name", "place"), [(check.name, i) for i, check in enumerate(checks.CHECKS)])
def test_each_check_fails_from_where_it_should_and_alone(name, place, examples):
    allowed = [*ALLOWED[examples], 0, 0][place]
    assert failing(name, allowed + 1, examples) == [name]
    if place < 11:
        assert failing(name, allowed, examples) == []


@pytest.mark.parametrize("name", [check.name for check in checks.CHECKS if check.unit == "share"])
def test_of_thirty_images_one_proves_nothing_and_five_do(name):
    disproved = name in ("clean_at_zero", "gradients_are_finite")  # what must never be
    assert failing(name, 1, 30) == [name] * disproved
    assert failing(name, 5, 30) == [name]


def test_attacks_that_differ_both_ways_need_a_larger_difference():
    figures = measured(examples=100)
    figures["attacks"]["fgsm"]["accuracy"] = figures["attacks"]["pgd"]["accuracy"] - 0.06

    def check():
        return next(one for one in checks.judge(figures) if one["name"] == "iterations_beat_one_step")

    figures["left_by"]["pgd"] = 6
    assert (check()["count"], check()["allowed"], check()["passed"]) == (6, 4, False)
    figures["left_by"]["pgd"] = 16  # and FGSM leaves 10 that PGD does not: 16 against 10
    assert (check()["count"], check()["allowed"], check()["passed"]) == (6, 9, True)


# -- layers


@pytest.mark.parametrize(
    ("name", "steepest", "most_curved"),
    [
        ("relu", 1.0, 0.0),
        ("tanh", 1.0, 4 / 3 / math.sqrt(3)),
        ("swish", 1.09984, 0.5),
        ("elu", 1.0, 1.0),
    ],
)
def test_the_derivatives_of_fixed_activations(name, steepest, most_curved):
    low, high = torch.full((3,), -4.0), torch.full((3,), 4.0)
    found = layers.steepness(create_activation(name, 3), low, high)
    assert found == pytest.approx((steepest, most_curved), abs=2e-2)


def test_the_derivatives_of_a_kaf_are_those_of_its_formula():
    layer = create_activation("kaf_elu", 4)
    with torch.no_grad():
        layer.alpha += torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    low, high = torch.full((4,), -2.0), torch.tensor([-1.0, 0.0, 1.0, 5.0])
    x = torch.stack([torch.linspace(-2.0, end, layers.POINTS, dtype=torch.float64) for end in high], 1)
    offsets = x[..., None] - layer.dictionary.double()
    gamma = layer.bandwidth.double()
    bumps = layer.alpha.double() * torch.exp(-gamma * offsets**2)
    slope = (bumps * -2 * gamma * offsets).sum(-1).abs().max().item()
    curvature = (bumps * (4 * gamma**2 * offsets**2 - 2 * gamma)).sum(-1).abs().max().item()
    assert layers.steepness(layer, low, high) == pytest.approx((slope, curvature), rel=1e-4)


def test_the_distances_of_the_layers():
    torch.manual_seed(0)
    model = create_model("resnet8", "kaf").eval()
    clean, attacked = torch.rand(2, 5, 3, 32, 32)
    found = layers.compare(model, clean, attacked, 2)
    assert [layer["name"] for layer in found[:2]] == ["stem.act", "layer1.0.act1"] and len(found) == 7
    with torch.no_grad():
        inputs = [model.stem.bn(model.stem.conv(some)) for some in (clean, attacked)]
        one, other = (model.stem.act(some).flatten(1) for some in inputs)
    stem = found[0]
    assert stem["distance"] == pytest.approx((one - other).norm(dim=1).mean().item(), rel=1e-4)
    relative = ((one - other).norm(dim=1) / one.norm(dim=1)).mean().item()
    assert stem["relative_distance"] == pytest.approx(relative, rel=1e-4)
    assert torch.allclose(stem["high"], torch.cat(inputs).amax((0, 2, 3)), atol=1e-5)
    assert stem["counts"].sum(1).tolist() == pytest.approx([1, 1])
    same = layers.compare(model, clean, clean, 5)[0]
    assert same["distance"] == 0 and torch.equal(same["counts"][0], same["counts"][1])


# -- gradients


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 48, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return functional.linear(images.flatten(1), self.weight)


def test_a_linear_networks_alignment_is_known():
    model, images = Linear(), torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    rows = model.weight[model(images).argmax(1)]
    expected = (rows * images.flatten(1)).sum(1).abs() / rows.norm(dim=1)
    assert torch.allclose(gradients.alignments(model, images, 4), expected, atol=1e-5)
    with torch.no_grad():
        model.weight.zero_()
    assert gradients.alignments(model, images, 4).tolist() == [0] * 6


def test_the_landscape_is_the_loss_around_the_image():
    model, images = Linear(), torch.full((2, 3, 4, 4), 0.5)
    labels = torch.tensor([3, 4])
    gradient, loss = gradients.loss_gradients(model, images, labels, 1)
    surface = gradients.landscape(model, images, labels, gradient, 0.1, 2)
    middle = gradients.GRID // 2
    assert torch.allclose(surface[:, middle, middle], loss, atol=1e-5)
    expected = gradients.losses(model, images + 0.1 * gradient.sign(), labels, 2)
    assert torch.allclose(surface[:, middle, -1], expected, atol=1e-5)
    assert (surface[:, middle].diff(dim=1) > 0).all(), "convex, and along its gradient"
    assert gradients.rising(model, images, labels, gradient, loss, 0.01, 2).all()
    assert not gradients.rising(model, images, labels, 0 * gradient, loss, 0.01, 2).any()


# -- finished cards


def test_a_card_comes_back_whole(tmp_path):
    path = write_card(tmp_path, zero_gradients=0.5)
    found = cards.read(path)
    assert str(found) == "vgg/kaf/seed0" and found.failed == ("gradients_exist",)
    assert cards.tensors(found)["landscapes"].shape == (3, 15, 15)


def test_damaged_cards_are_refused(tmp_path):
    path = write_card(tmp_path)
    found = cards.read(path)
    tensors = path.with_suffix(".safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(UserError, match="its checksum is not the one in"):
        cards.tensors(found)
    tensors.unlink()
    with pytest.raises(UserError, match="no such file, but"):
        cards.tensors(found)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match="damaged"):
        cards.read(path)
    write_json(path, {"kind": "evaluation"})
    with pytest.raises(UserError, match="not an evaluation card"):
        cards.read(path)
    write_json(path, {"kind": "card", "experiment": "vgg"})
    with pytest.raises(UserError, match="lacks activation, seed"):
        cards.read(path)


def test_the_table_marks_what_fails(tmp_path):
    paths = [
        write_card(tmp_path, "relu"),
        write_card(tmp_path, "kaf", zero_gradients=0.5),
        write_card(tmp_path, "kaf", seed=1, rising_losses=0.5),
    ]
    of_all = [cards.read(path) for path in paths]
    rows = list(csv.DictReader(io.StringIO(typesetting.to_csv(card_table.build(of_all, "VGG")))))
    assert [row["failed"] for row in rows] == ["0", "1", "1"]
    assert rows[1]["gradients_exist"] == "0.5" and rows[1]["gradients_exist_passed"] == "False"
    assert rows[0]["accuracy_square"] == "0.6" and rows[0]["alignment"] == "1.25"
    text = typesetting.to_markdown(card_table.build(of_all, "VGG"))
    lines = text.splitlines()
    assert len({len(line) for line in lines[:6]}) == 1, "columns in line"
    assert "of 50 images" in lines[3] and "at least 45" in lines[3]
    assert "ReLU, seed 0  " in lines[4] and "§" not in lines[4]
    assert "KAF, seed 0 §" in lines[5] and "**50.0** § (25 of 50, at most 2)" in lines[5]
    assert "**50.0** § (25 of 50, at least 45)" in lines[6]
    assert "at least 95.0" in lines[2] and "on 50 test images" in text
    assert set(captions.CHECK_HEADS) == {check.name for check in checks.CHECKS}
    assert cards.failed_checks(of_all) == {"relu": [], "kaf": ["gradients_exist", "gradient_leads_up"]}


def test_more_seeds_are_not_more_often_marked(tmp_path):
    of_all = [
        cards.read(write_card(tmp_path, "kaf", seed=seed, zero_gradients=0.06 if seed == 2 else 0.0))
        for seed in range(5)
    ]
    assert of_all[2].failed == ("gradients_exist",)
    assert cards.failed_checks(of_all[2:3]) == {"kaf": ["gradients_exist"]}
    assert cards.failed_checks(of_all) == {"kaf": []}
    broken = cards.read(write_card(tmp_path, "kaf", seed=5, zero_gradients=0.2))
    assert cards.failed_checks([*of_all, broken]) == {"kaf": ["gradients_exist"]}, (
        "one broken network is not averaged out"
    )


def test_the_script_refuses_other_weights(tmp_path):
    save_model(create_model("resnet8", "relu"), tmp_path / "model.safetensors")
    write_json(tmp_path / "record.json", {"model_sha256": "0"})
    arguments = ["--model", tmp_path / "model.safetensors", "--model-record", tmp_path / "record.json"]
    arguments += ["--data", "x", "--settings", "{}", "--record", "x.json", "--tensors", "x.safetensors"]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "not the weights that" in done.stderr


def test_a_failing_card_marks_its_row_in_the_tables(tmp_path):
    built = Results(tmp_path)
    for activation in ("relu", "kaf"):
        built.add(activation, {"clean": 150, "pgd": 80})
    rows = summary.summarize(manifest.read_manifest(built.manifest()))
    settings = {
        "title": "VGG",
        "activations": ["relu", "kaf"],
        "reference": None,
        "headline": "pgd",
        "attacks": ATTACKS,
    }
    failed = {"relu": [], "kaf": ["gradients_exist", "slopes"]}
    marked = tables.build(rows, "vgg", settings, failed=failed)
    text = typesetting.to_markdown(marked)
    assert "| KAF § " in text and "| ReLU  " in text
    assert "fails checks of its evaluation card" in marked.caption
    assert "(KAF: gradients exist, slopes)" in marked.caption
    assert r"KAF$^\S$ &" in typesetting.to_tex(marked)
    plain = tables.build(rows, "vgg", settings)
    assert "evaluation card" not in plain.caption and "§" not in typesetting.to_markdown(plain)


def test_the_reference_results_are_what_the_checks_say():
    """The committed cards of 100 images: their bounds are those of the code, and so are their verdicts."""
    folder = next(Path(__file__).parents[2].glob("results/reference/*/cards"))
    cells = [line[2:-2].split(" | ") for line in (folder / "published.md").read_text().splitlines()[:4]]
    heads, _, bounds, images = [[cell.strip() for cell in row[1:]] for row in cells]
    assert heads == [captions.CHECK_HEADS[check.name] for check in checks.CHECKS]
    assert bounds == [card_table._bound(check) for check in checks.CHECKS]
    assert images == [card_table._allowed(check, 100) for check in checks.CHECKS]
    with open(folder / "published.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for check in checks.CHECKS:
            figure, passed = float(row[check.name]), row[f"{check.name}_passed"] == "True"
            share = 1 - figure if check.at_least else figure
            most = check.bound if check.unit == "slope" else checks.allowed(check, int(row["examples"])) / 100
            assert passed == (share <= most), (row["activation"], check.name)
