"""What the differences between networks are worth: intervals, paired tests, corrections.

The formulas are those of scipy and statsmodels; here they meet verdicts, one boolean per test image.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..runtime.errors import optional


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def wilson(correct, examples, confidence=0.95):
    r"""The Wilson score interval of an accuracy.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    Args:
        correct (float): images rightly classified; of a mean over seeds no whole number.
        examples (int): images in all.
        confidence (float): of the interval.

    Raises:
        ValueError: when there are no examples, or more correct ones than examples.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001 recommend it over the normal interval.
    """
    proportion = optional("statsmodels.stats.proportion", "statistics")

    if not 0 <= correct <= examples or examples < 1:
        raise ValueError(f"correct: expected 0 to {examples} of at least one example, found {correct!r}")
    low, high = proportion.proportion_confint(correct, examples, 1 - confidence, method="wilson")
    return Interval(correct / examples, max(float(low), 0.0), min(float(high), 1.0))


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two accuracies, with the p-value of a two-sided test that there is none."""

    p_value: float


@dataclass(frozen=True)
class Paired:
    """Two networks on the same images.

    Args:
        difference: accuracy of the first minus that of the second.
        only_first, only_second: images that only the one classifies rightly.
        p_value: of the exact two-sided test that both are equally likely.
    """

    difference: float
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first, second):
    """McNemar's exact test: is one network right on more of the same images than the other?

    Args:
        first, second: (N,) verdicts of the two networks, image by image.

    Raises:
        ValueError: when the verdicts are not two equally long, non-empty lists.

    Source: McNemar 1947; Dietterich 1998 recommends it for classifiers compared on one test set.
    """
    tables = optional("statsmodels.stats.contingency_tables", "statistics")

    first, second = _paired(first, second)
    table = [[np.sum((first == a) & (second == b)) for b in (True, False)] for a in (True, False)]
    only_first, only_second = int(table[0][1]), int(table[1][0])
    p_value = 1.0 if only_first == only_second == 0 else float(tables.mcnemar(table, exact=True).pvalue)
    return Paired((only_first - only_second) / len(first), only_first, only_second, min(p_value, 1.0))


def paired_bootstrap(first, second, confidence=0.95, resamples=9999, seed=0):
    """The difference of two activations over seeds and images, with a bootstrap interval.

    Whole seeds are drawn with replacement, and images too; a drawn image counts for both activations and
    all drawn seeds, so that what makes an image easy or hard for everyone cancels.

    Args:
        first, second: (seeds, N) verdicts of two activations, the same images in the same order, and the
            same seeds.
        confidence (float): of the interval.
        resamples (int): bootstrap samples.
        seed (int): of their random numbers.

    Returns:
        Difference: accuracy of the first minus that of the second, percentile bootstrap; its p-value is twice
        the share of samples on the other side of zero (at least of one sample).

    Source: Efron & Tibshirani 1993, chapters 13 and 15.
    """
    first, second = _paired(first, second)
    if first.ndim != 2:
        raise ValueError(f"first: expected verdicts of shape (seeds, N), found {first.shape}")
    differences = first.astype(np.int8) - second.astype(np.int8)
    seeds, images = differences.shape
    generator = np.random.default_rng(seed)
    # images with the same differences are drawn together: as many of them as a multinomial says
    patterns, counts = np.unique(differences, axis=1, return_counts=True)
    chosen_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    chosen_images = generator.multinomial(images, counts / images, size=resamples)
    drawn = np.einsum("rs,sp,rp->r", chosen_seeds, patterns, chosen_images, optimize=True) / (seeds * images)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    beyond = 1 + min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p_value = min(2 * beyond / (resamples + 1), 1.0)
    return Difference(float(differences.mean()), float(low), float(high), p_value)


