"""Standard training, without an adversary."""

from torch.nn import functional

from .base import Method, Update


class Standard(Method):
    """The mean cross-entropy on the images as they are."""

    def objective(self, network, images, labels, crafted, state):
        logits = network(crafted)
        return Update(functional.cross_entropy(logits, labels), logits, crafted)
