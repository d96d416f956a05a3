"""What the differences between networks are worth: intervals, paired tests, corrections.

The formulas are those of scipy and statsmodels; here they meet verdicts, one boolean per test image.
"""

from dataclasses import dataclass

import numpy as np


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
        correct (int): images rightly classified.
        examples (int): images in all.
        confidence (float): of the interval.

    Raises:
        ValueError: when there are no examples, or more correct ones than examples.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001 recommend it over the normal interval.
    """
    from scipy.stats import binomtest

    if not 0 <= correct <= examples or examples < 1:
        raise ValueError(f"correct: expected 0 to {examples} of at least one example, found {correct!r}")
    interval = binomtest(int(correct), int(examples)).proportion_ci(confidence, method="wilson")
    return Interval(correct / examples, float(interval.low), float(interval.high))


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
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    first, second = _paired(first, second)
    table = [[np.sum((first == a) & (second == b)) for b in (True, False)] for a in (True, False)]
    only_first, only_second = int(table[0][1]), int(table[1][0])
    p_value = 1.0 if only_first == only_second == 0 else float(exact_test(table, exact=True).pvalue)
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
        Interval: accuracy of the first minus that of the second; percentile bootstrap.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    first, second = _paired(first, second)
    if first.ndim != 2:
        raise ValueError(f"first: expected verdicts of shape (seeds, N), found {first.shape}")
    differences = first.astype(np.int8) - second.astype(np.int8)
    seeds, images = differences.shape
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for sample in range(resamples):
        chosen_seeds = np.bincount(generator.integers(seeds, size=seeds), minlength=seeds)
        chosen_images = np.bincount(generator.integers(images, size=images), minlength=images)
        drawn[sample] = chosen_seeds @ differences @ chosen_images
    drawn /= seeds * images
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Interval(float(differences.mean()), float(low), float(high))


def holm(p_values, level=0.05):
    """Holm's correction for testing many differences at once.

    Args:
        p_values: of the single tests.
        level (float): probability of at least one false discovery that is accepted.

    Returns:
        (list, list): for every test whether its difference is real at `level`, and its corrected p-value.

    Source: Holm 1979.
    """
    from statsmodels.stats.multitest import multipletests

    p_values = list(p_values)
    if not p_values:
        return [], []
    real, corrected, *_ = multipletests(p_values, alpha=level, method="holm")
    return real.tolist(), corrected.tolist()


def compare_all(verdicts, level=0.05):
    """Every pair of networks by McNemar's test, corrected over all pairs.

    Args:
        verdicts (dict): name -> (N,) verdicts on the same images.

    Returns:
        dict: (name, name) -> (Paired, corrected p-value, whether the difference is real at `level`).
    """
    names = list(verdicts)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    tests = [mcnemar(verdicts[a], verdicts[b]) for a, b in pairs]
    real, corrected = holm([test.p_value for test in tests], level)
    return {pair: tuple(result) for pair, *result in zip(pairs, tests, corrected, real, strict=True)}


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
