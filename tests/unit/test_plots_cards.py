"""The pictures of evaluation cards: drawn from what a card holds, the same bytes again, parts kept apart."""

import itertools
import json
from pathlib import Path

import numpy
import pytest
from card_builder import CARD, CLASSES, PICTURES, write_card
from kafnets.report import card_table
from kafnets.report import cards as finished
from kafnets.report.plots import classes, depth, layers, pictures, radii, style
from kafnets.report.typesetting import NOT_RUN
from kafnets.runtime.errors import UserError
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from plot_classes import by_class
from record_builders import Results

from tests.scripts import here

ACTIVATIONS = ["relu", "elu", "swish", "kaf", "kaf_relu", "kaf_elu", "kaf_swish", "kaf_free"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    found = [
        write_card(folder, name, alignment=1 + i / 10, clean_accuracy=0.7 + i / 100)
        for i, name in enumerate(ACTIVATIONS)
    ]
    return [*found, write_card(folder, "relu", experiment="standard", training="none")]


@pytest.fixture(scope="module")
def cards(paths):
    return [finished.read(path) for path in paths[:-1]]


def draw_all(cards):
    """name -> function that draws the figure anew."""
    by_name = {card.activation: card for card in cards}
    tensors = [finished.tensors(card) for card in cards]
    return {
        "radii": lambda: radii.draw({name: [card] for name, card in by_name.items()}),
        "depth": lambda: depth.draw(by_name),
        "saliency": lambda: pictures.saliency(cards, tensors),
        "landscapes": lambda: pictures.landscapes(cards, tensors),
        "gallery": lambda: pictures.gallery(cards[3], tensors[3]),
        "layers": lambda: layers.draw(cards[3], tensors[3]),
    }


def boxes(drawn, texts):
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw_without_rendering()
    return [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("name", ["radii", "depth", "saliency", "landscapes", "gallery", "layers"])
def test_the_same_bytes_again_and_no_title_over_another(name, cards, tmp_path):
    drawn = draw_all(cards)[name]()
    style.save(drawn, tmp_path / "1.pdf", tmp_path / "1.png")
    style.save(draw_all(cards)[name](), tmp_path / "2.pdf", tmp_path / "2.png")
    for kind in ("pdf", "png", "svg"):
        assert (tmp_path / f"1.{kind}").read_bytes() == (tmp_path / f"2.{kind}").read_bytes()
    titles = [text for axes in drawn.axes for text in (axes.title, axes._left_title, axes.xaxis.label)]
    found = boxes(drawn, titles)
    for one, other in itertools.combinations(found, 2):
        across, up = (
            min(getattr(one, high), getattr(other, high)) - max(getattr(one, low), getattr(other, low))
            for low, high in (("x0", "x1"), ("y0", "y1"))
        )
        assert across < 0.5 or up < 0.5, "one title over another"
    assert all(box.x0 >= -1 and box.x1 <= drawn.bbox.width + 1 for box in found), "cut off"


def test_the_scripts_draw_from_files(paths, tmp_path):
    """One that reads records and one that reads tensors too; the workflow's tests run them all."""
    for script, option, given in (("radii", "--cards", paths[:2]), ("gallery", "--card", paths[:1])):
        output = ["--pdf", tmp_path / f"{script}.pdf", "--png", tmp_path / f"{script}.png"]
        assert here(f"plot_{script}.py", option, *given, *output) == (0, "")
        assert (tmp_path / f"{script}.pdf").read_bytes().startswith(b"%PDF")


def test_the_radii_are_those_of_the_card(cards):
    one, other = cards[:2]
    by_radius, by_iteration = radii.draw({"relu": [one, other]}).axes
    assert list(by_radius.lines[0].get_xdata()) == [0, 1, 2, 4, 8, 16, 64, 128]
    assert list(by_radius.lines[0].get_ydata()) == pytest.approx([80, 78, 70, 60, 40, 10, 0, 0])
    assert len(by_iteration.lines[0].get_xdata()) == CARD["most_iterations"] + 1
    assert "50 images" in by_radius.get_ylabel()


def test_what_is_not_finite_is_a_gap(cards, tmp_path):
    figures = json.loads(Path(cards[3].path).read_text(encoding="utf-8"))["figures"]
    figures["layers"][1]["steepest"] = None
    figures["layers"][2]["most_curved"] = 0.0
    figures["layers"][3]["chi"] = None
    card = finished.read(write_card(tmp_path, "kaf", layers=figures["layers"]))
    panels = depth.draw({"kaf": card}).axes
    steepest, curved, growth = (panel.lines[0].get_ydata() for panel in panels[2:5])
    assert numpy.isnan(steepest).tolist() == [i == 1 for i in range(7)]
    # the first layer's curvature is 0 in these figures
    assert numpy.isnan(curved).tolist() == [i in (0, 2) for i in range(7)]
    assert numpy.isnan(growth).tolist() == [i == 3 for i in range(7)]


def test_cards_of_earlier_versions_know_no_chi(cards, tmp_path):
    layers_of_old = [
        {key: value for key, value in layer.items() if key != "chi"} for layer in cards[3].figures["layers"]
    ]
    old = finished.read(write_card(tmp_path, "kaf", layers=layers_of_old))
    assert len(depth.draw({"kaf": old}).axes) == 4
    assert len(depth.draw({"kaf": old, "relu": cards[0]}).axes[4].lines) == 2
    assert "χ" not in [column.head for column in card_table.build([old], "VGG").columns]
    both = card_table.build([old, cards[0]], "VGG")
    assert [row[-1].text for row in both.rows[-2:]] == [NOT_RUN, "1.39"]
    assert [record["chi"] for record in both.records] == [None, pytest.approx(1.3855, abs=1e-3)]


def test_clean_trained_networks_stand_first(paths):
    cards = [finished.read(path) for path in (paths[3], paths[-1])]
    drawn = pictures.saliency(cards, [finished.tensors(card) for card in cards])
    heads = [axes.get_title() for axes in drawn.axes[:3]]
    assert heads == ["Image", "ReLU\nclean-trained\nmean α 1.25", "KAF\nrobust\nmean α 1.30"]
    assert drawn.axes[1].get_xlabel() == "α 0.50"
    assert drawn.get_supxlabel().startswith("α: how well image and gradient align")


def test_gradients_on_other_images_are_not_compared(paths, tmp_path):
    cards = [finished.read(paths[0]), finished.read(write_card(tmp_path, "elu", images=1))]
    with pytest.raises(UserError, match="judged on other images than"):
        pictures.saliency(cards, [finished.tensors(card) for card in cards])


def test_no_gradient_is_grey():
    assert (pictures._stretched(numpy.zeros((3, 4, 4))) == 0.5).all()


def test_the_gallery_says_what_the_network_says(cards):
    drawn = pictures.gallery(cards[0], finished.tensors(cards[0]))
    clean, attacked = drawn.axes[0], drawn.axes[PICTURES]
    assert clean.get_title() == "plane: 88 %" and clean.title.get_color() == "black"
    assert attacked.get_title() == "car: 43 %" and attacked.title.get_color() == pictures.WRONG
    difference = drawn.axes[2 * PICTURES].images[0].get_array()
    assert 0 <= difference.min() < 0.25 and 0.75 < difference.max() <= 1


def test_the_shares_of_each_class():
    verdicts = numpy.array([[1, 1, 0, 1.0], [1, 0, 0, 0.5]])
    shares = by_class(verdicts, numpy.array([0, 0, 2, 2]), 3)
    assert shares[:, [0, 2]].tolist() == [[1, 0.5], [0.5, 0.25]] and numpy.isnan(shares[:, 1]).all()
    drawn = classes.draw({"relu": shares, "kaf": shares}, CLASSES[:3], [2, 0, 2])
    accuracy, robustness = drawn.axes
    assert [text.get_text() for text in accuracy.texts] == ["100", NOT_RUN, "50"] * 2
    assert [text.get_text() for text in robustness.texts] == ["50", NOT_RUN, "25"] * 2
    assert robustness.get_xlabel() == "Class (0 to 2 test images each)"
    assert [label.get_text() for label in robustness.get_yticklabels()] == ["ReLU", "KAF"]


def test_classes_of_an_attack_that_was_not_run(tmp_path):
    built = Results(tmp_path)
    built.add("relu", {"clean": 150, "pgd": 80})
    code, words = here(
        *("plot_classes.py", "--manifest", built.manifest(), "--experiment", "vgg", "--attack", "fgsm"),
        *("--data", "x", "--pdf", "x.pdf", "--png", "x.png"),
    )
    assert code == 2
    assert "'fgsm' is not run on vgg/relu/seed0; choose one of clean, pgd" in words
