"""Randomised smoothing: the most probable answer under Gaussian noise, which is certified."""

import functools

import numpy as np
import torch

from ..runtime.errors import optional
from .entry import ABSTAINED, Certificate, Certified

# So many noisy images have random numbers of their own, whatever the size of the batches.
_BLOCK = 100
_PHASES = {"selection": 0, "estimation": 1}


class Smoothing(Certificate):
    r"""The certificate of :math:`g(x) = \arg\max_c P(f(x + \epsilon) = c)` with Gaussian noise
    :math:`\epsilon \sim N(0, \sigma^2 I)`.

    Of `selection_samples` noisy images the most frequent answer :math:`c` is chosen. Of `samples` others
    :math:`k` answer :math:`c`, from which follows, with probability :math:`1 - \alpha`,
    :math:`P(f(x + \epsilon) = c) \ge \underline{p}`, the one-sided bound of Clopper and Pearson. Where
    :math:`\underline{p} > 1/2`, :math:`g` answers :math:`c` within

    .. math:: r = \sigma\,\Phi^{-1}(\underline{p})

    in the L2 norm; elsewhere it abstains. It is a statement about :math:`g`, not the network itself, and
    wrong with probability :math:`\alpha` at most, image by image. A network's answer is the class of its
    largest output; outputs that are not finite are no answer.

    Args:
        network, image_shape, batch_size: see :class:`.entry.Certificate`.
        sigma (float): of the noise, in units of the pixel range [0, 1]. Noisy images are not clipped.
        selection_samples (int): :math:`n_0`.
        samples (int): :math:`n`. It limits the radius to :math:`\sigma\,\Phi^{-1}(\alpha^{1/n})`: 2.5 sigma
            for 1,000, 3.2 for 10,000, 3.8 for 100,000, at alpha 0.001.
        alpha (float): probability of error per image.
        seed (int): of the noise; it depends on nothing else but the image's number in the test set.

    Source: J. Cohen, E. Rosenfeld and J. Z. Kolter, ICML 2019, arXiv:1902.02918.
    """

    images_per_call = 1

    def __init__(
        self,
        network,
        image_shape,
        batch_size,
        *,
        sigma,
        selection_samples=100,
        samples=100_000,
        alpha=0.001,
        seed=0,
    ):
        super().__init__(network, image_shape, batch_size)
        if not sigma > 0:
            raise ValueError(f"sigma: {sigma!r} is not possible; write a number above 0, such as 0.25")
        if not 0 < alpha < 1:
            raise ValueError(
                f"alpha: {alpha!r} is not possible; write a number between 0 and 1, such as 0.001"
            )
        for name, count in (("selection_samples", selection_samples), ("samples", samples)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}: {count!r} is not possible; write a whole number of at least 1")
        self.statistics = optional("scipy.stats", "statistics")
        self.sigma, self.alpha, self.seed = sigma, alpha, seed
        self.selection_samples, self.samples = selection_samples, samples

    @property
    def facts(self):
        return {"largest_radius": self._radius(lower_bound(self.samples, self.samples, self.alpha))}

    def __call__(self, images, labels, numbers):
        rows = [self._certify(image, number) for image, number in zip(images, numbers, strict=True)]
        predictions, radii, chosen, hits, bounds = zip(*rows, strict=True)
        extra = {
            "chosen": torch.tensor(chosen),
            "hits": torch.tensor(hits),
            "lower_bound": torch.tensor(bounds, dtype=torch.float64),
        }
        return Certified(torch.tensor(predictions), torch.tensor(radii, dtype=torch.float64), extra)

    def _certify(self, image, number):
        """Prediction, radius, the class that was chosen, how many samples answered it, and the bound."""
        chosen = int(self.counts(image, number, "selection").argmax())
        hits = int(self.counts(image, number, "estimation")[chosen])
        bound = lower_bound(hits, self.samples, self.alpha)
        if bound <= 0.5:
            return ABSTAINED, 0.0, chosen, hits, bound
        return chosen, self._radius(bound), chosen, hits, bound

    def counts(self, image, number, phase):
        """How often the network answers each class under noise, (classes,) int64 on the CPU.

        Args:
            image (Tensor): (C, H, W).
            number (int): of the image in the test set.
            phase (str): "selection" or "estimation": two independent samples.
        """
        total = self.selection_samples if phase == "selection" else self.samples
        counts, waiting = 0, image.new_empty(0, *image.shape)
        for block, start in enumerate(range(0, total, _BLOCK)):
            noise = self._noise(image, number, phase, block)[: total - start]
            waiting = torch.cat([waiting, noise])
            is_last = start + _BLOCK >= total
            while len(waiting) >= self.batch_size or (is_last and len(waiting)):
                counts = counts + self._answers(image + waiting[: self.batch_size])
                waiting = waiting[self.batch_size :]
        return counts.cpu()

    def _noise(self, image, number, phase, block):
        generator = _generator(image.device)
        generator.manual_seed(_seed(self.seed, number, _PHASES[phase], block))
        noise = torch.randn(
            (_BLOCK, *image.shape), generator=generator, device=image.device, dtype=torch.float32
        )
        return noise.to(image.dtype).mul_(self.sigma)

    def _answers(self, noisy):
        logits = self.network(noisy.contiguous(memory_format=torch.channels_last))
        classes = logits.shape[1]
        # counted in a place behind the classes: no answer
        answers = torch.where(logits.isfinite().all(1), logits.argmax(1), classes)
        return torch.bincount(answers, minlength=classes + 1)[:classes]

    def _radius(self, bound):
        return self.sigma * float(self.statistics.norm.ppf(bound))


def lower_bound(hits, samples, alpha):
    r"""The one-sided bound of Clopper and Pearson: exact, whatever the probability is.

    The largest :math:`p` of which so many hits or more have a probability of :math:`\alpha` at most:
    :math:`P(\mathrm{Binomial}(n, p) \ge k) = \alpha`, the :math:`\alpha` quantile of
    :math:`\mathrm{Beta}(k, n - k + 1)`; 0 for :math:`k = 0`.

    Args:
        hits (int): :math:`k`, from 0 to `samples`.
        samples (int): :math:`n`.
        alpha (float): probability that the bound lies above the truth.
    """
    if not 0 <= hits <= samples:
        raise ValueError(f"hits: expected a number from 0 to {samples}, found {hits}")
    if not hits:
        return 0.0
    return float(optional("scipy.stats", "statistics").beta.ppf(alpha, hits, samples - hits + 1))


def _seed(*numbers):
    """One seed of 64 bits for several numbers; other numbers have an unrelated one."""
    # numpy promises the same values in every version
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@functools.cache
def _generator(device):
    return torch.Generator(device)
