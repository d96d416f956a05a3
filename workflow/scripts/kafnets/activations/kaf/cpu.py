"""Gaussian KAF on the CPU: per channel a table of polynomials, evaluated by a small compiled library.

A Gaussian KAF is one smooth function of one variable per channel. It is sampled at Chebyshev nodes, 7 to a
cell, in float64; the cells' polynomials of degree 6 reproduce it to about 2e-7 of sum |alpha|, whatever D is,
with no exponential per element. Its derivative gets a table of its own. Outside the cells, where less than
2e-8 of a kernel is left, the formula itself is evaluated: a small gradient is not mistaken for none.

The parameters' gradients need of all elements only the moments of the incoming gradient in each cell: from
these follow the cotangents of the node values, and from those the gradients, by the chain rule at the nodes.
"""

import ctypes
import functools
import hashlib
import logging
import math
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import torch

from ...runtime.errors import UserError
from ...runtime.files import atomic_path
from . import portable

_SOURCE = pathlib.Path(__file__).with_name("piecewise.cpp")
_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_DEGREE, _FINE, _MOMENTS, _CELLS, _MOST_CELLS = 6, 8, 4, 32, 1024
_NODES = _DEGREE + 1
_REACH = 17.7  # gamma u^2 at which a kernel is down to 2e-8: the cells end there
_HALF_CELL = 0.42  # largest half-width of a cell in standard deviations of the kernel

log = logging.getLogger("kafnets")


class Grid(NamedTuple):
    """Cells per channel (C may be 1: shared by all): cell k is centred at (first + k) / inverse_width."""

    inverse_width: torch.Tensor  # (C,) float32
    first: torch.Tensor  # (C,) int32
    cells: int


class Mixture(NamedTuple):
    """The parameters of a KAF in float64."""

    alpha: torch.Tensor  # (C, D)
    dictionary: torch.Tensor  # (D,) or (C, D)
    bandwidth: torch.Tensor  # () or (C,)


class Basis(NamedTuple):
    """What of a fixed dictionary and bandwidth does not change from call to call."""

    grid: Grid
    kappa: torch.Tensor  # (D, cells * 7): the kernels at the nodes
    value: torch.Tensor  # (D, 7 * cells): the kernels' polynomial coefficients
    slope: torch.Tensor  # (D, 7 * cells): those of their derivatives


def available():
    """Whether the compiled library is there (built on first use)."""
    return _library() is not None


def supports(x, dictionary, bandwidth, kernel):
    """Whether this backend covers such a call; the portable one takes the others."""
    return (
        kernel == "gaussian"
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and _cells(dictionary, bandwidth) is not None
        and available()
    )


def forward(x, alpha, dictionary, bandwidth, kernel):
    """y = sum_i alpha_i exp(-gamma (x - d_i)^2)."""
    mixture = _mixture(alpha, dictionary, bandwidth)
    grid, coefficients = _table(mixture, slope=False)
    return run(x, None, grid, coefficients, mixture, derivative=False, adjoint=False)[0]


def backward(grad, x, alpha, dictionary, bandwidth, kernel, needs):
    """Gradients of x, alpha, dictionary and bandwidth; `needs` holds four booleans, the rest are None."""
    mixture = _mixture(alpha, dictionary, bandwidth)
    grid, slope = _table(mixture, slope=True) if needs[0] else (_sampling(mixture)[0], None)
    grad_x, cotangent, _ = run(x, grad, grid, slope, mixture, derivative=True, adjoint=any(needs[1:]))
    if cotangent is None:
        return grad_x, None, None, None
    _, basis = _sampling(mixture)
    if basis is not None and not any(needs[2:]):
        return grad_x, (cotangent @ basis.kappa.T).to(alpha.dtype), None, None
    by_alpha, by_dictionary, by_bandwidth = parameter_gradients(cotangent, grid, mixture)
    return (
        grad_x,
        by_alpha.to(alpha.dtype) if needs[1] else None,
        portable.like(by_dictionary, dictionary) if needs[2] else None,
        portable.like(by_bandwidth, bandwidth) if needs[3] else None,
    )


