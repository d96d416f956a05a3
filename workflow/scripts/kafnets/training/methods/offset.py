"""The cross-entropy that asks for a margin, for networks whose logits cannot grow."""

import math
from dataclasses import dataclass

from torch.nn import functional

from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class OffsetCrossEntropy(Method):
    r"""The cross-entropy on the images as they are, with an offset of the true logit and a temperature.

    .. math:: t\;\mathrm{CE}\!\left(\frac{z - u\,e_y}{t},\, y\right)

    It goes on pushing until the true logit leads by about :math:`u`. Between two points a distance of 1 apart
    the logits of a 1-Lipschitz network differ by 1 at most: the plain cross-entropy hardly tells right from
    wrong there.

    Args:
        offset (float): :math:`u`. A certified L2 radius r takes a lead of :math:`2 r` at most, and of
            :math:`\sqrt2\,r` where the rows of the last layer are orthogonal. Default: the authors'
            :math:`\sqrt2`; a smaller one has more accuracy at radius 0, a larger one more far out
        temperature (float): :math:`t`, in proportion to the offset. Default: the authors' 1/4

    Source: B. Prach and C. H. Lampert, ECCV 2022, arXiv:2208.03160, and the authors' code.
    """

    offset: float = math.sqrt(2)
    temperature: float = 0.25

    def objective(self, network, images, labels, crafted, state):
        logits = network(crafted)
        lowered = logits - self.offset * functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        loss = self.temperature * functional.cross_entropy(lowered / self.temperature, labels)
        return Update(loss, logits, crafted)
