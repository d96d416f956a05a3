"""What a reader sees of the plots: nothing lies over another thing, is cut off, hidden or missing unsaid."""

import itertools

import matplotlib
import numpy
import pytest
from card_builder import measured, write_card
from kafnets.registry import ACTIVATIONS
from kafnets.report import cards as finished
from kafnets.report import manifest, summary
from kafnets.report.cards import failed_checks
from kafnets.report.plots import (
    classes,
    coinciding,
    depth,
    history,
    iterations,
    layers,
    panels,
    pictures,
    radii,
    schedule,
    style,
    tradeoff,
)
from matplotlib import pyplot
from record_builders import ATTACKS, Results

NAMES = ["relu", "swish", "kaf", "kaf_swish"]
SETTINGS = {"title": "VGG", "activations": NAMES, "headline": "pgd", "attacks": dict(ATTACKS)}
PUBLISHED = {
    "results": {"relu": {"accuracy": 78.1, "robustness": 45.4}, "kaf": {"accuracy": 77.9, "robustness": 46.8}}
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def boxes(drawn, texts):
    drawn.draw_without_rendering()
    renderer = drawn.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text()]


def check_ticks(drawn):
    """No tick's label lies over another one of its axis, and every label of an axis is on the figure."""
    drawn.draw_without_rendering()
    for panel in filter(lambda one: one.get_visible(), drawn.axes):
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [(tick.get_loc(), tick.label1, tick.label2) for tick in axis.get_major_ticks()]
            shown = boxes(drawn, [text for place, *texts in ticks if low <= place <= high for text in texts])
            for one, other in itertools.combinations(shown, 2):
                assert not one.overlaps(other), (panel.get_title("left"), axis)
            for box in boxes(drawn, [axis.label]):
                assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= drawn.bbox.x1 + 1
                assert box.y1 <= drawn.bbox.y1 + 1, axis.label.get_text()


def rows_of(folder, counts, seeds=1):
    built = Results(folder)
    for name, correct in counts.items():
        for seed in range(seeds):
            built.add(name, {attack: n + seed for attack, n in correct.items()}, seed=seed)
    return summary.summarize(manifest.read_manifest(built.manifest()))


def segments(panel):
    """The ends of the straight lines of two points in a panel, a set of pairs."""
    lines = [numpy.round(line.get_xydata(), 2) for line in panel.lines if len(line.get_xdata()) == 2]
    return {tuple(map(tuple, line.tolist())) for line in lines}


# -- accuracy against robustness


def test_published_robustness_is_joined_to_the_same_measurement_only(tmp_path):
    rows = rows_of(
        tmp_path,
        {
            "relu": {"clean": 150, "pgd": 80, "thesis_pgd": 90},
            "swish": {"clean": 152, "pgd": 81, "thesis_pgd": 93},
            "kaf": {"clean": 156, "pgd": 84},
        },
    )
    labels, protocol = tradeoff.draw(rows, SETTINGS, PUBLISHED).axes
    assert "true labels" in labels.get_ylabel() and "thesis protocol" in protocol.get_ylabel()
    assert not any((78.1, 45.4) in ends for ends in segments(labels))
    joined = [ends for ends in segments(protocol) if (78.1, 45.4) in ends]
    assert joined == [((75.0, 45.0), (78.1, 45.4))]
    # the published KAF has nothing of its kind here
    assert not any((77.9, 46.8) in ends for ends in segments(protocol))
    said = [text.get_text() for text in protocol.texts]
    assert "no figures: KAF, KAF_Swish" in said and "KAF" in said
    without = rows[rows["attack"] != "thesis_pgd"]
    _, protocol = tradeoff.draw(without, SETTINGS, PUBLISHED).axes
    assert "published only: not measured here" in [text.get_text() for text in protocol.texts]
    assert not any((78.1, 45.4) in ends for ends in segments(protocol))