def _mixture(alpha, dictionary, bandwidth):
    return Mixture(*(t.detach().double().contiguous() for t in (alpha, dictionary, bandwidth)))


def parameter_gradients(cotangent, grid, mixture, **of_base):
    """Chain rule at the nodes: per-channel gradients of alpha, dictionary and bandwidth."""
    zeroth, first, second = torch.empty(3, *mixture.alpha.shape, dtype=torch.float64)
    call = _call(mixture.alpha.shape[0], grid, mixture, **of_base)
    tensors = (_sampling_scheme()[0], cotangent, zeroth, first, second)
    _library().piecewise_project(ctypes.byref(call), *(t.data_ptr() for t in tensors))
    by_dictionary = 2 * mixture.bandwidth.reshape(-1, 1) * mixture.alpha * first
    return zeroth, by_dictionary, -(mixture.alpha * second).sum(1)


# -- tables --------------------------------------------------------------------------------------------------


def _table(mixture, slope):
    """The grid, and the float32 coefficients (C, 7 * cells) of the function or of its slope."""
    grid, basis = _sampling(mixture)
    if basis is not None:
        return grid, (mixture.alpha @ (basis.slope if slope else basis.value)).float()
    return grid, interpolated(grid, mixture, derivative=slope)


def interpolated(grid, mixture, **fields):
    """The coefficients where the channels have dictionaries or bandwidths of their own."""
    table = torch.empty(mixture.alpha.shape[0], _NODES * grid.cells)
    call, tensors = _call(len(table), grid, mixture, **fields), (*_sampling_scheme(), table)
    _library().piecewise_interpolate(ctypes.byref(call), *(t.data_ptr() for t in tensors))
    return table


def _sampling(mixture):
    """The Grid, and the Basis (None where the dictionary or the bandwidth differs by channel)."""
    if mixture.dictionary.dim() == 2 or mixture.bandwidth.dim() == 1:
        return _grid(mixture.dictionary, mixture.bandwidth), None
    basis = _shared_basis(tuple(mixture.dictionary.tolist()), mixture.bandwidth.item())
    return basis.grid, basis


@functools.lru_cache(maxsize=64)
def _shared_basis(dictionary, gamma):
    dictionary = torch.tensor(dictionary, dtype=torch.float64)
    grid = _grid(dictionary, torch.tensor(gamma, dtype=torch.float64))
    places = grid.first + torch.arange(grid.cells)[:, None] + _chebyshev(_NODES)
    u = places.flatten() / grid.inverse_width.double() - dictionary[:, None]
    kappa = torch.exp(-gamma * u.square())
    value = _coefficients(kappa, grid.cells)
    return Basis(grid, kappa, value, _coefficients(-2 * gamma * u * kappa, grid.cells))


def _bounds(dictionary, bandwidth):
    """The interval (C,) that the cells must cover, in float64."""
    dictionary, gamma = dictionary.detach().double(), bandwidth.detach().double()
    reach = (_REACH / gamma).sqrt()
    return dictionary.amin(-1) - reach, dictionary.amax(-1) + reach


def _cells(dictionary, bandwidth):
    """Number of cells, the same in every channel; None where there is no sensible number."""
    if dictionary.dim() == 1 and bandwidth.dim() == 0:
        return _shared_cells(tuple(dictionary.tolist()), bandwidth.item())
    return _count_cells(dictionary, bandwidth)


@functools.lru_cache(maxsize=64)
def _shared_cells(dictionary, gamma):
    return _count_cells(
        torch.tensor(dictionary, dtype=torch.float64), torch.tensor(gamma, dtype=torch.float64)
    )


