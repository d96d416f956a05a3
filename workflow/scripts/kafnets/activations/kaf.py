"""The KAF layer."""

import math
from numbers import Real

import torch
from torch import nn

from ..registry import ACTIVATIONS, is_trainable
from . import functional, half
from .kernels import KERNELS

# gamma = 1 / (factor * Delta^2), Delta the distance between neighbouring dictionary points.
BANDWIDTH_RULES = {"thesis": 6.0, "reference": 8.0}
ARITHMETICS = ("float32", "float16")


class KAF(nn.Module):
    r"""Kernel activation function: a learned mixture of kernels on a dictionary, one mixture per channel.

    .. math:: \text{KAF}(x) = \sum_{i=1}^{D} \alpha_{c,i}\, \kappa(x, d_i)

    with the Gaussian kernel :math:`\kappa(x, d) = \exp(-\gamma (x - d)^2)` and :math:`D` points :math:`d_i`
    evenly spaced on :math:`[-\text{boundary}, \text{boundary}]`, :math:`\Delta` apart. A Gaussian KAF falls
    back to 0 outside its dictionary.

    Args:
        channels: number of channels, or of units of a dense layer (each has its own :math:`\alpha`).
        D: number of dictionary points. Default: 20
        boundary: the dictionary spans ``[-boundary, boundary]``, in the units of the input. Default: 3.0
        bandwidth: :math:`\gamma`: ``"thesis"`` for :math:`1/(6\Delta^2)`, ``"reference"`` for
            :math:`1/(8\Delta^2)`, or a positive number in inverse squared units of the input.
            Default: ``"thesis"``
        init: ``"normal"``: every :math:`\alpha` drawn from :math:`N(0, \text{std}^2)`; or a function that the
            KAF starts as, in every channel: the name of a fixed activation (``"relu"``, ``"elu"``,
            ``"swish"``, ...) or a callable on tensors. The start solves a ridge regression on the dictionary,
            :math:`\alpha = (K + \varepsilon I)^{-1} \sigma(d)` with :math:`K_{ij} = \kappa(d_i, d_j)`; for
            the kernels whose :math:`K` is not symmetric, its normal equations
            :math:`(K^\top K + \varepsilon I)^{-1} K^\top \sigma(d)`. Default: ``"normal"``
        std: standard deviation of the ``"normal"`` start. Default: 0.05
        ridge: :math:`\varepsilon` of the ridge regression. Default: 1e-6
        kernel: ``"gaussian"``, ``"relu"``: :math:`\max(0, x - d)`, or ``"softplus"``:
            :math:`\log(1 + e^{x-d})`. Default: ``"gaussian"``
        trainable_dictionary: learn the dictionary, per channel. Default: ``False``
        trainable_bandwidth: learn :math:`\gamma`, per channel (gaussian kernel only). Default: ``False``
        backend: the code that evaluates this layer, see :func:`kafnets.activations.functional.set_backend`.
            Default: chosen by device
        arithmetic: ``"float32"`` (float64 for a float64 input), or ``"float16"``: the value as a
            mixed-precision training computes it, every step of the formula rounded to float16, with the
            exact derivatives; it shows what rounding does to a trained KAF. Default: ``"float32"``
        device, dtype: of the parameters.

    Shape:
        - Input: :math:`(N, C, *)`, channels at dim 1, any number of further dimensions
        - Output: :math:`(N, C, *)`, same shape, dtype and memory format as the input
        - alpha: :math:`(C, D)`; dictionary: :math:`(D)`, or :math:`(C, D)` when trainable; bandwidth:
          :math:`()`, or :math:`(C)` when trainable

    Raises:
        ValueError: naming the bad argument, or an input whose dim 1 is not ``channels``.

    Examples::

        >>> layer = kafnets.KAF(16, init="elu")
        >>> output = layer(torch.randn(8, 16, 32, 32))

    Source: Scardapane, Van Vaerenbergh, Totaro & Uncini, *Kafnets: kernel-based non-parametric activation
    functions for neural networks*, Neural Networks 110, 2019.
    """

    def __init__(
        self,
        channels,
        D=20,
        boundary=3.0,
        bandwidth="thesis",
        init="normal",
        std=0.05,
        ridge=1e-6,
        kernel="gaussian",
        trainable_dictionary=False,
        trainable_bandwidth=False,
        backend=None,
        arithmetic="float32",
        device=None,
        dtype=None,
    ):
        super().__init__()
        _require(_is_count(channels, 1), "channels", "a positive integer", channels)
        _require(_is_count(D, 2), "D", "an integer of at least 2", D)
        _require(_is_positive(boundary), "boundary", "a positive number", boundary)
        _require(
            bandwidth in BANDWIDTH_RULES if isinstance(bandwidth, str) else _is_positive(bandwidth),
            "bandwidth",
            f"{' or '.join(map(repr, BANDWIDTH_RULES))} or a positive number",
            bandwidth,
        )
        _require(kernel in KERNELS, "kernel", f"one of {', '.join(KERNELS)}", kernel)
        _require(_is_number(std) and std >= 0, "std", "a number of at least 0", std)
        _require(_is_positive(ridge), "ridge", "a positive number", ridge)
        _require(
            not trainable_bandwidth or KERNELS[kernel].by_bandwidth is not None,
            "trainable_bandwidth",
            f"False for the {kernel} kernel, which has no bandwidth",
            trainable_bandwidth,
        )
        _require(arithmetic in ARITHMETICS, "arithmetic", f"one of {', '.join(ARITHMETICS)}", arithmetic)
        if backend is not None:
            functional.check_backend(backend)
        self.channels, self.D, self.boundary = channels, D, float(boundary)
        self.std, self.ridge, self.kernel, self.backend = std, ridge, kernel, backend
        self.arithmetic = arithmetic
        self._tabulated = None  # float16: the state of the parameters last seen, their table, and they
        # The bound method: a module held as an attribute would become a child of this one.
        self.init = init.forward if isinstance(init, nn.Module) else init
        _target_function(self.init)
        factor = BANDWIDTH_RULES.get(bandwidth) if isinstance(bandwidth, str) else None
        self._gamma = 1 / (factor * (2 * boundary / (D - 1)) ** 2) if factor else float(bandwidth)

        factory = {"device": device, "dtype": dtype}
        self.alpha = nn.Parameter(torch.empty(channels, D, **factory))
        self._hold("dictionary", trainable_dictionary, (D,), factory)
        self._hold("bandwidth", trainable_bandwidth, (), factory)
        self.reset_parameters()

    def _hold(self, name, trainable, shape, factory):
        """Registers `name` as a parameter per channel, or as a buffer that all channels share."""
        if trainable:
            setattr(self, name, nn.Parameter(torch.empty(self.channels, *shape, **factory)))
        else:
            self.register_buffer(name, torch.empty(shape, **factory))

    @torch.no_grad()
    def reset_parameters(self):
        """Puts the dictionary and bandwidth at their start and draws or solves for alpha."""
        dictionary = torch.linspace(-self.boundary, self.boundary, self.D, dtype=torch.float64)
        self.dictionary.copy_(dictionary)
        self.bandwidth.fill_(self._gamma)
        function = _target_function(self.init)
        if function is None:
            nn.init.normal_(self.alpha, std=self.std)
        else:
            self.alpha.copy_(self._ridge_solution(dictionary, function(dictionary)))

    def _ridge_solution(self, dictionary, target):
        """alpha (D,) in float64 with which the KAF takes the values `target` on the dictionary."""
        gram = KERNELS[self.kernel].value(dictionary[:, None] - dictionary, self._gamma)
        if self.kernel != "gaussian":
            gram, target = gram.T @ gram, gram.T @ target
        return torch.linalg.solve(gram + self.ridge * torch.eye(self.D, dtype=torch.float64), target)

    def forward(self, x):
        parameters = (self.alpha, self.dictionary, self.bandwidth)
        if self.arithmetic == "float16":
            return half.kaf(x, self._table(), *parameters, self.kernel, self.backend)
        return functional.kaf(x, *parameters, self.kernel, self.backend)

    def _table(self):
        """The table of the float16 arithmetic; where no parameter is being trained, that of the last call.

        Fused optimisers and replays of a CUDA graph change parameters and do not count it, and to compare
        values would wait for the device: in a training the table is made in every pass.
        """
        parameters = [p.detach() for p in (self.alpha, self.dictionary, self.bandwidth)]
        learning = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        with torch.no_grad():
            if self.training or learning or any(p.is_inference() for p in parameters):
                self._tabulated = None
                return half.tabulate(*parameters, self.kernel)
            # held, so that no other tensor can come to lie where they do
            state = [(p.data_ptr(), p._version) for p in parameters]
            if self._tabulated is None or self._tabulated[0] != state:
                self._tabulated = state, half.tabulate(*parameters, self.kernel), parameters
            return self._tabulated[1]

    def train(self, mode=True):
        self._tabulated = None
        return super().train(mode)

    def extra_repr(self):
        init = self.init if isinstance(self.init, str) else getattr(self.init, "__qualname__", "callable")
        text = f"{self.channels}, D={self.D}, boundary={self.boundary:g}"
        text += f", bandwidth={self._gamma:.6g}, init={init}"
        if self.kernel != "gaussian":
            text += f", kernel={self.kernel}"
        if self.arithmetic != "float32":
            text += f", arithmetic={self.arithmetic}"
        for name in ("dictionary", "bandwidth"):
            if isinstance(getattr(self, name), nn.Parameter):
                text += f", trainable_{name}=True"
        return text


def _target_function(init):
    """The function a KAF starts as, None for the random start."""
    if callable(init):
        return init
    if init == "normal":
        return None
    fixed = [name for name in ACTIVATIONS if not is_trainable(name)]
    _require(init in fixed, "init", f"'normal', a callable or one of {', '.join(fixed)}", init)
    entry = ACTIVATIONS[init]
    return entry.load()(**entry.arguments)


def _require(holds, name, wanted, value):
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _is_count(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value):
    return _is_number(value) and value > 0