def test_the_bars_are_the_intervals_of_the_table(tmp_path):
    one = rows_of(tmp_path / "one", {"relu": {"clean": 150, "pgd": 80}})
    drawn = tradeoff.draw(one, {**SETTINGS, "activations": ["relu"]})
    # Wilson's of 150 and 80 of 200 images, as in the table's own test
    assert {((75.0, 33.46), (75.0, 46.92)), ((68.57, 40.0), (80.49, 40.0))} <= segments(drawn.axes[0])
    assert "95 % interval (one seed)" in [text.get_text() for text in drawn.legends[0].get_texts()]
    several = rows_of(tmp_path / "two", {"relu": {"clean": 150, "pgd": 80}}, seeds=3)
    drawn = tradeoff.draw(several, {**SETTINGS, "activations": ["relu"]})
    assert ((75.5, 40.0), (75.5, 41.0)) in segments(drawn.axes[0])  # 40, 40.5 and 41
    assert "± deviation over seeds" in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_no_robustness_at_all_has_an_axis_of_shares(tmp_path):
    rows = rows_of(tmp_path, {"relu": {"clean": 199, "pgd": 0}})
    panel = tradeoff.draw(rows, {**SETTINGS, "activations": ["relu"]}).axes[0]
    low, high = panel.get_ylim()
    assert low < 0 and high - low >= 4 * 1.2 - 1e-9
    for axis in (panel.xaxis, panel.yaxis):
        ticks = [tick for tick in axis.get_majorticklocs() if axis.get_view_interval()[0] <= tick]
        assert all(0 <= tick <= 100 for tick in ticks)


def test_coinciding_markers_stand_side_by_side(tmp_path):
    counts = {
        "relu": {"clean": 150, "pgd": 80},
        "kaf": {"clean": 150, "pgd": 80},
        "swish": {"clean": 170, "pgd": 95},
    }
    panel = tradeoff.draw(rows_of(tmp_path, counts), SETTINGS).axes[0]
    places = [
        marker.get_offset_transform().transform(marker.get_offsets())[0] for marker in panel.collections
    ]
    apart = [
        numpy.hypot(*(one - other)) * 72 / panel.figure.dpi
        for one, other in itertools.combinations(places, 2)
    ]
    assert len(places) == 3 and min(apart) >= coinciding.APART - 0.01


def test_one_network_far_away_leaves_the_panel_to_the_others(tmp_path):
    names = ["relu", "elu", "swish", "gelu", "kaf_swish", "kaf"]
    counts = {name: {"clean": 150 + 2 * i, "pgd": 80 + i} for i, name in enumerate(names)}
    settings = {**SETTINGS, "activations": names}
    together = tradeoff.draw(rows_of(tmp_path / "near", counts), settings)
    assert not any("beyond" in text.get_text() for text in together.legends[0].get_texts())
    far = {**counts, "kaf": {"clean": 20, "pgd": 20}}
    drawn = tradeoff.draw(rows_of(tmp_path / "far", far), settings)
    (panel,) = drawn.axes
    assert panel.get_xlim()[0] > 60 and panel.get_ylim()[0] > 25
    assert "KAF ¶ (10.0, 10.0)" in [text.get_text() for text in panel.texts]
    assert "(…) beyond the axes" in [text.get_text() for text in drawn.legends[0].get_texts()]
    marker = panel.collections[-1]
    (place,) = marker.get_offset_transform().transform(marker.get_offsets())
    assert panel.get_window_extent().contains(*place)
    two = {name: far[name] for name in ("relu", "kaf")}
    (panel,) = tradeoff.draw(rows_of(tmp_path / "two", two), settings).axes
    assert panel.get_xlim()[0] < 10 and "KAF ¶" in [text.get_text() for text in panel.texts]


# -- ticks, labels, limits, ink


@pytest.mark.parametrize("ends", [(0.4, 2.3), (0.98, 1.03), (1e-7, 3), (0.02, 0.5), (3, 40), (1.2, 4.8)])
def test_ticks_of_a_logarithmic_axis_are_few_and_plain(ends):
    ticks = panels.PlainLog().tick_values(*ends)
    assert 2 <= len(ticks) <= 6 and all(ends[0] <= tick <= ends[1] for tick in ticks)
    assert [panels.plain(value) for value in (0.02, 1.0, 500, 0)] == ["0.02", "1", "500", "0"]
    assert panels.plain(1e-7) == "$10^{-7}$" and panels.plain(3e8) == r"$3\times 10^{8}$"


def test_labels_of_ticks_keep_apart(tmp_path):
    card = finished.read(write_card(tmp_path, "kaf"))
    tensors = finished.tensors(card)
    check_ticks(layers.draw(card, tensors))
    check_ticks(depth.draw({"kaf": card}))
    check_ticks(radii.draw({"kaf": [card]}))
    check_ticks(iterations.draw({"kaf": [[0.9, 0.6, 0.5]]}, {"kaf": 0.4}, 100))
    check_ticks(schedule.draw({"kaf": [0.02, 0.2, 0.5, 0.03]}))


