"""Standard training, without an adversary."""

from torch.nn import functional

from .base import Method, Update


class Standard(Method):
    """The mean cross-entropy on the images as they are."""

    def update(self, network, images, labels, state):
        logits = network(images)
        return Update(functional.cross_entropy(logits, labels), logits, images)
