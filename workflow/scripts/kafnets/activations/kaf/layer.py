"""The KAF layer."""

import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import nn

from ...registry import ACTIVATIONS, is_trainable
from ...runtime.errors import UserError
from . import functional, gpu, half
from .kernels import KERNELS

# gamma = 1 / (factor * Delta^2), Delta the distance between neighbouring dictionary points.
BANDWIDTH_RULES = {"thesis": 6.0, "reference": 8.0}
ARITHMETICS = ("float32", "float16")
SHARES = ("channel", "layer", "network")

# float32 holds 1e-38 to 3e38. Second derivatives hold gamma^2 and 1 / gamma^2: gamma keeps to the square root
# of that range. It is some 1 / Delta^2, and Delta = 2 boundary / (D - 1).
BANDWIDTHS = (1e-18, 1e18)
BOUNDARIES = (1e-6, 1e6)
# float32 places a point to within 1e-7 of the boundary: a thousand kernels side by side are right to 1e-4.
MOST_POINTS = 1000
# The ridge regression is solved in float64, where a thousand products are right to 1e-13.
RIDGES = (1e-12, 1e12)
MOST_STD = 1e6  # as the boundary: values of a layer, far from what float32 cannot square
# float16 in full precision, for a KAF in its arithmetic
HALF_NUMBERS = (torch.finfo(torch.float16).tiny, torch.finfo(torch.float16).max)


