"""Tables and plot of detectors: every number counted again from the scores; the configuration's checks."""

import copy
import csv
import io

import numpy as np
import pytest
from detection_builder import EXAMPLES, SETTINGS, THRESHOLDS, as_json, columns, write, write_all
from kafnets.config import detection
from kafnets.config.checks import validate
from kafnets.report import detection_table, detections, statistics
from kafnets.report.plots import detection as plot
from kafnets.report.typesetting import NOT_RUN, to_csv, to_markdown, to_tex
from kafnets.runtime.errors import UserError
from matplotlib import pyplot

from tests.scripts import here
from tests.unit.config_builders import BASE, PUBLISHED, SCHEMA, changed, refused


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("detections"))


@pytest.fixture(scope="module")
def guarded(paths):
    return detections.guarded([detections.read(path) for path in paths], SETTINGS)


def counted(attacks, detector, activation, rate):
    """Image by image: shares of the fooled rejected, of all images that evade, and that are robust."""
    found, limit = [columns(attack, detector, activation) for attack in attacks], THRESHOLDS[rate]
    rejected = misclassified = evaded = robust = 0
    for image in range(EXAMPLES):
        scores = [one["score"][image] for one in found if one["answer"][image] != one["label"][image]]
        fooled, passed = bool(scores), bool(scores) and min(scores) <= limit
        evaded += passed
        first = found[0]
        right = first["clean_answer"][image] == first["label"][image]
        misclassified += right and fooled
        rejected += right and fooled and not passed
        robust += right and first["clean_score"][image] <= limit and not passed
    return rejected / misclassified, evaded / EXAMPLES, robust / EXAMPLES


def test_the_table_is_counted_from_the_scores(guarded):
    table = detection_table.build(guarded, SETTINGS)
    heads = [f"{column.group} {column.head}".strip() for column in table.columns]
    detectors = ("confidence", "metzen dynamic")
    names = [row[0].text for row in table.rows]
    assert names == ["ReLU", *detectors, "KAF", *detectors]
    rows = [row for row in table.rows if row[1].text]
    assert all(len(row) == len(heads) for row in table.rows)
    for row, (activation, detector) in zip(
        rows, [(a, d) for a in ("relu", "kaf") for d in SETTINGS["detectors"]], strict=True
    ):
        cells = dict(zip(heads, row, strict=True))
        for kind, attacks in (("static", ["static"]), ("adaptive", ["static", "orthogonal"])):
            for percent, rate in (("1", 0.01), ("5", 0.05)):
                detected, evaded, robust = counted(attacks, detector, activation, rate)
                assert cells[f"{kind} TPR@{percent}"].text == f"{100 * detected:.1f}"
            assert cells[f"{kind} SR@5"].text == f"{100 * evaded:.1f}"
        interval = statistics.wilson(round(evaded * EXAMPLES), EXAMPLES)
        shown = f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"
        assert cells["adaptive SR@5"].interval == shown
        assert cells["adaptive robust@5"].text == f"{100 * robust:.1f}"
        clean = columns("static", detector, activation)["clean_score"]
        assert cells["clean false@5"].text == f"{100 * np.mean(clean > THRESHOLDS[0.05]):.1f}"
        # who knows the detector evades it, who does not is caught
        assert float(cells["adaptive SR@5"].text) > float(cells["static SR@5"].text) + 20
        assert float(cells["static AUC"].text) > 0.85 > float(cells["adaptive AUC"].text)


def test_it_says_what_it_is_of(guarded):
    caption = detection_table.build(guarded, SETTINGS).caption
    for part in (
        "Tiny_50%",
        "PGD, ε 8/255, step 1/255, iterations 20",
        "static, orthogonal has it misclassified, L∞, ε = 8/255, and of cw what lies in that ball",
        "200 test images; thresholds fixed on 1,000 others",
        "metzen dynamic: detector network, trained on PGD examples made against itself",
        "Natural errors, images misclassified unperturbed: ReLU 10.0%, KAF 10.0%.",
        "arXiv:2107.11630",
        "at ε/2",
    ):
        assert part in caption, part
    of_attacks = detection_table.of_attacks(guarded, SETTINGS).caption
    assert "cw: C&W, N + 1 classes, iterations 20, search steps 5;" in of_attacks
    alone = {**SETTINGS, "merged": ["cw"]}
    assert "cw has it misclassified, at any distance" in detection_table.build(guarded, alone).caption


