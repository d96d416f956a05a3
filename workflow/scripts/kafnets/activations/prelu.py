"""PReLU: a ReLU whose slope on negative inputs is learned."""

import torch
from torch import nn

from .base import Learned, require_between


class PReLU(Learned):
    r"""A ReLU with a learned slope on negative inputs.

    .. math:: f(x) = \max(0, x) + a \min(0, x)

    Lipschitz constant :math:`\max(1, |a|)`. A weight decay would pull it to ReLU: it has none.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"channel"``
        init: the slope :math:`a` at the start, -1000 to 1000. Default: 0.25

    Source: He, Zhang, Ren & Sun 2015, arXiv:1502.01852.
    """

    def __init__(self, channels, share="channel", init=0.25):
        super().__init__(channels, share)
        require_between("init", init, -1000, 1000)
        self.init = float(init)
        self.hold("slope")
        self.reset_parameters()

    def reset_parameters(self):
        """Puts the slope at its start."""
        nn.init.constant_(self.slope, self.init)

    def curve(self, x, slope):
        return torch.where(x > 0, x, slope * x)  # torch's own is rounded by autocast