def _count_cells(dictionary, bandwidth):
    low, high = _bounds(dictionary, bandwidth)
    if not low.numel():
        return None
    widths = ((high - low) * (2 * bandwidth.detach().double()).sqrt()).max().item()
    if not math.isfinite(widths):
        return None
    cells = _CELLS * math.ceil((widths / (2 * _HALF_CELL) + 1) / _CELLS)
    return cells if cells <= _MOST_CELLS else None


def _grid(dictionary, bandwidth):
    cells = _cells(dictionary, bandwidth)
    low, high = (t.reshape(-1) for t in torch.broadcast_tensors(*_bounds(dictionary, bandwidth)))
    inverse_width = ((cells - 1) / (high - low)).float()
    return Grid(inverse_width, (low * inverse_width).round().int(), cells)


@functools.cache
def _chebyshev(count):
    """Chebyshev nodes on [-1/2, 1/2]."""
    return torch.cos(torch.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count) / 2


def _powers(places, count):
    return places[..., None] ** torch.arange(count, dtype=torch.float64)


@functools.cache
def _interpolation(count):
    """(count, count): values at Chebyshev nodes -> coefficients of the interpolating polynomial."""
    return torch.linalg.inv(_powers(_chebyshev(count), count)).contiguous()


@functools.cache
def _sampling_scheme():
    """The 7 nodes, and (7, 8) how a polynomial's coefficients follow from its values there: vectors of 8."""
    nodes, by_value = _chebyshev(_NODES), _interpolation(_NODES).T
    return tuple(torch.nn.functional.pad(t, (0, 1)).contiguous() for t in (nodes, by_value))


def _coefficients(samples, cells):
    """Node values (R, cells * 7) -> polynomial coefficients (R, 7 * cells), lowest power first."""
    samples = samples.reshape(-1, cells, _NODES)
    return (_interpolation(_NODES) @ samples.transpose(1, 2)).flatten(1)


@functools.cache
def _moments_to_nodes():
    """(8 * 4, 8): moments in the fine cells of a cell -> cotangents of its 7 node values, and a zero."""
    fine = (
        torch.arange(_FINE) + 0.5 + _chebyshev(_MOMENTS)[:, None]
    ) / _FINE - 0.5  # (4, 8) places in the cell
    at_fine_nodes = _powers(fine, _NODES) @ _interpolation(_NODES)  # (4, 8, 7)
    by_moment = torch.einsum("mn,njk->jmk", _interpolation(_MOMENTS), at_fine_nodes)
    return torch.nn.functional.pad(by_moment.reshape(_FINE * _MOMENTS, _NODES), (0, 1)).contiguous()


# -- the compiled library ------------------------------------------------------------------------------------


