"""Every figure is drawn from records, is the same bytes again, and keeps its parts apart."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy
import pytest
import torch
from kafnets import registry
from kafnets.models import create_model, save_model
from kafnets.report import manifest, summary
from kafnets.report.plots import (
    coinciding,
    history,
    iterations,
    kafs,
    lr_range,
    names,
    schedule,
    style,
    tradeoff,
)
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256, write_json
from kafnets.training.training import initial_model
from matplotlib import pyplot
from PIL import Image
from record_builders import ATTACKS, Results, edit_json

from tests import scripts

WORKFLOW = Path(__file__).parents[2] / "workflow"
PUBLISHED = WORKFLOW / "resources" / "thesis_results.yaml"
ACTIVATIONS = ["relu", "elu", "swish", "kaf", "kaf_relu", "kaf_elu", "kaf_swish", "kaf_free"]
SETTINGS = {
    "title": "ResNet20",
    "activations": ACTIVATIONS,
    "reference": "resnet20",
    "headline": "pgd",
    "attacks": {"pgd": ATTACKS["pgd"]},
}
TRAINING = {
    "epochs": 4,
    "learning_rate": [0.01, 0.4],
    "tail": {"epochs": 2, "learning_rate": 0.005, "halve_every": 1},
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    built = Results(tmp_path_factory.mktemp("results"))
    for i, activation in enumerate(ACTIVATIONS):
        for seed in range(2):
            built.add(activation, {"clean": 150 + i + seed, "pgd": 80 + i - seed}, seed=seed)
    return built


@pytest.fixture(scope="module")
def rows(results):
    return summary.summarize(manifest.read_manifest(results.manifest()))


def draw_twice(script, folder, *arguments):
    """Runs a plotting script here and in a new process; both pairs of files must be the same bytes."""
    files = []
    for run in ("here", "anew"):
        pdf, png = folder / run / "figure.pdf", folder / run / "figure.png"
        given = [*arguments, "--pdf", pdf, "--png", png]
        if run == "here":
            assert scripts.here(script, *given) == (0, "")
        else:
            command = [sys.executable, scripts.SCRIPTS / script, *given]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        files.append((pdf.read_bytes(), png.read_bytes()))
    assert files[0] == files[1]
    pdf, _ = files[0]
    assert b"CreationDate" not in pdf
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf, "TrueType fonts are embedded"
    assert Image.open(png).width >= 1000
    return files[0]


def fail(script, *arguments):
    code, words = scripts.here(script, *arguments, "--pdf", "x.pdf", "--png", "x.png")
    assert code == 2 and words.count("\n") == 1, words
    return words


def test_tradeoff_script(rows, tmp_path):
    summary.write_rows(tmp_path / "s.csv", rows)
    arguments = ["--experiment", "vgg", "--settings", json.dumps(SETTINGS), "--published", PUBLISHED]
    draw_twice("plot_tradeoff.py", tmp_path, "--summary", tmp_path / "s.csv", *arguments)


def test_history_script(results, tmp_path):
    draw_twice("plot_history.py", tmp_path, "--manifest", results.manifest(), "--experiment", "vgg")


def test_iterations_script(results, tmp_path):
    arguments = ["--manifest", results.manifest(), "--experiment", "vgg"]
    draw_twice("plot_iterations.py", tmp_path, *arguments, "--attack", "pgd")
    assert "'fgsm' is not run on vgg/relu/seed0; choose one of clean, pgd" in fail(
        "plot_iterations.py", *arguments, "--attack", "fgsm"
    )
    assert "choose an iterative one" in fail("plot_iterations.py", *arguments, "--attack", "clean")


def test_schedule_script(tmp_path):
    settings = {"title": "VGG", "activations": dict.fromkeys(ACTIVATIONS, TRAINING)}
    draw_twice("plot_schedule.py", tmp_path, "--settings", json.dumps(settings))


def test_lr_range_script(tmp_path):
    pairs = {"--csv": [], "--json": []}
    for activation, suggested in (("relu", (0.01, 0.3)), ("kaf", (None, None))):
        paths = {kind: tmp_path / f"{activation}{kind.replace('--', '.')}" for kind in pairs}
        with open(paths["--csv"], "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
            writer.writerows(
                [k, 1e-4 * 1.1**k, 2.3 - 0.01 * k + 0.1 * (-1) ** k, 2.3 - 0.01 * k] for k in range(90)
            )
        suggested = dict(zip(("min", "max"), suggested, strict=True))
        record = {"kind": "lr_range", "activation": activation, "suggested": suggested}
        write_json(paths["--json"], {**record, "csv_sha256": sha256(paths["--csv"])})
        for kind, path in paths.items():
            pairs[kind].append(path)
    draw_twice("plot_lr_range.py", tmp_path, "--csv", *pairs["--csv"], "--json", *pairs["--json"])
    unpaired = fail("plot_lr_range.py", "--csv", *pairs["--csv"], "--json", pairs["--json"][0])
    assert "2 files are needed, one for each of --csv" in unpaired
    pairs["--csv"][1].write_text(pairs["--csv"][1].read_text().replace("89,", "88,"))
    damaged = fail("plot_lr_range.py", "--csv", *pairs["--csv"], "--json", *pairs["--json"])
    assert "kaf.csv: its checksum is not the one in" in damaged


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network's folder whose KAFs were moved a little from their start, as training does."""
    folder = tmp_path_factory.mktemp("model")
    settings = {
        "seed": 3,
        "architecture": "resnet8",
        "activation": "kaf_elu",
        "num_classes": 10,
        "activation_arguments": {},
        "architecture_arguments": {"block": "thesis"},
    }
    model = initial_model(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                parameter += 0.05 * torch.randn_like(parameter)
    save_model(model, folder / "model.safetensors")
    record = {"kind": "training", "activation": "kaf_elu", "settings": settings}
    write_json(folder / "record.json", {**record, "model_sha256": sha256(folder / "model.safetensors")})
    return folder


def test_kafs_script(trained, tmp_path):
    arguments = ["--model", trained / "model.safetensors", "--record", trained / "record.json"]
    draw_twice("plot_kafs.py", tmp_path, *arguments)


def test_kafs_of_other_weights_than_the_records_are_refused(trained, tmp_path):
    write_json(tmp_path / "record.json", {"activation": "kaf_elu", "settings": {}, "model_sha256": "0"})
    arguments = ["--model", trained / "model.safetensors", "--record", tmp_path / "record.json"]
    assert "not the weights that" in fail("plot_kafs.py", *arguments)


def test_the_shapes_are_the_layers_functions_in_forward_order(trained):
    torch.manual_seed(0)
    initial, model = create_model("resnet8", "kaf_elu"), create_model("resnet8", "kaf_elu")
    with torch.no_grad():
        model.stem.act.alpha += 1
        model.stem.bn.weight.fill_(0.5)
        model.stem.bn.bias.fill_(1.0)
    layers = kafs.shapes(initial, model)
    assert [layer.name for layer in layers][:3] == ["stem.act", "layer1.0.act1", "layer1.0.act2"]
    assert len(layers) == 7
    stem = layers[0]
    x = torch.tensor(stem.x)
    kernel = torch.exp(-model.stem.act.bandwidth * (x[:, None] - model.stem.act.dictionary) ** 2)
    expected = (kernel @ model.stem.act.alpha.T).T.detach().numpy()
    # ridge coefficients near 72 of alternating sign: float32 keeps about four digits of their sum
    assert numpy.allclose(stem.after, expected, atol=1e-3)
    assert abs(stem.after - stem.before).max() > 1
    assert stem.before.shape == stem.slopes_after.shape == (16, kafs.POINTS)
    slopes = numpy.gradient(stem.after, stem.x, axis=1)
    assert numpy.allclose(stem.slopes_after[:, 1:-1], slopes[:, 1:-1], atol=0.05 * abs(slopes).max())
    assert stem.x[stem.density.argmax()] == pytest.approx(1.0, abs=0.05)
    assert numpy.trapezoid(stem.density, stem.x) == pytest.approx(1.0, abs=1e-3)


def test_a_normalisation_before_an_addition_says_nothing_of_the_inputs():
    model = create_model("resnet8", "kaf", block="original")
    density = {layer.name: layer.density for layer in kafs.shapes(model, model)}
    assert density["layer1.0.act1"] is not None
    assert density["layer1.0.act2"] is None


def test_the_dense_layers_kaf_has_no_normalisation():
    model = create_model("vgg", "kaf")
    *convolutional, dense = kafs.shapes(model, model)
    assert dense.density is None
    assert len(convolutional) == 6 and all(layer.density is not None for layer in convolutional)


def test_a_network_without_kafs_is_refused():
    model = create_model("resnet8", "relu")
    with pytest.raises(UserError, match="no learned activation"):
        kafs.shapes(model, model)


def test_the_median_channel_is_a_real_channel():
    curves = numpy.array([[0.0, 9.0], [1.0, 1.0], [9.0, 0.0]])
    assert kafs.median_channel(curves) == 1


def test_every_activation_of_the_registry_has_a_look_of_its_own():
    looks = {name: (style.colour(name), style.learns(name)) for name in registry.ACTIVATIONS}
    assert len(set(looks.values())) == len(looks)
    for name in registry.ACTIVATIONS:
        entry = registry.ACTIVATIONS[name]
        assert style.marker(name)["marker"] == (entry.marker or ("X" if entry.learns else "d"))
        assert (style.line(name)["linestyle"] == "-") == entry.learns
    assert style.colour("unknown") == style.GREY


def test_the_user_s_matplotlib_settings_change_nothing():
    assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert matplotlib.get_backend().lower() == "agg"


def overlap(box, other):
    across = min(box.x1, other.x1) - max(box.x0, other.x0)
    up = min(box.y1, other.y1) - max(box.y0, other.y0)
    return across > 0.01 and up > 0.01


@pytest.mark.parametrize("seed", range(8))
def test_names_cover_neither_each_other_nor_points(seed):
    drawn, axes = style.figure(style.COLUMN, 3.0)
    generator = numpy.random.default_rng(seed)
    places = generator.normal([78, 48], [0.8, 0.8], (len(ACTIVATIONS), 2))
    axes[0, 0].scatter(*places.T)
    axes[0, 0].margins(0.14)
    points = dict(zip(ACTIVATIONS, places, strict=True))
    names.fix(drawn)
    points = {name: coinciding.in_points(axes[0, 0], *place) for name, place in points.items()}
    boxes = names.write(drawn, axes[0, 0], points)
    assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))
    for x, y in axes[0, 0].transData.transform(places) * 72 / drawn.dpi:
        assert not any(box.contains(x, y) for box in boxes)


