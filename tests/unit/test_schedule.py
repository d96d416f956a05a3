from itertools import pairwise

import pytest
from kafnets.training.schedule import exponential, learning_rates


def test_the_cycle_is_a_triangle_and_the_tail_halves():
    rates = learning_rates(
        {
            "epochs": 2,
            "learning_rate": [0.1, 0.9],
            "tail": {"epochs": 5, "learning_rate": 0.4, "halve_every": 2},
        },
        steps_per_epoch=3,
    )
    assert rates[:6] == pytest.approx([0.1, 0.42, 0.74, 0.74, 0.42, 0.1])
    assert rates[6:] == pytest.approx([0.4] * 6 + [0.2] * 6 + [0.1] * 3)


def test_the_peak_is_at_half_time():
    rates = learning_rates(
        {
            "epochs": 1,
            "learning_rate": [0.0, 1.0],
            "tail": {"epochs": 0, "learning_rate": 1, "halve_every": 1},
        },
        101,
    )
    assert rates[50] == 1.0 and rates[0] == rates[-1] == 0.0


def test_a_piecewise_rate_drops_after_so_many_epochs():
    """As in the recipe of MART: /10 after 75 of 120 epochs, /100 after 90, /1000 after 100."""
    training = {
        "epochs": 120,
        "learning_rate": [0.001, 0.01],
        "tail": {"epochs": 1, "learning_rate": 0.5, "halve_every": 1},
        "schedule": {"name": "piecewise", "drops": [75, 90, 100]},
    }
    rates = learning_rates(training, steps_per_epoch=2)
    assert len(rates) == 242 and rates[-2:] == [0.5, 0.5]
    for first, last, rate in ((0, 74, 1e-2), (75, 89, 1e-3), (90, 99, 1e-4), (100, 119, 1e-5)):
        assert rates[2 * first : 2 * last + 2] == pytest.approx([rate] * 2 * (last - first + 1))
    training["schedule"] = {"name": "piecewise", "drops": [60], "factor": 0.5}
    assert learning_rates(training, 1)[59:61] == pytest.approx([0.01, 0.005])
    assert learning_rates({**training, "schedule": {"name": "triangle"}}, 1)[0] == 0.001


def test_the_range_test_grows_by_a_constant_factor():
    rates = exponential(1e-4, 3, 50)
    assert rates[0] == pytest.approx(1e-4) and rates[-1] == pytest.approx(3)
    assert all(b / a == pytest.approx(rates[1] / rates[0]) for a, b in pairwise(rates))
