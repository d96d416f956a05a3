"""Gaussian KAF inside Triton kernels, on tiles of (positions, channels); the mathematics is that of `gpu`.

`parameters` are pointers: alpha (C, D), dictionary (D), bandwidth (). The D points are taken in GROUPS of
GROUP. `state` is what a kernel holds in registers all the time: whether the points are even, gamma, the first
point, the distance, and the D coefficients of its channels (even: each with its kernel's factor that does not
depend on x). Uneven points cost an exponential each.
"""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def even(dictionary, gamma, D: tl.constexpr, D_PADDED: tl.constexpr, GROUP: tl.constexpr):
    """First point, distance, and whether the points are even and a group's powers stay within float32."""
    i = tl.arange(0, D_PADDED)
    d = tl.load(dictionary + i, mask=i < D, other=0.0)
    first = tl.load(dictionary)
    last = tl.load(dictionary + D - 1)
    delta = (last - first) / max(D - 1, 1)
    away = tl.max(tl.where(i < D, tl.abs(d - first - i * delta), 0.0), axis=0)
    even = (away <= 1e-6 * (tl.abs(first) + tl.abs(last))) & (delta > 0)
    return first, delta, even & (gamma * delta * delta * (GROUP * GROUP / 4) <= 20.0) & (gamma > 0)


@triton.jit
def anchored(x, middle, gamma, delta):
    """Of a group about the point `middle`: x - middle, its kernel, and the ratios of neighbours up and down."""
    rate = gamma * LOG2E
    limit = tl.sqrt(80.0 / gamma)
    u = x - middle
    start = tl.exp2(-rate * u * u)
    u = tl.clamp(u, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    turn = 2 * rate * delta * u
    return u, start, tl.exp2(turn), tl.exp2(-turn)


@triton.jit
def _factor(gamma, delta, k: tl.constexpr):
    return tl.exp2(-gamma * LOG2E * delta * delta * (k * k))


@triton.jit
def prepare(parameters, c, valid, D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """The state for channels `c`, of which `valid` exist."""
    alpha, dictionary, bandwidth = parameters
    gamma = tl.load(bandwidth)
    first, delta, fast = even(dictionary, gamma, D, triton.next_power_of_2(D), GROUP)
    state = (fast, gamma, first, delta)
    for i in tl.static_range(D):
        a = tl.load(alpha + c * D + i, mask=valid, other=0.0)
        a *= tl.where(fast, _factor(gamma, delta, i % GROUP - GROUP // 2), 1.0)
        state = state + (a,)
    return state


@triton.jit
def value(x, state, parameters, D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """f(x)."""
    if state[0]:
        total = _value_even(x, state, D, GROUPS, GROUP)
    else:
        total = _value_uneven(x, state, parameters[1], D)
    return total


@triton.jit
def _value_even(x, state, D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    total = tl.zeros_like(x)
    for group in tl.static_range(GROUPS):
        total += _value_group(x, state, group * GROUP + GROUP // 2, D, GROUP)
    return total


@triton.jit
def _value_group(x, state, middle: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr):
    _, start, rise, fall = anchored(x, state[2] + middle * state[3], state[1], state[3])
    above, _ = _horner(rise, state, middle, 1, GROUP - GROUP // 2 - 1, D)
    below, _ = _horner(fall, state, middle, -1, GROUP // 2, D)
    return start * (state[4 + middle][None, :] + above + below)


@triton.jit
def _horner(ratio, state, middle: tl.constexpr, step: tl.constexpr, most: tl.constexpr, D: tl.constexpr):
    """sum_k a_k ratio^k over a group's points up (step 1) or down (-1) of its middle, and sum_k k a_k ratio^k."""
    total = tl.zeros_like(ratio)
    slope = tl.zeros_like(ratio)
    for j in tl.static_range(most):
        if middle + step * (most - j) < D:
            slope = slope * ratio + total
            total = total * ratio + state[4 + middle + step * (most - j)][None, :]
    return total * ratio, (slope * ratio + total) * ratio


@triton.jit
def _value_uneven(x, state, dictionary, D: tl.constexpr):
    total = tl.zeros_like(x)
    for i in tl.static_range(D):
        u = x - tl.load(dictionary + i)
        total += state[4 + i][None, :] * tl.exp2(-LOG2E * state[1] * u * u)
    return total


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
    if state[0]:
        total, sums = _slope_even(x, g, state, sums, D, GROUPS, GROUP, SUMS)
    else:
        total, sums = _slope_uneven(x, g, state, sums, parameters[1], D, SUMS)
    return total, sums


@triton.jit
def _slope_even(
    x, g, state, sums, D: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, SUMS: tl.constexpr
):
    total = tl.zeros_like(x)
    found = ()
    for group in tl.static_range(GROUPS):
        part, added = _slope_group(x, g, state, sums, group * GROUP + GROUP // 2, D, GROUP, SUMS)
        total += part
        found = found + added
    return 2 * state[1] * total, found


@triton.jit
def _slope_group(
    x, g, state, sums, middle: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SUMS: tl.constexpr
):
    u, start, rise, fall = anchored(x, state[2] + middle * state[3], state[1], state[3])
    start = start * g
    above, up = _horner(rise, state, middle, 1, GROUP - GROUP // 2 - 1, D)
    below, down = _horner(fall, state, middle, -1, GROUP // 2, D)
    total = start * (state[3] * (up - down) - u * (state[4 + middle][None, :] + above + below))
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


@triton.jit
def _slope_uneven(x, g, state, sums, dictionary, D: tl.constexpr, SUMS: tl.constexpr):
    total = tl.zeros_like(x)
    found = ()
    for i in tl.static_range(D):
        # Finite, so that 0 times it is 0; small enough for its square to be finite too.
        u = tl.clamp(x - tl.load(dictionary + i), -1e18, 1e18, propagate_nan=tl.PropagateNan.ALL)
        power = g * tl.exp2(-LOG2E * state[1] * u * u)
        total += state[4 + i][None, :] * u * power
        if SUMS:
            found = found + (sums[i] + power,)
    return -2 * state[1] * total, found


@triton.jit
def weight(state, i: tl.constexpr, GROUP: tl.constexpr):
    """What the i-th of the sums of :func:`slope` is to be multiplied by."""
    return tl.where(state[0], _factor(state[1], state[3], i % GROUP - GROUP // 2), 1.0)
