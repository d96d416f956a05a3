"""Exact binomial tests in the standard library alone, for steps whose environments have no scipy."""

from math import exp, lgamma, log

# The share of images that may have no gradient. A gradient attack cannot move them, so they are robust for no
# reason; a share within the noise of the accuracy does no harm.
WITHOUT_GRADIENT = 0.01


def at_most(count, trials, rate):
    r"""The probability of at most `count` successes.

    .. math:: \sum_{k \le count} \binom n k p^k (1 - p)^{n - k}

    Args:
        count (int): successes, from 0 to `trials`.
        trials (int): :math:`n`.
        rate (float): of success in one trial, :math:`p`, above 0 and below 1.
    """
    return min(sum(_exactly(k, trials, rate) for k in range(count + 1)), 1.0)


def most_expected(trials, rate, level):
    """The largest count that is not significantly too large for `rate`: so many or more successes have a
    probability above `level`.

    Args:
        trials (int): how many.
        rate (float): of success in one trial, from 0 to below 1.
        level (float): significance level of the one-sided test.
    """
    count, more = 0, 1.0
    while rate > 0:
        more -= _exactly(count, trials, rate)  # the probability of more than `count`
        if more <= level:
            break
        count += 1
    return count


def is_too_many(count, trials, rate, level=0.05):
    """Whether `count` of `trials` are significantly more than `rate` explains."""
    return count > most_expected(trials, rate, level)


def _exactly(count, trials, rate):
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    return exp(ways + count * log(rate) + (trials - count) * log(1 - rate))