def test_numbers_are_read_on_every_colour_and_many_classes_have_a_scale():
    drawn = classes.draw(
        {"relu": numpy.linspace(0, 1, 20).reshape(2, 10)}, [str(i) for i in range(10)], [10] * 10
    )
    assert drawn.axes[1].get_xlabel() == "Class (10 test images each)"
    for panel in drawn.axes:
        image = panel.images[0]
        for text, value in zip(panel.texts, image.get_array().ravel(), strict=True):
            assert panels.contrast(text.get_color(), image.to_rgba(value)[:3]) >= panels.READABLE
    assert panels.contrast("black", "white") == pytest.approx(21)
    names = [f"a long name {i}" for i in range(100)]
    many = classes.draw({"relu": numpy.full((2, 100), 0.5)}, names, [1] * 100)
    assert not many.axes[0].texts and len(many.axes) == 3, "colours have a scale where there are no numbers"
    check_ticks(many)


def test_names_on_white_are_dark_enough():
    for name in ACTIVATIONS:
        assert panels.contrast(style.written(name), "white") >= panels.READABLE
    assert style.written("kaf") == (0, 0, 0)


def test_a_legend_is_no_wider_than_its_figure():
    drawn, axes = style.figure(style.COLUMN, 2)
    for name in ACTIVATIONS:
        axes[0, 0].plot([0, 1], [0, 1], **style.line(name))
    style.legend(drawn, 8)
    drawn.draw_without_rendering()
    legend = drawn.legends[0]
    assert legend.get_window_extent(drawn.canvas.get_renderer()).width <= drawn.bbox.width
    assert len(legend.get_texts()) == len(ACTIVATIONS)


# -- what is hidden or missing


def test_markers_of_many_networks_stay_on_the_figure():
    names = list(ACTIVATIONS)[:12]
    drawn = iterations.draw(
        {name: [numpy.linspace(0.3, 0.2, 21)] for name in names},
        {name: 0.2 + 0.001 * i for i, name in enumerate(names)},
        1000,
    )
    panel = drawn.axes[1]
    places = [
        marker.get_offset_transform().transform(marker.get_offsets())[0] for marker in panel.collections[-12:]
    ]
    assert all(panel.get_window_extent().contains(*place) for place in places)
    least = min(numpy.hypot(*(one - other)) for one, other in itertools.combinations(places, 2))
    assert least * 72 / drawn.dpi >= coinciding.APART - 0.01
    check_ticks(drawn)


def test_markers_that_hide_each_other_keep_their_heights():
    places = numpy.array([[10.0, 10.0], [11.0, 12.0], [40.0, 10.0]])
    moves = coinciding.side_by_side(places)
    assert not moves[:, 1].any() and not moves[2].any()
    assert abs((places + moves)[0, 0] - (places + moves)[1, 0]) == pytest.approx(coinciding.APART)


def test_dots_that_coincide_have_rings():
    drawn, axes = style.figure(2, 2)
    for colour, values in (("red", [0, 1]), ("blue", [0, 2]), ("green", [0, 3])):
        axes[0, 0].plot([0, 1], values, marker=".", color=colour)
    coinciding.rings(drawn)
    rings = axes[0, 0].collections
    assert [matplotlib.colors.to_hex(ring.get_edgecolor()[0]) for ring in rings] == ["#0000ff", "#ff0000"]
    assert all(tuple(ring.get_offsets()[0]) == (0, 0) for ring in rings)
    assert rings[0].get_sizes()[0] < rings[1].get_sizes()[0]


def test_rings_of_lines_that_run_together_are_no_chain():
    drawn, axes = style.figure(style.COLUMN, 2)
    for colour in ("red", "blue"):
        axes[0, 0].plot(range(60), [1] * 60, marker=".", color=colour)
    coinciding.rings(drawn)
    places = [coinciding.in_points(axes[0, 0], *ring.get_offsets()[0]) for ring in axes[0, 0].collections]
    gaps = [numpy.hypot(*(one - other)) for one, other in itertools.pairwise(places)]
    assert len(places) > 3 and min(gaps) >= coinciding.FREE


