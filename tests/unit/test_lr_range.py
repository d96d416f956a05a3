import math

import pytest
from kafnets.training.lr_range import lr_range, suggest
from kafnets.training.schedule import exponential
from training_cases import CPU, NOISE, settings


def test_the_range_test_records_every_step():
    rows = lr_range({**settings(), "lr_range": {"min": 1e-4, "max": 1e-2, "epochs": 2}}, NOISE, CPU)
    assert [row["step"] for row in rows] == list(range(8))
    assert rows[0]["smoothed_loss"] == pytest.approx(rows[0]["loss"])
    assert rows[-1]["learning_rate"] == pytest.approx(1e-2)


def test_the_range_test_ends_where_the_loss_does():
    rows = lr_range({**settings(), "lr_range": {"min": 1e-4, "max": 1e30, "epochs": 5}}, NOISE, CPU)
    assert 0 < len(rows) < 20 and all(math.isfinite(row["loss"]) for row in rows)


def test_the_suggestion_brackets_the_fall():
    rates = exponential(1e-4, 3, 101)
    losses = [2.3] * 30 + [2.3 - 0.02 * i for i in range(51)] + [1.3] * 10 + [3.0] * 10
    suggestion = suggest(
        [{"learning_rate": rate, "smoothed_loss": loss} for rate, loss in zip(rates, losses, strict=True)]
    )
    assert rates[30] < suggestion["min"] < rates[36] and rates[74] < suggestion["max"] <= rates[80]


def test_no_fall_no_suggestion():
    assert suggest([{"learning_rate": 0.1, "smoothed_loss": 1.0}]) == {"min": None, "max": None}
    assert suggest([]) == {"min": None, "max": None}
