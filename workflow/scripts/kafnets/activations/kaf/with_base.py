"""The KAF that starts as a fixed activation: a base and kernels."""

import torch
from torch import nn

from .bases import BASES, TAILS, Form, kaf_with_base
from .kernels import KERNELS
from .layer import KAF, _require

PARAMETRISATIONS = ("alpha", "values")


class KAFWithBase(KAF):
    r"""A fixed activation and a mixture of Gaussian kernels.

    .. math:: f(x) = w_c\, b(x) + \sum_{i=1}^{D} \alpha_{c,i}\, \kappa(x, d_i)

    With the defaults it starts as :math:`b` itself (:math:`w = 1`, :math:`\alpha = 0`), and outside the
    dictionary it goes on as :math:`b`: no cliff, and it is constant nowhere unless :math:`b` is.

    Args:
        channels, D, boundary, bandwidth, ridge: as of :class:`.layer.KAF`; the kernels are Gaussian.
        trainable_dictionary, trainable_bandwidth, backend, device, dtype, share: as there.
        base: :math:`b`: ``"identity"``, ``"relu"``, ``"elu"`` or ``"silu"``. Default: ``"elu"``
        std: of the normal distribution from which :math:`\alpha` (or :math:`v`) is drawn. Default: 0
        tails: the kernels' sum beyond ``boundary``: ``"zero"``: as it is, falling to 0; ``"clamp"``: its
            value at the boundary; ``"linear"``: it goes on with its slope there. The last two need a
            dictionary and a bandwidth that are not trained. Default: ``"zero"``
        parametrisation: ``"alpha"``, or ``"values"``: what is trained are the sum's values :math:`v` at the
            dictionary (up to the ridge), :math:`\alpha = (K + \varepsilon I)^{-1} v`; then the steps do not
            go where :math:`K`, of condition 4e5, is steep. It needs them not trained either. Default:
            ``"alpha"``

    Shape:
        - Input, output: :math:`(N, C, *)`
        - weight (:math:`w`): :math:`(C)`; alpha or values: :math:`(C, D)`; 1 for :math:`C` where shared

    Raises:
        ValueError: naming the bad argument.

    Source: the KAF's (Scardapane et al., Neural Networks 110, 2019); a base beside learned functions as in
    Kolmogorov-Arnold networks, Liu et al. 2024, arXiv:2404.19756.
    """

    def __init__(
        self,
        channels,
        base="elu",
        D=20,
        boundary=3.0,
        bandwidth="thesis",
        std=0.0,
        ridge=1e-6,
        tails="zero",
        parametrisation="alpha",
        trainable_dictionary=False,
        trainable_bandwidth=False,
        backend=None,
        device=None,
        dtype=None,
        share="channel",
    ):
        _require(base in BASES, "base", f"one of {', '.join(BASES)}", base)
        _require(tails in TAILS, "tails", f"one of {', '.join(TAILS)}", tails)
        _require(
            parametrisation in PARAMETRISATIONS,
            "parametrisation",
            f"one of {', '.join(PARAMETRISATIONS)}",
            parametrisation,
        )
        for name, value in (
            ("trainable_dictionary", trainable_dictionary),
            ("trainable_bandwidth", trainable_bandwidth),
        ):
            _require(
                not value or (tails == "zero" and parametrisation == "alpha"),
                name,
                "False with these tails or this parametrisation",
                value,
            )
        self.base, self.tails, self.parametrisation = base, tails, parametrisation
        super().__init__(
            **{"channels": channels, "D": D, "boundary": boundary, "bandwidth": bandwidth, "std": std},
            **{"trainable_dictionary": trainable_dictionary, "trainable_bandwidth": trainable_bandwidth},
            **{"ridge": ridge, "backend": backend, "device": device, "dtype": dtype, "share": share},
        )
        self.weight = nn.Parameter(torch.ones_like(self.alpha[:, 0]))
        if parametrisation == "values":
            self.values = self.alpha
            del self.alpha
            self.register_buffer("inverse", None, persistent=False)
            self._invert()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Draws alpha, or the values; the base has the weight 1."""
        if hasattr(self, "alpha"):
            super().reset_parameters()
        else:
            self.dictionary.copy_(self._points())
            self.bandwidth.fill_(self._gamma)
            nn.init.normal_(self.values, std=self.std)
        if hasattr(self, "weight"):  # not yet in the constructor of the KAF
            self.weight.fill_(1)

    def _gram(self, ridge=0.0):
        points = self._points()
        gram = KERNELS["gaussian"].value(points[:, None] - points, self._gamma)
        return gram + ridge * torch.eye(self.D, dtype=torch.float64, device="cpu")

    def _invert(self):
        """The inverse of K, whose entries of size 1e5 cancel, in float64 whatever the parameters are."""
        self.inverse = torch.linalg.inv(self._gram(self.ridge)).to(self.values.device)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.parametrisation == "values":
            self._invert()
        return self

    def inlined(self, dtype):
        """None: kernels that compute other layers too know the mixture, not the base."""
        return None

    def mixture(self):
        if self.parametrisation == "alpha":
            return super().mixture()
        alpha = (self.values.double() @ self.inverse).to(self.values.dtype)
        return alpha.expand(self.channels, self.D), self.dictionary, self.bandwidth

    @torch.no_grad()
    def set_alpha(self, alpha):
        """Takes these coefficients; from here on they are what is trained."""
        if self.parametrisation == "values":
            self.alpha, self.parametrisation = nn.Parameter(torch.empty_like(self.values)), "alpha"
            del self.values, self.inverse
        self.alpha.copy_(alpha)

    def forward(self, x):
        form = Form(self.base, self.tails, self.boundary)
        return kaf_with_base(x, self.weight.expand(self.channels), *self.mixture(), form, self.backend)

    def extra_repr(self):
        text = super().extra_repr().replace(f"init={self.init}", f"base={self.base}, std={self.std:g}")
        text += f", tails={self.tails}"
        return text if self.parametrisation == "alpha" else f"{text}, parametrisation=values"
