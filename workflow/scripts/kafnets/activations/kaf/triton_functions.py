"""Gaussian KAF inside Triton kernels, on tiles of (positions, channels); the mathematics is that of `gpu`.

`parameters` are pointers: alpha (C, D), dictionary (D), bandwidth (). The D points, evenly spaced, are taken
in GROUPS of GROUP. `state` is what a kernel holds in registers all the time: gamma, the first point, the
distance, and the D coefficients of its channels, each times its kernel's :func:`weight`.
"""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def anchored(x, middle, gamma, delta):
    """Of a group about the point `middle`: x - middle, its kernel, the ratios of neighbours up and down."""
    rate = gamma * LOG2E
    limit = tl.sqrt(80.0 / gamma)
    u = x - middle
    start = tl.exp2(-rate * u * u)
    u = tl.clamp(u, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    turn = 2 * rate * delta * u
    return u, start, tl.exp2(turn), tl.exp2(-turn)


@triton.jit
def prepare(parameters, c, valid, D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """The state for channels `c`, of which `valid` exist."""
    alpha, dictionary, bandwidth = parameters
    gamma = tl.load(bandwidth)
    first = tl.load(dictionary)
    delta = (tl.load(dictionary + D - 1) - first) / (D - 1)
    state = (gamma, first, delta)
    for i in tl.static_range(D):
        a = tl.load(alpha + c * D + i, mask=valid, other=0.0)
        state = state + (a * weight(state, i, GROUP),)
    return state


@triton.jit
def weight(state, i: tl.constexpr, GROUP: tl.constexpr):
    """The factor of the i-th kernel that does not depend on x; that of the i-th sum of :func:`slope`, too."""
    return tl.exp2(
        -state[0] * LOG2E * state[2] * state[2] * ((i % GROUP - GROUP // 2) * (i % GROUP - GROUP // 2))
    )


@triton.jit
def value(x, state, parameters, D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """f(x)."""
    total = tl.zeros_like(x)
    for group in tl.static_range(GROUPS):
        total += _value_group(x, state, group * GROUP + GROUP // 2, D, GROUP)
    return total


@triton.jit
def _value_group(x, state, middle: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr):
    _, start, rise, fall = anchored(x, state[1] + middle * state[2], state[0], state[2])
    above, _ = _horner(rise, state, middle, 1, GROUP - GROUP // 2 - 1, D)
    below, _ = _horner(fall, state, middle, -1, GROUP // 2, D)
    return start * (state[3 + middle][None, :] + above + below)


@triton.jit
def _horner(ratio, state, middle: tl.constexpr, step: tl.constexpr, most: tl.constexpr, D: tl.constexpr):
    """sum_k a_k ratio^k over the points up (step 1) or down (-1) of a middle, and sum_k k a_k ratio^k."""
    total = tl.zeros_like(ratio)
    slope = tl.zeros_like(ratio)
    for j in tl.static_range(most):
        if middle + step * (most - j) < D:
            slope = slope * ratio + total
            total = total * ratio + state[3 + middle + step * (most - j)][None, :]
    return total * ratio, (slope * ratio + total) * ratio


@triton.jit
def slope(
    x,
    g,
    state,
    sums,
    parameters,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    SUMS: tl.constexpr,
):
    """g f'(x), and the D `sums`, to which the gradients by alpha are added but for their :func:`weight`."""
    total = tl.zeros_like(x)
    found = ()
    for group in tl.static_range(GROUPS):
        part, added = _slope_group(x, g, state, sums, group * GROUP + GROUP // 2, D, GROUP, SUMS)
        total += part
        found = found + added
    return 2 * state[0] * total, found


@triton.jit
def _slope_group(
    x, g, state, sums, middle: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SUMS: tl.constexpr
):
    u, start, rise, fall = anchored(x, state[1] + middle * state[2], state[0], state[2])
    start = start * g
    above, up = _horner(rise, state, middle, 1, GROUP - GROUP // 2 - 1, D)
    below, down = _horner(fall, state, middle, -1, GROUP // 2, D)
    total = start * (state[2] * (up - down) - u * (state[3 + middle][None, :] + above + below))
    found = ()
    if SUMS:
        power = start
        found = (sums[middle] + power,)
        for j in tl.static_range(GROUP // 2):
            power = power * fall
            found = (sums[middle - 1 - j] + power,) + found
        power = start
        for j in tl.static_range(GROUP - GROUP // 2 - 1):
            if middle + 1 + j < D:
                power = power * rise
                found = found + (sums[middle + 1 + j] + power,)
    return total, found
