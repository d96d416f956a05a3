"""Exact binomial tests in the standard library alone, for steps whose environments have no scipy."""

from math import exp, lgamma, log


def at_most(count, trials, rate):
    r"""The probability of at most `count` successes.

    .. math:: \sum_{k \le count} \binom n k p^k (1 - p)^{n - k}

    Args:
        count (int): successes.
        trials (int): :math:`n`.
        rate (float): of success in one trial, :math:`p`, above 0 and below 1.
    """
    terms = (
        lgamma(trials + 1)
        - lgamma(k + 1)
        - lgamma(trials - k + 1)
        + k * log(rate)
        + (trials - k) * log(1 - rate)
        for k in range(min(count, trials) + 1)
    )
    return min(sum(map(exp, terms)), 1.0)


def most_expected(trials, rate, level):
    """The largest count that is not significantly too large for `rate`: of this many successes or more the
    probability is above `level`.

    Args:
        trials (int): how many.
        rate (float): of success in one trial, from 0 to below 1.
        level (float): significance level of the one-sided test.
    """
    if rate == 0:  # one success disproves it
        return 0
    count = 0
    while count < trials and 1 - at_most(count, trials, rate) > level:
        count += 1
    return count
