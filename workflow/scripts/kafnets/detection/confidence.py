"""The detector that needs no training: the network's own confidence."""

from .base import Detector


class Confidence(Detector):
    r"""Suspects what the network is not sure of.

    .. math:: s(x) = \log \frac{1 - \max_i p_i(x)}{\max_i p_i(x)}

    It orders images as :math:`-\max_i p_i` does, and does not saturate where that is 1 in floating point.

    Args:
        network (nn.Module): the classifier.
        images (Tensor): not used; every detector takes some.

    Source: Hendrycks & Gimpel 2017, arXiv:1610.02136 (the baseline of detectors).
    """

    learns = False

    def __init__(self, network, images=None):
        super().__init__(network)

    def features_of(self, logits, seen):
        return logits

    def score_of(self, features):
        top, place = features.max(1)
        rest = features.scatter(1, place[:, None], -float("inf"))
        return rest.logsumexp(1) - top