def test_a_panel_says_whose_curve_it_has_not(tmp_path):
    straight = [{**layer, "most_curved": 0.0} for layer in measured()["layers"]]
    card = finished.read(write_card(tmp_path, "relu", layers=straight))
    curved = depth.draw({"relu": card}).axes[3]
    assert [text.get_text() for text in curved.texts] == ["ReLU: 0 in every layer"]
    drawn = depth.draw({"relu": card, "kaf": finished.read(write_card(tmp_path, "kaf"))})
    (said,) = drawn.axes[3].texts
    assert said.get_text() == "ReLU: 0 in every layer\nKAF: 0 in 1 layer"
    (box,) = boxes(drawn, [said])
    for line in drawn.axes[3].lines:
        dots = drawn.axes[3].transData.transform(line.get_xydata())
        assert not any(box.contains(*dot) for dot in dots if numpy.isfinite(dot).all())


def test_what_float32_cannot_tell_stands_at_the_edge_and_leaves_the_axis_readable(tmp_path):
    layers = [{**measured()["layers"][0], "name": str(i), "most_curved": 1.0 + i} for i in range(4)]
    layers[1] |= {"most_curved": 2.8e-284, "chi": 5e203}
    card = finished.read(write_card(tmp_path, "kaf", layers=layers))
    drawn = depth.draw({"kaf": card})
    check_ticks(drawn)
    curved, growth = drawn.axes[3:5]
    assert [text.get_text() for text in curved.texts] == ["KAF: below $10^{-7}$ in 1 layer"]
    assert [text.get_text() for text in growth.texts] == ["KAF: above $10^{7}$ in 1 layer"]
    for panel, marker in ((curved, "v"), (growth, "^")):
        low, high = panel.get_ylim()
        assert low > 1e-3 and high < 1e3
        line, edge = panel.lines
        assert numpy.isnan(line.get_ydata()[1]) and edge.get_marker() == marker
        assert list(edge.get_xdata()) == [2] and low <= edge.get_ydata()[0] <= high


def test_few_held_out_measurements_are_not_joined_and_none_is_said(tmp_path):
    built = Results(tmp_path)
    for name in ("relu", "kaf"):
        built.add(name, {"clean": 150})
    curves = [manifest.read_history(run) for run in manifest.read_manifest(built.manifest())]
    for one in curves:
        one["probe_fgsm_accuracy"] = [None, None, 0.3, None, None, 0.5]
        one["probe_pgd_accuracy"] = float("nan")
        one["probe_fgsm_accuracy"] = one["probe_fgsm_accuracy"].astype(float)
    short = curves[1][:4]
    drawn = history.draw({"relu": [curves[0]], "kaf": [curves[1], short]})
    fgsm, pgd = drawn.axes[3:5]
    assert fgsm.lines[0].get_linestyle() == "None" and fgsm.lines[0].get_marker() == "d"
    assert [text.get_text() for text in pgd.texts] == ["not measured"]
    assert list(drawn.axes[0].lines[1].get_xdata()) == [1, 2, 3, 4], "the mean of the same seeds"
    assert "KAF: mean up to epoch 4, where a seed stopped" in [
        text.get_text() for text in drawn.axes[0].texts
    ]


def test_the_difference_of_an_attack_does_not_saturate():
    image = numpy.full((1, 2, 2), 0.5)
    for eps in (2 / 255, 64 / 255):
        added = eps * numpy.array([[[-1, -0.5], [0.5, 1]]])
        shown = pictures.difference(image, image + added, eps)
        assert shown.ravel() == pytest.approx([0, 0.25, 0.75, 1])


# -- marks of rows of several seeds


def test_a_row_is_marked_no_more_often_for_more_seeds(tmp_path):
    """Networks at a bound, 2 % of 50 images, and slopes beyond theirs in a third of the seeds."""
    generator = numpy.random.default_rng(0)
    fooled = generator.binomial(50, 0.02, (40, 6)) / 50
    found = [
        [
            finished.Card(
                "vgg", "kaf", seed, "fbf", (), {}, {**measured(), "only_black_box": share}, (), "", ""
            )
            for seed, share in enumerate(shares)
        ]
        for shares in fooled
    ]
    rates = [numpy.mean([bool(failed_checks(seeds[:n])["kaf"]) for seeds in found]) for n in (1, 6)]
    assert rates[1] <= max(rates[0], 0.05)
    steep = {**measured(), "layers": [{**layer, "steepest": 11.0} for layer in measured()["layers"]]}
    of_three = [
        finished.Card("vgg", "kaf", seed, "fbf", (), {}, figures, (), "", "")
        for seed, figures in enumerate((steep, measured(), measured()))
    ]
    assert failed_checks(of_three[:1]) == {"kaf": ["slopes"]} and failed_checks(of_three) == {"kaf": []}
    assert failed_checks([of_three[0]] * 2 + of_three[1:2]) == {"kaf": ["slopes"]}