def test_what_other_attacks_find_in_the_ball_counts_for_the_attacker(tmp_path):
    """C&W without a radius passes with every other image, half of these at half the radius."""
    settings = {**SETTINGS, "detectors": {"confidence": {"method": "confidence"}}}
    judged = [detections.read(path) for path in write_all(tmp_path, ["relu"], settings=settings)]
    (guarded,) = detections.guarded(judged, settings)
    cw = guarded.attacks["cw"].columns
    passing, near = np.arange(EXAMPLES) % 2 == 0, np.arange(EXAMPLES) % 4 == 0
    cw["answer"] = np.where(passing, (cw["label"] + 1) % 10, cw["label"])
    cw["score"] = np.full(EXAMPLES, -100.0)
    cw["linf"] = np.where(near, 4 / 255, 9 / 255)
    _, found = detection_table.attackers(guarded, settings)
    assert (found[near] == -100).all()
    before = np.minimum(guarded.attacks["static"].evading, guarded.attacks["orthogonal"].evading)
    assert np.array_equal(found[~near], before[~near]) and (before[near] > -100).any()
    assert "and of cw what lies in that ball" in detection_table.build([guarded], settings).caption


def test_every_attack_has_a_row(guarded):
    table = detection_table.of_attacks(guarded, SETTINGS)
    assert len(table.rows) == 2 * 2 * 3
    rows = [row for row in table.rows if row[0].text == "KAF" and row[1].text == "confidence"]
    assert [row[2].text for row in rows] == ["static", "cw", "orthogonal"]
    assert [row[3].text for row in rows] == ["no", "yes", "yes"]
    for row in rows:
        _, evaded, _ = counted([row[2].text], "confidence", "kaf", 0.05)
        assert row[-2].text == f"{100 * evaded:.1f}"
        found = columns(row[2].text, "confidence", "kaf")
        passed = (found["answer"] != found["label"]) & (found["score"] <= THRESHOLDS[0.05])
        assert row[-1].text == f"{np.median(found['l2'][passed]):.3f}"


def test_tables_are_set(guarded):
    for table in (detection_table.build(guarded, SETTINGS), detection_table.of_attacks(guarded, SETTINGS)):
        rows = list(csv.DictReader(io.StringIO(to_csv(table))))
        assert len(rows) == len(table.records)
        for row in rows:
            assert float(row["evaded_5_low"]) <= float(row["evaded_5"]) <= float(row["evaded_5_high"])
        assert "Tiny\\_50\\%" in to_tex(table)
        assert to_markdown(table).count("|") >= len(table.rows) * len(table.columns)


def test_where_nothing_is_misclassified_there_is_no_number(tmp_path):
    settings = {**SETTINGS, "detectors": {"confidence": {"method": "confidence"}}}
    paths = write_all(tmp_path, ["relu"], settings=settings)
    judged = [detections.read(path) for path in paths]
    for one in judged:
        one.columns["answer"] = one.columns["label"]
    guarded = detections.guarded(judged, settings)
    _, row = detection_table.build(guarded, settings).rows
    assert [row[place].text for place in (2, 3, 4, 5)] == [NOT_RUN, NOT_RUN, NOT_RUN, "0.0"]
    assert plot.draw(guarded, settings).axes


def test_a_seed_is_named_where_there_are_several(tmp_path):
    paths = write_all(tmp_path, ["relu"], seeds=(0, 1))
    guarded = detections.guarded([detections.read(path) for path in paths], SETTINGS)
    table = detection_table.build(guarded, SETTINGS)
    assert [row[0].text for row in table.rows if not row[1].text] == ["ReLU, seed 0", "ReLU, seed 1"]
    assert len(plot.draw(guarded, SETTINGS).axes) == 1  # of the first seed


def test_records_that_do_not_fit_are_refused(tmp_path):
    path = write(tmp_path, "static")
    with pytest.raises(UserError, match="no record of cw, orthogonal"):
        detections.guarded([detections.read(path)], SETTINGS)
    scores = path.with_suffix(".csv")
    scores.write_text(scores.read_text().replace("1", "2"))
    with pytest.raises(UserError, match="its checksum is not the one"):
        detections.read(path)
    scores.unlink()
    with pytest.raises(UserError, match="no such file"):
        detections.read(path)


