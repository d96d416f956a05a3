r"""Bounds of small ReLU networks by semidefinite programs.

The products of all numbers with each other are variables: :math:`y = \max(z, 0)` is
:math:`y \ge 0,\; y \ge z,\; y^2 = y z`, and each bounded number has
:math:`v^2 \le (l + u) v - l u`. It needs the package cvxpy, which nothing else does.

Source: A. Raghunathan, J. Steinhardt and P. Liang, NeurIPS 2018, arXiv:1811.01057.
"""

import numpy as np
from torch import nn

from ..runtime.errors import UserError
from .crown import Relaxed
from .linear_program import matrix_of
from .operations import Activation, Affine

LARGEST = 30  # units; the matrix of products has the square of their number and the pixels' together
_PIXELS = 100


def lower_bounds(network, lower, upper, rows):
    """Lower bounds of linear functions of the logits, for one image; float64 array :math:`(R)`.

    The solver's tolerances are not covered: it is a reference, not a proof.

    Args:
        network (kafnets.certification.network.Network): as of :func:`.network.network_of`: affine steps and
            ReLUs one after another, with at most 30 units and 100 pixels.
        lower, upper (Tensor): of the image, float64 :math:`(1, C, H, W)`.
        rows (array-like): coefficients of the logits, :math:`(R, K)`.

    Raises:
        ValueError: for another network.
        UserError: without cvxpy.
    """
    cvxpy = _cvxpy()
    units = _checked(network)
    ends = Relaxed(network, lower, upper)
    pixels = network.steps[0].size
    products = cvxpy.Variable((1 + pixels + units, 1 + pixels + units), PSD=True)
    known = [products[0, 0] == 1, *_within(products, slice(1, 1 + pixels), *_flat(ends, 0))]
    # the newest numbers as an affine function of variables: matrix @ products[place] + offset
    place, matrix, offset = slice(1, 1 + pixels), np.eye(pixels), np.zeros(pixels)
    for index, step in enumerate(network.steps[1:], 1):
        if isinstance(step.operation, Affine):
            shape = network.steps[step.inputs[0]].shape
            transposed, shift = matrix_of(step.operation, shape)
            matrix, offset = transposed.T @ matrix, transposed.T @ offset + shift
            continue
        new = slice(place.stop, place.stop + step.size)
        values = matrix @ products[place, 0] + offset
        known += [products[new, 0] >= 0, products[new, 0] >= values]
        squares = cvxpy.diag(products[new, new])
        known.append(
            squares == cvxpy.diag(products[new, place] @ matrix.T) + cvxpy.multiply(products[new, 0], offset)
        )
        known += _within(products, new, *_flat(ends, index))
        place, matrix, offset = new, np.eye(step.size), np.zeros(step.size)
    logits = matrix @ products[place, 0] + offset
    found = []
    for row in np.asarray(rows, float):
        problem = cvxpy.Problem(cvxpy.Minimize(row @ logits), known)
        problem.solve()
        if problem.status not in ("optimal", "optimal_inaccurate"):
            raise RuntimeError(f"the semidefinite program was not solved: {problem.status}")
        found.append(problem.value)
    return np.array(found)


def _cvxpy():
    try:
        import cvxpy
    except ImportError as error:
        raise UserError(f"semidefinite programs need the package cvxpy ({error}); install it") from None
    return cvxpy


def _checked(network):
    """The number of ReLUs; refuses what is no small chain of affine steps and ReLUs."""
    units = 0
    for index, step in enumerate(network.steps[1:], 1):
        is_relu = isinstance(step.operation, Activation) and type(step.operation.layer) is nn.ReLU
        if step.inputs != (index - 1,) or not (is_relu or isinstance(step.operation, Affine)):
            raise ValueError(f"model: {step.name}: a chain of affine layers and ReLUs is needed here")
        units += step.size if is_relu else 0
    pixels = network.steps[0].size
    if units > LARGEST or pixels > _PIXELS:
        raise ValueError(
            f"model: has {units} units and {pixels} pixels; {LARGEST} and {_PIXELS} are the most"
        )
    return units


def _flat(ends, index):
    return [end.flatten().numpy() for end in ends.ends(index)]


def _within(products, place, lower, upper):
    import cvxpy

    values = products[place, 0]
    product = cvxpy.multiply(lower + upper, values) - lower * upper
    return [values >= lower, values <= upper, cvxpy.diag(products[place, place]) <= product]
