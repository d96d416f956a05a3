"""Intervals and tests against textbook numbers, hand counts and simulation."""

import numpy as np
import pytest
from kafnets.report.statistics import holm, mcnemar, paired_bootstrap, wilson, worst_case
from scipy.stats import binom


def test_wilson_by_its_formula_and_at_the_ends():
    interval = wilson(450, 1000)
    z, n, p = 1.959963984540054, 1000, 0.45
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert interval.estimate == 0.45
    assert (interval.low, interval.high) == pytest.approx((middle - half, middle + half), rel=1e-9)
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1
    assert wilson(45, 100).low < interval.low
    for correct, examples in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="correct"):
            wilson(correct, examples)


def test_mcnemar_is_the_binomial_test_of_the_disagreements():
    first = np.array([1] * 50 + [1] * 15 + [0] * 5 + [0] * 30, bool)
    second = np.array([1] * 50 + [0] * 15 + [1] * 5 + [0] * 30, bool)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second, test.difference) == (15, 5, 0.1)
    assert test.p_value == pytest.approx(2 * binom.cdf(5, 20, 0.5))
    same = mcnemar(first, first)
    assert same.p_value == 1 and same.difference == 0
    assert mcnemar([True, False], [False, True]).p_value == 1
    with pytest.raises(ValueError):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError):
        mcnemar([], [])


def test_holm_by_hand():
    real, corrected = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert real == [True, False, False, True]
    assert holm([]) == ([], [])


def test_bootstrap_covers_the_true_difference_and_only_that():
    generator = np.random.default_rng(0)
    ease = generator.random(2000)
    first = generator.random((3, 2000)) < ease + 0.05
    second = generator.random((3, 2000)) < ease
    interval = paired_bootstrap(first, second, resamples=500)
    assert interval.estimate == pytest.approx(first.mean() - second.mean())
    assert 0 < interval.low < interval.estimate < interval.high < 0.1
    assert paired_bootstrap(first, second, resamples=500) == interval
    none = paired_bootstrap(second, generator.random((3, 2000)) < ease, resamples=500)
    assert none.low < 0 < none.high
    with pytest.raises(ValueError, match="seeds"):
        paired_bootstrap(first[0], second[0])


def test_worst_case_is_the_conjunction():
    assert worst_case([[1, 1, 0], [1, 0, 1]]).tolist() == [True, False, False]
    for wrong in ([], [[1, 0], [1]]):
        with pytest.raises(ValueError, match="verdicts"):
            worst_case(wrong)
