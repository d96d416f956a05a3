"""The Triton kernels of `gpu`. A tile is BLOCK_P elements (of batch and positions) by BLOCK_C channels."""

import triton
import triton.language as tl

from .triton_functions import LOG2E, anchored


@triton.jit
def _offsets(
    points, channels, stride_c, POSITIONS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Channels (BLOCK_C), memory offsets and validity (BLOCK_P, BLOCK_C) of this program's tile."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    if POSITIONS == 0:
        start = p * channels
    else:
        start = p // POSITIONS * (POSITIONS * channels) + p % POSITIONS
    inside = (p < points)[:, None] & (c < channels)[None, :]
    offsets = start[:, None] + (c * stride_c)[None, :]
    if POSITIONS == 0:
        # Two channels a thread, not eight: with one position a thread nothing of a sum over positions is the
        # thread's own, and the coefficients of eight channels fill its registers.
        offsets = tl.max_contiguous(offsets, (1, 2))
    return c, offsets, inside


@triton.jit
def _even(dictionary, gamma, D: tl.constexpr, D_PADDED: tl.constexpr, GROUP: tl.constexpr):
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
def base_value(x, BASE: tl.constexpr):
    """The base of a KAF with one: 1 identity, 2 ReLU, 3 ELU, 4 SiLU."""
    if BASE == 1:
        value = x
    elif BASE == 2:
        value = tl.where(x > 0, x, 0.0)
    elif BASE == 3:
        value = tl.where(x > 0, x, tl.exp2(LOG2E * tl.minimum(x, 0.0)) - 1)
    else:
        value = x / (1 + tl.exp2(-LOG2E * x))
    return value


@triton.jit
def base_slope(x, BASE: tl.constexpr):
    """The derivative of base_value."""
    if BASE == 1:
        slope = x * 0 + 1
    elif BASE == 2:
        slope = tl.where(x > 0, 1.0, 0.0)
    elif BASE == 3:
        slope = tl.where(x > 0, 1.0, tl.exp2(LOG2E * tl.minimum(x, 0.0)))
    else:
        sigma = 1 / (1 + tl.exp2(-LOG2E * x))
        slope = sigma * (1 + x * (1 - sigma))
    return slope


@triton.jit
def forward(
    x,
    y,
    alpha,
    dictionary,
    bandwidth,
    points,
    channels,
    stride_c,
    POSITIONS: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    DICTIONARY_STRIDE: tl.constexpr,
    BANDWIDTH_STRIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    base_weight=None,  # of the base, a channel
    ends=None,  # (channels, 2): slopes at -boundary and boundary
    boundary=None,
    BASE: tl.constexpr = 0,
    TAILS: tl.constexpr = 0,  # 0: zero, 1: clamp, 2: linear
):
    c, offsets, inside = _offsets(points, channels, stride_c, POSITIONS, BLOCK_P, BLOCK_C)
    valid = c < channels
    xs = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    raw = xs
    if TAILS > 0:
        xs = tl.clamp(xs, -boundary, boundary, propagate_nan=tl.PropagateNan.ALL)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    fast = False
    if DICTIONARY_STRIDE + BANDWIDTH_STRIDE == 0:
        gamma = tl.load(bandwidth)
        first, delta, fast = _even(dictionary, gamma, D, D_PADDED, GROUP)
    if fast:
        gamma = tl.load(bandwidth)
        first, delta, _ = _even(dictionary, gamma, D, D_PADDED, GROUP)
        rate = gamma * LOG2E
        for group in tl.static_range(GROUPS):
            middle = group * GROUP + GROUP // 2
            _, start, rise, fall = anchored(xs, first + middle * delta, gamma, delta)
            above = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            for j in tl.static_range(
                GROUP - GROUP // 2 - 1
            ):  # Horner, from the farthest point to the nearest
                k = GROUP - GROUP // 2 - 1 - j
                a = tl.load(alpha + c * D + middle + k, mask=valid & (middle + k < D), other=0.0)
                above = (above + (a * tl.exp2(-rate * delta * delta * (k * k)))[None, :]) * rise
            below = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            for j in tl.static_range(GROUP // 2):
                k = GROUP // 2 - j
                a = tl.load(alpha + c * D + middle - k, mask=valid & (middle - k < D), other=0.0)
                below = (below + (a * tl.exp2(-rate * delta * delta * (k * k)))[None, :]) * fall
            a = tl.load(alpha + c * D + middle, mask=valid & (middle < D), other=0.0)
            total += start * (a[None, :] + above + below)
    else:
        gamma_c = tl.load(bandwidth + c * BANDWIDTH_STRIDE, mask=valid, other=0.0)[None, :]
        for i in range(D):
            a = tl.load(alpha + c * D + i, mask=valid, other=0.0)
            d = tl.load(dictionary + c * DICTIONARY_STRIDE + i, mask=valid, other=0.0)
            u = xs - d[None, :]
            total += a[None, :] * tl.exp2(-LOG2E * gamma_c * u * u)
    if TAILS == 2:
        left = tl.load(ends + 2 * c, mask=valid, other=0.0)[None, :]
        right = tl.load(ends + 2 * c + 1, mask=valid, other=0.0)[None, :]
        total += left * tl.minimum(raw + boundary, 0.0) + right * tl.maximum(raw - boundary, 0.0)
    if BASE > 0:
        total += tl.load(base_weight + c, mask=valid, other=0.0)[None, :] * base_value(raw, BASE)
    tl.store(y + offsets, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    x,
    g,
    grad_x,
    sums,  # (ORDER + 1, tiles, channels, D): gradients by alpha, dictionary, bandwidth
    alpha,
    dictionary,
    bandwidth,
    points,
    channels,
    stride_c,
    NEEDS_X: tl.constexpr,
    ORDER: tl.constexpr,
    POSITIONS: tl.constexpr,
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    DICTIONARY_STRIDE: tl.constexpr,
    BANDWIDTH_STRIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    base_weight=None,
    base_sums=None,  # (3, tiles, channels): of g b(x), and of g times the way beyond -boundary and boundary
    boundary=None,
    NEEDS_BASE: tl.constexpr = False,
    BASE: tl.constexpr = 0,
    TAILS: tl.constexpr = 0,
):
    c, offsets, inside = _offsets(points, channels, stride_c, POSITIONS, BLOCK_P, BLOCK_C)
    valid = c < channels
    xs = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    raw = xs
    if TAILS > 0:
        xs = tl.clamp(xs, -boundary, boundary, propagate_nan=tl.PropagateNan.ALL)
    gs = tl.load(g + offsets, mask=inside, other=0.0).to(tl.float32)
    at = sums + (tl.program_id(0).to(tl.int64) * channels + c) * D
    order = tl.num_programs(0).to(tl.int64) * channels * D
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    fast = False
    if DICTIONARY_STRIDE + BANDWIDTH_STRIDE == 0 and ORDER <= 0:
        gamma = tl.load(bandwidth)
        first, delta, fast = _even(dictionary, gamma, D, D_PADDED, GROUP)
    if fast:
        gamma = tl.load(bandwidth)
        first, delta, _ = _even(dictionary, gamma, D, D_PADDED, GROUP)
        rate = gamma * LOG2E
        for group in tl.static_range(GROUPS):
            middle = group * GROUP + GROUP // 2
            u, start, rise, fall = anchored(xs, first + middle * delta, gamma, delta)
            start *= gs
            plain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)  # sum of alpha kappa
            moved = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)  # sum of k alpha kappa
            power = start
            for k in tl.static_range(GROUP - GROUP // 2):
                here = valid & (middle + k < D)
                weight = tl.exp2(-rate * delta * delta * (k * k))
                if NEEDS_X:
                    a = tl.load(alpha + c * D + middle + k, mask=here, other=0.0) * weight
                    plain += a[None, :] * power
                    moved += (k * a)[None, :] * power
                if ORDER == 0:
                    tl.store(at + middle + k, tl.sum(power, axis=0) * weight, mask=here)
                power = power * rise
            power = start * fall
            for j in tl.static_range(GROUP // 2):
                k = j + 1
                here = valid & (middle - k < D)
                weight = tl.exp2(-rate * delta * delta * (k * k))
                if NEEDS_X:
                    a = tl.load(alpha + c * D + middle - k, mask=here, other=0.0) * weight
                    plain += a[None, :] * power
                    moved += (-k * a)[None, :] * power
                if ORDER == 0:
                    tl.store(at + middle - k, tl.sum(power, axis=0) * weight, mask=here)
                power = power * fall
            total += delta * moved - u * plain
        total *= 2 * gamma
    else:
        gamma_c = tl.load(bandwidth + c * BANDWIDTH_STRIDE, mask=valid, other=0.0)[None, :]
        for i in range(D):
            d = tl.load(dictionary + c * DICTIONARY_STRIDE + i, mask=valid, other=0.0)
            # Finite, so that 0 times it is 0; small enough for its square to be finite too.
            u = tl.clamp(xs - d[None, :], -1e18, 1e18, propagate_nan=tl.PropagateNan.ALL)
            term = gs * tl.exp2(-LOG2E * gamma_c * u * u)
            if ORDER >= 0:
                tl.store(at + i, tl.sum(term, axis=0), mask=valid)
            a = tl.load(alpha + c * D + i, mask=valid, other=0.0)
            term *= a[None, :] * u
            if ORDER >= 2:
                tl.store(at + 2 * order + i, -tl.sum(term * u, axis=0), mask=valid)
            term *= 2 * gamma_c
            if ORDER >= 1:
                tl.store(at + order + i, tl.sum(term, axis=0), mask=valid)
            if NEEDS_X:
                total -= term
    if TAILS == 1:
        total = tl.where(tl.abs(raw) > boundary, 0.0, total)
    if NEEDS_BASE:
        to = base_sums + tl.program_id(0).to(tl.int64) * channels + c
        size = tl.num_programs(0).to(tl.int64) * channels
        tl.store(to, tl.sum(gs * base_value(raw, BASE), axis=0), mask=valid)
        if TAILS == 2:
            tl.store(to + size, tl.sum(gs * tl.minimum(raw + boundary, 0.0), axis=0), mask=valid)
            tl.store(to + 2 * size, tl.sum(gs * tl.maximum(raw - boundary, 0.0), axis=0), mask=valid)
    if BASE > 0 and NEEDS_X:
        total += gs * tl.load(base_weight + c, mask=valid, other=0.0)[None, :] * base_slope(raw, BASE)
    if NEEDS_X:
        tl.store(grad_x + offsets, total.to(grad_x.dtype.element_ty), mask=inside)