class KAF(nn.Module):
    r"""Kernel activation function: a learned mixture of kernels on a dictionary, one mixture per channel.

    .. math:: \text{KAF}(x) = \sum_{i=1}^{D} \alpha_{c,i}\, \kappa(x, d_i)

    with the Gaussian kernel :math:`\kappa(x, d) = \exp(-\gamma (x - d)^2)` and :math:`D` points :math:`d_i`
    evenly spaced on :math:`[-\text{boundary}, \text{boundary}]`, :math:`\Delta` apart. A Gaussian KAF falls
    back to 0 outside its dictionary.

    Args:
        channels: number of channels, or of units of a dense layer (each has its own :math:`\alpha`).
        D: number of dictionary points, 2 to 1000. Default: 20
        boundary: the dictionary spans ``[-boundary, boundary]``, in the units of the input; 1e-6 to 1e6.
            Default: 3.0
        bandwidth: :math:`\gamma`: ``"thesis"`` for :math:`1/(6\Delta^2)`, ``"reference"`` for
            :math:`1/(8\Delta^2)`, or a number in inverse squared units of the input, 1e-18 to 1e18.
            Default: ``"thesis"``
        init: ``"normal"``: every :math:`\alpha` drawn from :math:`N(0, \text{std}^2)`; or a function that the
            KAF starts as, in every channel: the name of a fixed activation (``"relu"``, ``"elu"``,
            ``"swish"``, ...) or a callable on tensors, of which its values on the dictionary are kept, not
            itself: the layer can be pickled. The start solves a ridge regression on the dictionary,
            :math:`\alpha = (K + \varepsilon I)^{-1} \sigma(d)` with :math:`K_{ij} = \kappa(d_i, d_j)`; for
            the kernels whose :math:`K` is not symmetric, its normal equations
            :math:`(K^\top K + \varepsilon I)^{-1} K^\top \sigma(d)`. Default: ``"normal"``
        std: standard deviation of the ``"normal"`` start, at most 1e6. Default: 0.05
        ridge: :math:`\varepsilon` of the ridge regression, 1e-12 to 1e12. Default: 1e-6
        kernel: ``"gaussian"``, ``"relu"``: :math:`\max(0, x - d)`, or ``"softplus"``:
            :math:`\log(1 + e^{x-d})`. Default: ``"gaussian"``
        trainable_dictionary: learn the dictionary, per channel. Default: ``False``
        trainable_bandwidth: learn :math:`\gamma`, per channel (gaussian kernel only). Default: ``False``
        backend: the code that evaluates this layer, see :func:`.functional.set_backend`.
            Default: chosen by device
        arithmetic: ``"float32"`` (float64 for a float64 input), or ``"float16"``: the value as a
            mixed-precision training computes it, every step of the formula rounded to float16, with the
            exact derivatives; it shows what rounding does to a trained KAF. The boundary and
            :math:`\gamma` must then be numbers of float16, 6.1e-5 to 65504. Default: ``"float32"``
        device, dtype: of the parameters; narrower than float32, they are held in float32, which
            ``half()``, ``bfloat16()`` and ``to(dtype)`` do not change either: a ridge start has coefficients
            of size 70 that cancel, and rounded to bfloat16 the function would be off by 0.3.
        share: ``"channel"``: each has its own parameters; ``"layer"``: one set for all; ``"network"``: one
            set too, which :func:`kafnets.activations.layer_factory` ties over all layers of a network.
            Default: ``"channel"``

    Shape:
        - Input: :math:`(N, C, *)`, channels at dim 1, any number of further dimensions
        - Output: :math:`(N, C, *)`, same shape, dtype and memory format as the input
        - alpha: :math:`(C, D)`; dictionary: :math:`(D)`, or :math:`(C, D)` when trainable; bandwidth:
          :math:`()`, or :math:`(C)` when trainable; 1 for :math:`C` where the channels share them

    Works under torch.compile, torch.func (vmap, grad, jvp, hessian, ...) and forward-mode differentiation.
    Exported, by torch.export, torch.onnx or torch.jit.trace, it is the formula in torch's own operations,
    with D times the input in memory (whether each step of ``arithmetic="float16"`` is rounded is then up to
    what runs it). torch.jit.script cannot compile it: trace or export instead.

    Raises:
        ValueError: naming the bad argument, or an input whose dim 1 is not ``channels``.

    Examples::

        >>> layer = kafnets.KAF(16, init="elu")
        >>> output = layer(torch.randn(8, 16, 32, 32))

    Source: Scardapane, Van Vaerenbergh, Totaro & Uncini, *Kafnets: kernel-based non-parametric activation
    functions for neural networks*, Neural Networks 110, 2019.
    """

    takes_share = True

    def __init__(
        self,
        channels: int,
        D: int = 20,
        boundary: float = 3.0,
        bandwidth: str | float = "thesis",
        init: str | Callable = "normal",
        std: float = 0.05,
        ridge: float = 1e-6,
        kernel: str = "gaussian",
        trainable_dictionary: bool = False,
        trainable_bandwidth: bool = False,
        backend: str | None = None,
        arithmetic: str = "float32",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        share: str = "channel",
    ):
        super().__init__()
        _require(_is_count(channels, 1), "channels", "a positive integer", channels)
        _require(share in SHARES, "share", f"one of {', '.join(SHARES)}", share)
        _require(_is_count(D, 2, MOST_POINTS), "D", f"an integer from 2 to {MOST_POINTS}", D)
        _require_between("boundary", boundary, BOUNDARIES)
        rules = isinstance(bandwidth, str) and bandwidth in BANDWIDTH_RULES
        if not rules:
            also = f"{' or '.join(map(repr, BANDWIDTH_RULES))} or "
            _require_between("bandwidth", bandwidth, BANDWIDTHS, also)
        _require(kernel in tuple(KERNELS), "kernel", f"one of {', '.join(KERNELS)}", kernel)
        _require_between("std", std, (0, MOST_STD))
        _require_between("ridge", ridge, RIDGES)
        for name, value in (
            ("trainable_dictionary", trainable_dictionary),
            ("trainable_bandwidth", trainable_bandwidth),
        ):
            _require(value in (True, False), name, "True or False", value)
        _require(
            not trainable_bandwidth or KERNELS[kernel].by_bandwidth is not None,
            "trainable_bandwidth",
            f"False for the {kernel} kernel, which has no bandwidth",
            trainable_bandwidth,
        )
        _require(arithmetic in ARITHMETICS, "arithmetic", f"one of {', '.join(ARITHMETICS)}", arithmetic)
        if backend is not None:
            functional.check_backend(backend)
        self.channels, self.D, self.boundary = int(channels), int(D), float(boundary)
        self.share, self.rows = share, int(channels) if share == "channel" else 1
        self.std, self.ridge, self.kernel, self.backend = float(std), float(ridge), kernel, backend
        self._gamma = _bandwidth_rule(bandwidth, self.boundary, self.D) if rules else float(bandwidth)
        self.arithmetic = arithmetic
        if arithmetic == "float16":
            where = " (float16 holds no more)"
            _require_between("boundary", self.boundary, HALF_NUMBERS, where=where)
            _require_between("bandwidth", self._gamma, HALF_NUMBERS, where=where)
        self._tabulated = None  # float16: the state of the parameters last seen, their table, and they
        self._spaced = None  # the state of dictionary and gamma last seen, their narrowness, and they
        # Names and numbers, no callable: a lambda cannot be pickled, a module would become a child.
        self.init = init if isinstance(init, str) else _name_of(init)
        self._start = self._start_values(init)

        dtype = torch.get_default_dtype() if dtype is None else dtype
        is_real = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        _require(is_real, "dtype", "a floating-point dtype of torch", dtype)
        factory = {"device": device, "dtype": _at_least_float32(dtype)}
        self.alpha = nn.Parameter(torch.empty(self.rows, D, **factory))
        self._hold("dictionary", trainable_dictionary, (D,), factory)
        self._hold("bandwidth", trainable_bandwidth, (), factory)
        self.reset_parameters()

    def _hold(self, name, trainable, shape, factory):
        """Registers `name` as a parameter per channel (or row), or as a buffer that all channels share."""
        if trainable:
            setattr(self, name, nn.Parameter(torch.empty(self.rows, *shape, **factory)))
        else:
            self.register_buffer(name, torch.empty(shape, **factory))

    def _points(self):
        """The dictionary as it starts, on the CPU whatever torch's default device is."""
        return torch.linspace(-self.boundary, self.boundary, self.D, dtype=torch.float64, device="cpu")

    @torch.no_grad()
    def _start_values(self, init):
        """What the function that the KAF starts as is on the dictionary; None for the random start."""
        function = _target_function(init)
        if function is None:
            return None
        values = function(self._points())
        fits = isinstance(values, torch.Tensor) and values.shape == (self.D,) and values.isfinite().all()
        _require(fits, "init", "a function that gives a finite number for each point", _name_of(init))
        return values.detach().to("cpu", torch.float64).clone()

    @torch.no_grad()
    def reset_parameters(self):
        """Puts the dictionary and bandwidth at their start and draws or solves for alpha."""
        self.dictionary.copy_(self._points())
        self.bandwidth.fill_(self._gamma)
        if self._start is None:
            nn.init.normal_(self.alpha, std=self.std)
        else:
            self.alpha.copy_(self._ridge_solution(self._start))

    def _ridge_solution(self, target):
        """alpha (D,) in float64 with which the KAF takes the values `target` on the dictionary."""
        points = self._points()
        gram = KERNELS[self.kernel].value(points[:, None] - points, self._gamma)
        if self.kernel != "gaussian":
            gram, target = gram.T @ gram, gram.T @ target
        ridge = self.ridge * torch.eye(self.D, dtype=torch.float64, device="cpu")
        solution, singular = torch.linalg.solve_ex(gram + ridge, target)
        solved = not singular and solution.abs().max() < torch.finfo(torch.float32).max
        _require(solved, "ridge", "larger for these kernels, whose regression is singular", self.ridge)
        return solution

    def _apply(self, fn, recurse=True):
        """As of every module, for to(), half(), cuda() and the like, but the parameters stay wide."""

        def wide(tensor):
            moved = fn(tensor)
            return tensor.to(moved.device, _at_least_float32(moved.dtype)) if _is_narrow(moved) else moved

        return super()._apply(wide, recurse)

    def __getstate__(self):
        return {
            **self.__dict__,
            "_tabulated": None,
            "_spaced": None,
        }  # they hold for the tensors where they lie now

    def mixture(self):
        """alpha (C, D), dictionary and bandwidth as :func:`.functional.kaf` takes them."""
        if self.rows == self.channels:
            return self.alpha, self.dictionary, self.bandwidth
        dictionary = self.dictionary if self.dictionary.dim() == 1 else self.dictionary[0]
        bandwidth = self.bandwidth if self.bandwidth.dim() == 0 else self.bandwidth[0]
        return self.alpha.expand(self.channels, self.D), dictionary, bandwidth

    def squared_norm(self):
        r""":math:`\alpha^\top K \alpha` of each channel, (C,): of the kernels' sum in their own space."""
        alpha, dictionary, gamma = self.mixture()
        offsets = dictionary.unsqueeze(-1) - dictionary.unsqueeze(-2)
        gram = KERNELS[self.kernel].value(offsets, gamma.reshape(-1, 1, 1))
        return torch.einsum("ci,cij,cj->c", alpha, gram.expand(len(alpha), -1, -1), alpha)

    @torch.no_grad()
    def set_alpha(self, alpha):
        """Takes these coefficients."""
        self.alpha.copy_(alpha)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parameters = self.mixture()
        if self.arithmetic == "float16":
            table = None if functional.needs_plain_steps() else self._table()
            return half.kaf(x, table, *parameters, self.kernel, self.backend)
        return functional.kaf(x, *parameters, self.kernel, self.backend)

    def inlined(self, dtype):
        """This KAF for a kernel that computes other layers too, or None where its own kernels must.

        Args:
            dtype (torch.dtype): of the layer's input.

        Returns:
            Inlined, or None for settings or a backend that such kernels do not cover.
        """
        parameters = (self.alpha, self.dictionary, self.bandwidth)
        if (
            self.kernel != "gaussian"
            or self.arithmetic != "float32"
            or self.dictionary.dim() + self.bandwidth.dim() > 1
            or (self.backend or functional.get_backend()) not in ("auto", "triton")
            or not all(p.dtype == torch.float32 and p.is_contiguous() for p in parameters)
            or any(p.is_inference() for p in parameters)
        ):
            return None
        return gpu.inlined(parameters, self._narrowness(), dtype)

    def _narrowness(self):
        """What :func:`.gpu.narrowness` finds, asked again only when the dictionary or gamma has changed."""
        seen = self.dictionary, self.bandwidth
        state = [(p.data_ptr(), p._version) for p in seen]
        if self._spaced is None or self._spaced[0] != state:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                return None
            self._spaced = state, gpu.narrowness(*seen), seen
        return self._spaced[1]

    def _table(self):
        """The table of the float16 arithmetic; where no parameter is being trained, that of the last call.

        Fused optimisers and replays of a CUDA graph change parameters and do not count it, and to compare
        values would wait for the device: in a training the table is made in every pass.
        """
        parameters = [p.detach() for p in self.mixture()]
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
        text = f"{self.channels}, D={self.D}, boundary={self.boundary:g}"
        text += f", bandwidth={self._gamma:.6g}, init={self.init}"
        if self.kernel != "gaussian":
            text += f", kernel={self.kernel}"
        if self.arithmetic != "float32":
            text += f", arithmetic={self.arithmetic}"
        for name in ("dictionary", "bandwidth"):
            if isinstance(getattr(self, name), nn.Parameter):
                text += f", trainable_{name}=True"
        if self.share != "channel":
            text += f", share={self.share}"
        return text