def test_tradeoff_shows_each_activation_and_its_published_point(rows):
    published = manifest.read_published(PUBLISHED, "resnet20")
    ours, theirs = tradeoff.draw(rows, SETTINGS, published).axes
    places = [{tuple(shown.get_offsets()[0]) for shown in axes.collections} for axes in (ours, theirs)]
    assert (77.52, 50.17) in places[1] and not any(x == 77.52 for x, _ in places[0])
    mean = summary.over_seeds(rows, "pgd")["mean"]["relu"]
    assert any(y == pytest.approx(100 * mean) for _, y in places[0])
    for axes in (ours, theirs):
        assert set(map(registry.label, ACTIVATIONS)) <= {text.get_text() for text in axes.texts}


def test_tradeoff_leaves_out_what_was_not_run(rows):
    some = rows[rows["activation"].isin(["relu", "kaf"])]
    written = {text.get_text() for text in tradeoff.draw(some, SETTINGS).axes[0].texts}
    assert {"ReLU", "KAF"} <= written and "Swish" not in written
    with pytest.raises(UserError, match="no activation has both"):
        tradeoff.draw(rows[:0], SETTINGS)


def test_history_leaves_out_epochs_that_were_not_probed(results):
    run = manifest.read_manifest(results.manifest())[0]
    curves = manifest.read_history(run)
    curves["probe_pgd_accuracy"] = [float("nan"), 0.2, float("nan"), 0.4, float("nan"), 0.5]
    drawn = history.draw({"relu": [curves]})
    panel = next(panel for panel in drawn.axes if "PGD" in panel.get_title("left"))
    assert list(panel.lines[0].get_xdata()) == [2, 4, 6]
    assert list(panel.lines[0].get_ydata()) == [20, 40, 50]
    assert panel.lines[1].get_xdata()[0] == 4.5, "the tail begins between epochs 4 and 5"