@pytest.mark.parametrize("key", ["model_sha256", "detector_sha256", "data_sha256", "held_out"])
def test_attacks_on_something_else_are_not_merged(tmp_path, key):
    others = [write(tmp_path, "cw", **{key: "another"}), write(tmp_path, "orthogonal")]
    judged = [detections.read(one) for one in (write(tmp_path, "static"), *others)]
    alone = {**SETTINGS, "detectors": {"confidence": {"method": "confidence"}}}
    with pytest.raises(UserError, match="of other images, weights or detectors"):
        detections.guarded(judged, alone)


def test_the_scripts_write_the_same_files_again(paths, tmp_path):
    """Tables and plot as the workflow makes them: their bytes are those of the records."""
    written = []
    for name in ("first", "second"):
        output = tmp_path / name
        options = ("--records", *paths, "--settings", as_json())
        assert here("render_detection.py", *options, "--output", output / "tiny") == (0, "")
        drawn = ("--pdf", output / "plot.pdf", "--png", output / "plot.png")
        assert here("plot_detection.py", *options, *drawn)[0] == 0
        written.append({path.name: path.read_bytes() for path in sorted(output.iterdir())})
    assert written[0] == written[1]
    tables = {f"tiny{table}.{kind}" for table in ("", "_attacks") for kind in ("csv", "md", "tex", "json")}
    assert set(written[0]) == {*tables, "plot.pdf", "plot.png", "plot.svg"}


def test_the_curves_are_drawn(guarded):
    drawn = plot.draw(guarded, SETTINGS)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["ReLU", "KAF"]
    (static,) = [line for line in drawn.axes[1].lines if line.get_label() == "confidence, static"]
    clean = columns("static", "confidence", "kaf")
    right = clean["clean_answer"] == clean["label"]
    clean = {name: one[right] for name, one in clean.items()}
    attacked = clean["score"][clean["answer"] != clean["label"]]
    for false, true in zip(*static.get_data(), strict=True):
        if false > 1e-3:
            limits = clean["clean_score"][np.argsort(clean["clean_score"])[::-1]]
            limit = limits[round(false * right.sum()) - 1]
            # of the steps at this rate of false positives the curve goes through all
            assert np.mean(attacked >= limit) <= true + 1e-9


# -- the configuration


def test_the_slices_of_a_configuration():
    assert detection.section({"experiments": {}})["run"] == []
    found = detection.detection_settings(BASE, "tiny", "kaf", "1", "metzen", "orthogonal")
    assert found["examples"] == 40 and found["held_out"] == 100 and found["seed"] == 1
    assert found["attack_settings"] == BASE["detection"]["attacks"]["orthogonal"]
    # of a detector only what decides it
    one = detection.detector_settings(BASE, "tiny", "kaf", 0, "metzen")
    other = detection.detector_settings(
        changed(("detection", "attacks", "static", "eps"), "4/255"), "tiny", "kaf", 0, "metzen"
    )
    assert one == other and "examples" not in one
    table = detection.table_settings(BASE, "tiny")
    assert table["static"] == "static" and table["merged"] == ["static", "orthogonal"]
    apart = changed(("detection", "attacks", "static", "eps"), "4/255")
    assert detection.table_settings(apart, "tiny")["merged"] == ["orthogonal"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("run_attacks",), ["static"], "lacks an attack that knows the detector; write orthogonal_pgd too"),
        (("run_attacks",), ["orthogonal"], "lacks an attack that does not know the detector; write pgd too"),
        (("run_attacks",), [], "detection.run_attacks: is empty; write names of detection.attacks"),
        (("held_out",), 358, "the 40 attacked images of tiny are more than its 397 test images"),
        (("detectors", "metzen", "method"), "confidence", 'detectors.metzen.eps: "8/255" does not belong'),
        (("detectors", "metzen"), {"method": "metzen", "eps": "8/255"}, "step: is missing"),
        (("attacks", "static", "eot_samples"), 3, "does not belong to pgd"),
        (("attacks", "orthogonal", "weights"), [0.5], "does not belong to orthogonal_pgd"),
    ],
)
def test_a_configuration_that_cannot_be_is_told_what_to_write(path, value, message):
    assert message in refused(changed(("detection", *path), value))


def test_without_the_section_there_are_no_detectors():
    config = copy.deepcopy(BASE)
    del config["detection"]
    validate(config, SCHEMA, PUBLISHED)
    off = changed(("detection", "run"), [])
    validate(changed(("detection", "run_attacks"), [], off), SCHEMA, PUBLISHED)