def _target_function(init):
    """The function a KAF starts as, None for the random start."""
    if callable(init):
        return init
    if init == "normal":
        return None
    fixed = [name for name in ACTIVATIONS if not is_trainable(name) and ACTIVATIONS[name].elementwise]
    _require(init in fixed, "init", f"'normal', a callable or one of {', '.join(fixed)}", init)
    entry = ACTIVATIONS[init]
    return entry.load()(**entry.arguments)


def _name_of(function):
    """What repr() shows of a callable."""
    return getattr(function, "__name__", type(function).__name__)


def _bandwidth_rule(name, boundary, D):
    return 1 / (BANDWIDTH_RULES[name] * (2 * boundary / (D - 1)) ** 2)


def _at_least_float32(dtype):
    return torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype


def _is_narrow(tensor):
    return tensor.is_floating_point() and tensor.dtype != _at_least_float32(tensor.dtype)


def _require(holds, name, wanted, value):
    if not holds:
        raise UserError(f"{name} must be {wanted}, got {value!r}")


def _require_between(name, value, bounds, also="", where=""):
    least, most = bounds
    _require(
        least <= _as_float(value) <= most,
        name,
        f"{also}a number from {least:.6g} to {most:.6g}{where}",
        value,
    )


def _as_float(value):
    """`value` as a float, NaN where it is no number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # of an integer
        return math.inf


def _is_count(value, least, most=math.inf):
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most