def test_a_history_of_another_length_than_the_records_is_refused(tmp_path):
    built = Results(tmp_path)
    line = built.add("relu", {"clean": 1})
    path = Path(line["history"])
    path.write_text(
        "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8"
    )
    edit_json(line["training_record"], history_sha256=sha256(path))
    with pytest.raises(UserError, match="has 5 epochs, the record 6"):
        manifest.read_history(manifest.read_manifest(built.manifest())[0])


def test_iterations_end_at_what_every_restart_left():
    drawn = iterations.draw({"kaf": [[0.8, 0.5, 0.4], [0.8, 0.5, 0.42]]}, {"kaf": 0.39}, 200)
    whole, end = drawn.axes
    assert list(whole.lines[0].get_ydata()) == pytest.approx([80, 50, 41])
    assert end.collections[0].get_offsets()[0][1] == pytest.approx(39)


def test_equal_schedules_share_a_line():
    drawn = schedule.draw({"relu": [0.1, 0.2], "kaf": [0.1, 0.2], "elu": [0.1, 0.3]})
    assert [line.get_label() for line in drawn.axes[0].lines] == ["ReLU, KAF", "ELU"]


def test_a_range_test_without_a_suggestion_says_why():
    losses = {"learning_rate": [0.1, 1.0], "loss": [2.0, 3.0], "smoothed_loss": [2.0, 3.0]}
    tests = [("relu", losses, {"min": None, "max": None}), ("kaf", losses, {"min": 0.1, "max": 1.0})]
    without, suggested = lr_range.draw(tests).axes[:2]
    assert (without.get_title("left"), suggested.get_title("left")) == ("ReLU", "KAF: 0.1 to 1")
    assert [text.get_text() for text in without.texts] == ["no range: the loss never fell"]
    assert not suggested.texts


def test_a_network_at_chance_is_marked_beside_its_point(tmp_path):
    built = Results(tmp_path)
    built.add("relu", {"clean": 150, "pgd": 80})
    built.add("kaf", {"clean": 20, "pgd": 20})
    rows = summary.summarize(manifest.read_manifest(built.manifest()))
    drawn = tradeoff.draw(rows, {**SETTINGS, "activations": ["relu", "kaf"]})
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert "KAF ¶" in texts and "ReLU" in texts
    assert "¶ no better than chance" in {text.get_text() for text in drawn.legends[0].get_texts()}


def test_a_diverged_end_does_not_flatten_the_range_test():
    smoothed = [2.3, 2.2, 2.0, 1.9, 1.9, 90.0]
    losses = {"learning_rate": [10.0**k for k in range(-4, 2)], "loss": smoothed, "smoothed_loss": smoothed}
    low, high = lr_range.draw([("relu", losses, {"min": 1e-3, "max": 1e-1})]).axes[0].get_ylim()
    assert low < 1.9 and 2.3 < high < 3