class _Call(ctypes.Structure):
    """PiecewiseCall of piecewise.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("x", "g", "y", "coefficients", "cotangents", "to_nodes", "inverse_width", "first"),
                *("alpha", "dictionary", "bandwidth"),
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("grid_stride", "dictionary_stride", "bandwidth_stride"),
                *("cells", "terms", "batch", "channels", "positions"),
            )
        ),
        *((name, ctypes.c_int32) for name in ("derivative", "interleaved", "threads")),
        *((name, ctypes.c_void_p) for name in ("weight", "ends", "outside")),
        ("boundary", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("base", "tails", "edges")),
    )


def _call(channels, grid, mixture, *, x=0, g=0, y=0, coefficients=0, to_nodes=0, **rest):
    """One call: where its tensors are (0: none), what the functions are, and the `rest` of its fields."""
    alpha, dictionary, bandwidth = mixture
    addresses = (t.data_ptr() for t in (grid.inverse_width, grid.first, *mixture))
    return _Call(
        *(x, g, y, coefficients, 0, to_nodes),
        *addresses,
        *(int(grid.first.shape[0] > 1), dictionary.stride(0) * (dictionary.dim() - 1), bandwidth.dim()),
        *(grid.cells, alpha.shape[1]),
        channels=channels,
        threads=torch.get_num_threads(),
        **rest,
    )


def _address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def run(x, grad, grid, table, mixture, *, derivative, adjoint, **of_base):
    """p(x), times grad if given (None without a table); if asked for the cotangents (C, cells * 7), and with
    the fields of a base the sums (C, 5) over what lies outside the cells."""
    library = _library()
    interleaved = x.dim() == 2 or (not x.is_contiguous() and x.movedim(1, -1).is_contiguous())
    layout = (lambda t: t.movedim(1, -1).contiguous()) if interleaved else (lambda t: t.contiguous())
    values = layout(x.detach()).float()
    grad = None if grad is None else layout(grad.detach()).float()
    y = None if table is None else torch.empty_like(values)
    batch, channels = x.shape[:2]
    call = _call(
        channels,
        grid,
        mixture,
        x=values.data_ptr(),
        g=_address(grad),
        y=_address(y),
        coefficients=_address(table),
        to_nodes=_moments_to_nodes().data_ptr(),
        derivative=derivative,
        batch=batch,
        positions=math.prod(x.shape[2:]),
        interleaved=interleaved,
        **{name: v.data_ptr() if torch.is_tensor(v) else v for name, v in of_base.items()},
    )
    cotangents = outside = None
    if adjoint:
        blocks = library.piecewise_blocks(ctypes.byref(call))
        cotangents = torch.empty(blocks, channels, grid.cells * _NODES, dtype=torch.float64)
        call.cotangents = cotangents.data_ptr()
        if of_base:
            outside = torch.zeros(blocks, channels, 5, dtype=torch.float64)
            call.outside = outside.data_ptr()
    library.piecewise_run(ctypes.byref(call))
    if y is not None:
        y = _laid_out_like(x, y.movedim(-1, 1) if interleaved else y)
    if cotangents is not None:
        cotangents = cotangents[0] if len(cotangents) == 1 else cotangents.sum(0)
    return y, cotangents, None if outside is None else outside.sum(0)


def _laid_out_like(x, y):
    """`y` in the dtype and strides of a new tensor like `x`."""
    if y.dtype == x.dtype and y.stride() == torch.empty_like(x, device="meta").stride():
        return y
    return torch.empty_like(x).copy_(y)


@functools.cache
def _library():
    """The compiled library, or None where it cannot be built (said once in the log)."""
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, UserError, subprocess.SubprocessError) as error:
        log.warning("KAF runs without its compiled CPU code, which is slower: %s", error)
        return None
    call, pointer = ctypes.POINTER(_Call), ctypes.c_void_p
    library.piecewise_blocks.argtypes, library.piecewise_blocks.restype = [call], ctypes.c_int64
    library.piecewise_run.argtypes, library.piecewise_run.restype = [call], None
    library.piecewise_interpolate.argtypes = [call, *[pointer] * 3]
    library.piecewise_interpolate.restype = None
    library.piecewise_project.argtypes, library.piecewise_project.restype = [call, *[pointer] * 5], None
    return library


def _built():
    """Path of the shared library, compiled now unless an equal one is in the cache."""
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    # -march=native: a home shared by unlike machines holds one library for each kind.
    key = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), version, _cpu().encode(), repr(_FLAGS).encode()]))
    target = _cache() / f"piecewise-{key.hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as partial:
            _compile(compiler, partial)
    return target


def _compiler():
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise OSError("no C++ compiler found (install g++, or set CXX)")


def _compile(compiler, target):
    """Compiles with OpenMP and for this very processor where the compiler can."""
    for extra in (("-march=native", "-fopenmp"), ("-march=native",), ()):
        command = [compiler, *_FLAGS, *extra, str(_SOURCE), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode == 0:
            return
    raise OSError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")


def _cpu():
    """What names this kind of processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _cache():
    """A folder of this user's for compiled code."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(os.environ.get("KAFNETS_CACHE") or os.path.join(home, "kafnets"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return pathlib.Path(tempfile.mkdtemp(prefix="kafnets-"))
    return folder if os.access(folder, os.W_OK) else pathlib.Path(tempfile.mkdtemp(prefix="kafnets-"))
