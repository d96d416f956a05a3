"""What a detector is judged by: thresholds, rates, curves, and the judgement of one attack."""

import math

import numpy as np
import pytest
import torch
from detection_cases import SHAPE, network, training_set
from kafnets.data.dataset import balanced_order
from kafnets.detection import metrics
from kafnets.detection.confidence import Confidence
from kafnets.detection.judge import COLUMNS, judge, of_columns, split
from kafnets.detection.saving import create_detector
from kafnets.runtime.errors import UserError

# -- thresholds and rates


@pytest.mark.parametrize("count", [100, 137, 1000])
@pytest.mark.parametrize("rate", metrics.RATES)
def test_a_threshold_rejects_as_many_as_it_may(count, rate):
    generator = np.random.default_rng(count)
    scores = generator.normal(size=count)
    limit = metrics.threshold(scores, rate)
    assert (scores > limit).sum() == math.floor(rate * count)
    # with ties at most as many
    tied = np.round(scores, 1)
    limit = metrics.threshold(tied, rate)
    assert (tied > limit).mean() <= rate
    lower = tied[tied < limit].max()
    assert (tied > lower).mean() > rate


def test_thresholds_that_cannot_be_known():
    with pytest.raises(ValueError, match="at least 100 are needed"):
        metrics.threshold(np.zeros(99), 0.01)
    with pytest.raises(ValueError, match="are no numbers"):
        metrics.threshold(np.r_[np.zeros(90), np.full(10, np.inf)], 0.05)


def test_roc_and_its_area_against_a_direct_count():
    generator = np.random.default_rng(0)
    clean = generator.normal(size=60).round(1)
    adversarial = (generator.normal(size=45) + 0.8).round(1)
    false, true = metrics.roc(clean, adversarial)
    pairs = {(0.0, 0.0), (1.0, 1.0)}
    for limit in [*clean, *adversarial]:
        pairs.add((np.mean(clean >= limit), np.mean(adversarial >= limit)))
    assert np.allclose(sorted(pairs), sorted(set(zip(false, true, strict=True))))
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
    wins = np.mean([(a > c) + 0.5 * (a == c) for a in adversarial for c in clean])
    assert metrics.auc(clean, adversarial) == pytest.approx(wins)
    assert metrics.auc(clean, adversarial) == pytest.approx(np.trapezoid(true, false))
    assert metrics.auc(clean, clean) == pytest.approx(0.5)
    assert metrics.auc([0.0], [1.0]) == 1 and metrics.auc([1.0], [0.0]) == 0


def test_figures_are_counted():
    """Five images: right, right, right, wrong and accepted as it is, wrong and rejected as it is."""
    clean = {"score": [0.0, 1.0, 3.0, 0.5, 3.0], "misclassified": [False, False, False, True, True]}
    attacks = [
        {
            "score": np.array([1.5, 0.0, 9.0, 0.5, 3.0]),
            "misclassified": np.array([True, False, True, True, True]),
        },
        {
            "score": np.array([5.0, 0.2, 2.5, 0.7, 2.9]),
            "misclassified": np.array([True, False, False, True, True]),
        },
    ]
    evading = metrics.lowest(attacks)
    assert evading.tolist() == [1.5, np.inf, 9.0, 0.5, 2.9]
    found = metrics.figures(clean, evading, {0.05: 2.0, 0.01: 4.0})
    assert found["examples"] == 5 and found["misclassified"] == 4
    assert found["natural"] == 2 and found["fooled"] == 2
    # 1.5 and 9 against 0, 1 and 3
    assert found["auc"] == pytest.approx(5 / 6)
    loose, strict = found["rates"]
    # rejected: two clean ones; of the two fooled one; robust is the one that was never fooled
    assert loose == {
        **{"rate": 0.05, "threshold": 2.0, "false_positives": 2, "detected": 1},
        **{"evaded": 2, "robust": 1},
    }
    assert strict == {
        **{"rate": 0.01, "threshold": 4.0, "false_positives": 0, "detected": 1},
        **{"evaded": 3, "robust": 2},
    }
    # a score that every threshold rejects hides no misclassified image
    attack = {"score": np.array([np.inf, 0.0]), "misclassified": np.array([True, False])}
    hidden = metrics.figures(
        {"score": [0.0, 0.5], "misclassified": [False, False]}, metrics.lowest([attack]), {0.05: 1.0}
    )
    assert hidden["misclassified"] == 1 and hidden["auc"] == 1
    assert hidden["rates"][0]["detected"] == 1 and hidden["rates"][0]["robust"] == 2
    nothing = metrics.figures({"score": [0.0], "misclassified": [False]}, [np.inf], {0.05: 1.0})
    assert nothing["auc"] is None and nothing["rates"][0]["detected"] == 0


