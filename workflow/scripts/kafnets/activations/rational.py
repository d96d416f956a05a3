"""Rational activations (Pade activation units)."""

import torch

from .base import Learned, require

# P's six and Q's four coefficients, fitted to functions on [-3, 3] by least squares: to .034 for those with a
# kink, .004 for ELU, else to 1e-3. In version A a coefficient of Q that is 0 would have no gradient: 1e-5.
STARTS = {
    "A": {
        "leaky_relu": (
            (0.0298, 0.61846, 2.32097, 3.0446, 1.47963, 0.24966),
            (1.14117, 4.38227, 0.8682, 0.34529),
        ),
        "relu": (
            (0.02997, 0.61699, 2.37299, 3.05867, 1.51877, 0.25144),
            (1.19075, 4.39718, 0.90763, 0.34694),
        ),
        "elu": ((0.00027, 0.99775, 0.24066, 0.32092, 0.0579, 0.00641), (0.23632, 0.32416, 0.05686, 0.00653)),
        "tanh": ((0.0, 1.00001, 0.0, 0.10741, 0.0, 0.00086), (1e-5, 0.44067, 1e-5, 0.01449)),
        "swish": ((0.0, 0.5, 0.25, 0.05327, 0.0058, 0.00028), (1e-5, 0.10653, 1e-5, 0.00055)),
    },
    "B": {
        "leaky_relu": ((0.03358, 0.505, 1.65132, 2.00452, 0.92794, 0.15154), (0.0, 3.96934, 0.0, 0.30007)),
        "relu": ((0.03392, 0.5, 1.66799, 1.98467, 0.93731, 0.15004), (0.0, 3.96934, 0.0, 0.30007)),
        "elu": ((-0.00057, 0.94816, 0.41987, 0.89335, 0.23585, 0.03263), (0.197, 1.17454, 0.10155, 0.05406)),
        "tanh": ((0.0, 0.99999, 0.0, 0.1077, 0.0, 0.00087), (0.0, 0.441, 0.0, 0.01458)),
        "swish": ((0.0, 0.5, 0.25, 0.05326, 0.0058, 0.00028), (0.0, 0.10653, 0.0, 0.00055)),
    },
}


class Rational(Learned):
    r"""A rational function without poles.

    .. math:: f(x) = \frac{\sum_{i=0}^{5} a_i x^i}{Q(x)}, \qquad
              Q_A = 1 + \sum_{i=1}^{4} |b_i x^i|, \quad Q_B = 1 + \Big|\sum_{i=1}^{4} b_i x^i\Big|

    It grows linearly. Its start is near the function on [-3, 3] and not outside. The authors train it at a
    tenth of the network's learning rate and clip gradients.

    Args:
        channels, share: see :class:`.base.Learned`. Default share: ``"layer"``: ten numbers each
        version: ``"A"`` or ``"B"``, the denominator. Default: ``"A"``
        init: ``"leaky_relu"``, ``"relu"``, ``"elu"``, ``"tanh"`` or ``"swish"``. Default: ``"leaky_relu"``

    Source: Molina, Schramowski & Kersting 2020, arXiv:1907.06732.
    """

    def __init__(self, channels, share="layer", version="A", init="leaky_relu"):
        super().__init__(channels, share)
        require(version in tuple(STARTS), "version", f"one of {', '.join(STARTS)}", version)
        known = tuple(STARTS[version])
        require(init in known, "init", f"one of {', '.join(known)}", init)
        self.version, self.init = version, init
        self.hold("numerator", 6)
        self.hold("denominator", 4)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Takes the coefficients of the start."""
        for parameter, start in zip(
            (self.numerator, self.denominator), STARTS[self.version][self.init], strict=True
        ):
            parameter.copy_(torch.tensor(start, dtype=torch.float64))

    def curve(self, x, a, b):
        numerator = a[..., 5]
        for i in range(4, -1, -1):
            numerator = numerator * x + a[..., i]
        size, b = (x.abs(), b.abs()) if self.version == "A" else (x, b)
        denominator = b[..., 3]
        for i in range(2, -1, -1):
            denominator = denominator * size + b[..., i]
        return numerator / (1 + (denominator * size).abs())

    def extra_repr(self):
        return f"{super().extra_repr()}, version={self.version}, init={self.init}"