def compare(first, second):
    """The difference of two activations, with an interval and the p-value of there being none.

    Of one seed the test is McNemar's: the two networks on these images. Of several seeds it is the paired
    bootstrap over seeds and images, but with the p-value of the paired t-test over the seeds where that is
    larger: a handful of seeds that happen to agree in sign leave the bootstrap no sample beyond zero,
    although their spread is hardly known.

    Args:
        first, second: (seeds, N) verdicts of two activations, same images, same seeds, same order.

    Returns:
        Difference: the interval is the paired bootstrap's.
    """
    first, second = _paired(first, second)
    found = paired_bootstrap(first, second)
    if len(first) == 1:
        return replace(found, p_value=mcnemar(first[0], second[0]).p_value)
    return replace(found, p_value=max(found.p_value, _paired_t(first.mean(1), second.mean(1))))


def residual_spread(accuracies):
    r"""How much an accuracy varies that neither its network's kind nor its seed explains.

    .. math:: s^2 = \sum_{k,j} (a_{kj} - \bar a_{k.} - \bar a_{.j} + \bar a_{..})^2 / (K - 1)(S - 1)

    Of randomised blocks, the seeds being the blocks: as many seeds of one kind of network as a CPU trains say
    little about their spread, those of all kinds say more. It takes all kinds to spread alike.

    Args:
        accuracies: (kinds, seeds).

    Returns:
        (float, int): the standard deviation s and its degrees of freedom, NaN and 0 of one kind or seed.

    Source: Montgomery, Design and Analysis of Experiments, chapter 4.
    """
    accuracies = np.asarray(accuracies, float)
    freedom = (accuracies.shape[0] - 1) * (accuracies.shape[1] - 1)
    if not freedom:
        return float("nan"), 0
    rest = accuracies - accuracies.mean(1, keepdims=True) - accuracies.mean(0) + accuracies.mean()
    return float(np.sqrt(np.sum(rest**2) / freedom)), freedom


def compare_in_blocks(first, second, spread, freedom, confidence=0.95):
    """As :func:`compare`, with the spread over seeds estimated from more kinds of networks than these two.

    Args:
        first, second: as for :func:`compare`.
        spread, freedom: of :func:`residual_spread`, of the accuracies of all kinds.
        confidence (float): of the interval.

    Returns:
        Difference: the larger p-value of the t-test with that spread and of the paired bootstrap over seeds
        and images, and the ends of both intervals that are farther out. Of one seed what `compare` says.
    """
    stats = optional("scipy.stats", "statistics")

    first, second = _paired(first, second)
    if not freedom:
        return compare(first, second)
    found = paired_bootstrap(first, second, confidence)
    error = spread * np.sqrt(2 / len(first))
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    if error:
        p_value = float(2 * stats.t.sf(abs(found.estimate) / error, freedom))
    else:  # no spread at all, as between networks that never learned
        p_value = float(found.estimate == 0)
    return replace(
        found,
        low=min(found.low, found.estimate - reach),
        high=max(found.high, found.estimate + reach),
        p_value=max(found.p_value, p_value),
    )


def _paired_t(first, second):
    stats = optional("scipy.stats", "statistics")

    if np.ptp(first - second) == 0:  # no spread at all: the test is not defined
        return 1.0 if first[0] == second[0] else 0.0
    return float(stats.ttest_rel(first, second).pvalue)


def holm(p_values, level=0.05):
    """Holm's correction for testing many differences at once.

    Args:
        p_values: of the single tests.
        level (float): probability of at least one false discovery that is accepted.

    Returns:
        (list, list): for every test whether its difference is real at `level`, and its corrected p-value.

    Source: Holm 1979.
    """
    multitest = optional("statsmodels.stats.multitest", "statistics")

    p_values = list(p_values)
    if not p_values:
        return [], []
    real, corrected, *_ = multitest.multipletests(p_values, alpha=level, method="holm")
    return real.tolist(), corrected.tolist()


def worst_case(verdicts):
    """(N,) bool: right under every attack. `verdicts` are those of one network's attacks on the same images.

    Raises:
        ValueError: when there are none, or they are not equally long.
    """
    verdicts = [np.asarray(one, bool) for one in verdicts]
    if not verdicts or len({one.shape for one in verdicts}) != 1:
        raise ValueError("verdicts: expected those of at least one attack, all on the same images")
    return np.logical_and.reduce(verdicts)


def _paired(first, second):
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or not first.size:
        raise ValueError(f"second: expected {first.shape} verdicts like the first, found {second.shape}")
    return first, second
