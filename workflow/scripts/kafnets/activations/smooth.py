"""Smooth activations with one or two learned numbers: Swish-beta, PSoftplus, PSSiLU and SmoothReLU."""

from types import MappingProxyType

import torch
from torch import nn

from .base import Learned, require, require_between

# Below it a scale counts as this: the functions divide by it.
LEAST_SCALE = 1e-3
# PSSiLU has a pole where its b is 1.
MOST_B = 0.95


class SwishBeta(Learned):
    r"""Swish with a learned :math:`\beta`.

    .. math:: f(x) = x\,\sigma(\beta x)

    From :math:`x / 2` (:math:`\beta = 0`) to ReLU (:math:`\beta \to \infty`); Lipschitz constant 1.0998 for
    every :math:`\beta > 0`.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"channel"``
        init: :math:`\beta` at the start, -1000 to 1000. Default: 1.0

    Source: Ramachandran, Zoph & Le 2017, arXiv:1710.05941.
    """

    def __init__(self, channels, share="channel", init=1.0):
        super().__init__(channels, share)
        require_between("init", init, -1000, 1000)
        self.init = float(init)
        self.hold("beta")
        self.reset_parameters()

    def reset_parameters(self):
        """Puts :math:`\\beta` at its start."""
        nn.init.constant_(self.beta, self.init)

    def curve(self, x, beta):
        return x * torch.sigmoid(beta * x)


class PSoftplus(Learned):
    r"""Parametric softplus.

    .. math:: f(x) = \frac{1}{|a|} \log(1 + e^{|a| x})

    with :math:`|a|` not below 0.001.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"network"``
        init: :math:`a` at the start, 0.001 to 1000. Default: 1.0

    Source: Dai, Mahloujifar & Mittal 2022, arXiv:2110.05626.
    """

    def __init__(self, channels, share="network", init=1.0):
        super().__init__(channels, share)
        require_between("init", init, LEAST_SCALE, 1000)
        self.init = float(init)
        self.hold("a")
        self.reset_parameters()

    def reset_parameters(self):
        """Puts :math:`a` at its start."""
        nn.init.constant_(self.a, self.init)

    def curve(self, x, a):
        a = a.abs().clamp(min=LEAST_SCALE)
        return nn.functional.softplus(a * x) / a


class PSSiLU(Learned):
    r"""Parametric shifted SiLU.

    .. math:: f(x) = x\,\frac{\sigma(a x) - b}{1 - b}

    with :math:`a = |a'|` and :math:`b = |b'|`, not above 0.95, both learned; or :math:`a = a'^2` and a fixed
    :math:`b`. At :math:`b' = 0`, where the authors' code starts, :math:`b` has no gradient and never moves: a
    learned one starts elsewhere. As in their training the gradient of :math:`b'` is clipped to
    :math:`\pm 0.1`, both have a weight decay of 5e-4, and the penalty ``pssilu_b`` (of weight 10 there) is
    :math:`|b'|`.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"network"``: two numbers in all
        a: at the start, 0.001 to 1000. Default: 1.0
        b: at the start, above 0 if it is learned, to 0.95. Default: 0.05
        learn_b: whether :math:`b` is learned. Default: ``True``

    Source: Dai, Mahloujifar & Mittal 2022, arXiv:2110.05626.
    """

    gradient_limits = MappingProxyType({"b": 0.1})

    def __init__(self, channels, share="network", a=1.0, b=0.05, learn_b=True):
        super().__init__(channels, share)
        require_between("a", a, LEAST_SCALE, 1000)
        require_between("b", b, 0, MOST_B)
        require(learn_b in (True, False), "learn_b", "True or False", learn_b)
        require(b > 0 or not learn_b, "b", "above 0 where it is learned (its gradient vanishes at 0)", b)
        self.starts, self.learn_b = (float(a), float(b)), bool(learn_b)
        self.hold("a")
        if learn_b:
            self.hold("b")
        self.reset_parameters()

    def reset_parameters(self):
        """Puts both numbers at their start."""
        a, b = self.starts
        nn.init.constant_(self.a, a if self.learn_b else a**0.5)
        if self.learn_b:
            nn.init.constant_(self.b, b)

    def curve(self, x, a, b=None):
        a, b = (a.square(), self.starts[1]) if b is None else (a.abs(), b.abs().clamp(max=MOST_B))
        return x * (torch.sigmoid(a * x) - b) / (1 - b)

    def extra_repr(self):
        return f"{super().extra_repr()}, learn_b={self.learn_b}"


class SmoothReLU(Learned):
    r"""A ReLU with a continuous derivative.

    .. math:: f(x) = \max\!\Big(0,\; x - \tfrac1\beta \log(1 + \beta |x|)\Big), \qquad \beta = b^2

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"layer"``
        init: :math:`b` at the start, 0.001 to 1000. Default: 20 (:math:`\beta = 400`)

    Source: Xie, Tan, Gong, Yuille & Le 2020, arXiv:2006.14536.
    """

    def __init__(self, channels, share="layer", init=20.0):
        super().__init__(channels, share)
        require_between("init", init, LEAST_SCALE, 1000)
        self.init = float(init)
        self.hold("b")
        self.reset_parameters()

    def reset_parameters(self):
        """Puts :math:`b` at its start."""
        nn.init.constant_(self.b, self.init)

    def curve(self, x, b):
        beta = b.square().clamp(min=LEAST_SCALE**2)
        positive = x.relu()
        return positive - torch.log1p(beta * positive) / beta