def test_natural_errors_do_not_count_against_a_detector():
    """One that tells all attacked images from all clean ones, beside a network that is right of 60 of 100."""
    wrong = np.arange(100) >= 60
    clean = {"score": np.linspace(0, 1, 100), "misclassified": wrong}
    # an attack leaves what is wrong already as it is
    attack = {"score": np.where(wrong, clean["score"], 5.0), "misclassified": np.full(100, True)}
    found = metrics.figures(clean, metrics.lowest([attack]), {0.05: 2.0})
    assert found["natural"] == 40 and found["fooled"] == 60 and found["misclassified"] == 100
    assert found["auc"] == 1
    assert found["rates"][0]["detected"] == 60 and found["rates"][0]["evaded"] == 40


# -- the judge


def test_the_attacked_and_the_held_out_images_are_apart():
    labels = torch.arange(300) % 10
    attacked, held_out = split(labels, 60, 100)
    assert not set(attacked.tolist()) & set(held_out.tolist())
    assert len(attacked) == 60 and len(held_out) == 100
    for chosen in (attacked, held_out):
        assert (labels[chosen].bincount() == len(chosen) // 10).all() and (chosen.diff() > 0).all()
    # those of every other evaluation with so many
    assert attacked.tolist() == sorted(balanced_order(labels.numpy())[:60])
    with pytest.raises(UserError, match=r"held_out: .* the test set has 300"):
        split(labels, 201, 100)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "pgd", "eps": "16/255", "step": "8/255", "iterations": 2},
        {"method": "orthogonal_pgd", "eps": "16/255", "step": "8/255", "iterations": 2},
        {"method": "cw_detector", "iterations": 4, "search_steps": 1, "learning_rate": 0.1},
        {"method": "fmn", "eps": "16/255", "iterations": 3},
    ],
)
def test_a_judgement(settings):
    """Its columns are the network's and the detector's own, and its figures are counted of them."""
    net = network("kaf_elu")
    detector = create_detector("kaf_statistics", net, SHAPE, layer="layer3")
    pixels, labels = training_set(110)
    with torch.no_grad():  # half of the images are right
        labels[:5] = net(pixels[:5] / 255).argmax(1)
    figures, columns = judge(detector, pixels[:10], labels[:10], pixels[10:], settings, batch_size=7)
    assert set(columns) == set(COLUMNS) and all(len(one) == 10 for one in columns.values())
    with torch.no_grad():
        logits, scores = detector.look(pixels[:10] / 255)
        held_out = detector(pixels[10:] / 255).numpy()
    np.testing.assert_allclose(columns["clean_score"], scores, atol=1e-5)
    assert columns["clean_answer"].tolist() == logits.argmax(1).tolist()
    for one in figures["rates"]:
        assert one["threshold"] == pytest.approx(np.sort(held_out)[-1 - int(one["rate"] * 100)], abs=1e-5)
    expected = metrics.figures(
        *of_columns(columns), {one["rate"]: one["threshold"] for one in figures["rates"]}
    )
    assert {name: figures[name] for name in expected} == expected
    # what is misclassified as it is needs no attack, unless that lowers its score
    wrong = columns["clean_answer"] != columns["label"]
    assert wrong.sum() == 5 and (columns["answer"] != columns["label"])[wrong].all()
    assert (columns["score"][wrong] <= columns["clean_score"][wrong]).all()
    if "eps" in settings:
        assert columns["linf"].max() <= 16 / 255 + 1e-6
    assert np.isfinite(columns["score"]).all() and figures["held_out"] == 100


@pytest.fixture
def tf32():
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "tf32"
    yield
    convolutions.fp32_precision = before


@pytest.mark.parametrize("method", ["pgd", "orthogonal_pgd"])
def test_attack_and_judge_read_all_digits(method, tf32):
    """On a GPU in no pass TF32; the setting that decides it is the same without one."""
    detector, found = Confidence(network("relu")), []
    detector.network.register_forward_pre_hook(
        lambda *_: found.append(torch.backends.cudnn.conv.fp32_precision)
    )
    pixels, labels = training_set(104)
    settings = {"method": method, "eps": "16/255", "step": "8/255", "iterations": 2}
    judge(detector, pixels[:4], labels[:4], pixels[4:], settings)
    assert len(found) > 4 and set(found) == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


def test_wrong_settings_of_an_attack_are_told():
    detector, (pixels, labels) = Confidence(network("relu")), training_set(110)
    with pytest.raises(UserError, match="did you mean pgd"):
        judge(detector, pixels[:4], labels[:4], pixels[10:], {"method": "pdg"})
    with pytest.raises(UserError, match=r"attack static: .*step"):
        bad = {"attack": "static", "method": "pgd", "eps": "8/255", "iterations": 1}
        judge(detector, pixels[:4], labels[:4], pixels[10:], bad)
    with pytest.raises(UserError, match=r"held_out: .*at least 100"):
        judge(detector, pixels[:4], labels[:4], pixels[10:60], {"method": "pgd"})
