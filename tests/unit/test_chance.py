"""The exact binomial tests against scipy's."""

import pytest
from kafnets.chance import at_most, most_expected
from scipy.stats import binom


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("trials", [1, 30, 128, 10_000])
def test_probabilities_and_bounds_are_scipys(trials, rate):
    for count in {0, 1, trials // 100, trials // 2, trials}:
        assert at_most(count, trials, rate) == pytest.approx(
            binom.cdf(count, trials, rate), rel=1e-8, abs=1e-300
        )
    if trials < 1000:
        for level in (0.045, 0.012):
            assert most_expected(trials, rate, level) == binom.isf(level, trials, rate)


def test_one_success_disproves_that_there_is_none():
    assert most_expected(1000, 0, 0.05) == 0
