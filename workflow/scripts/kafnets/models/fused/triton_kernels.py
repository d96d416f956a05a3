"""The Triton kernels of `triton_launch`: batch normalisation, addition and activation, forward and backward.

A program has BLOCK_C channels and `share` positions (of batch, rows and columns), taken BLOCK_P at a time.
What is summed over positions stays in the registers of each thread until the program's end; the programs'
sums, "partials", are (kind, part, channel) in memory, and every program of the next kernel adds up those of
its own channels, in the same order. No program waits for another, and nothing is added atomically.
"""

import triton
import triton.language as tl


@triton.jit
def _channels(channels, BLOCK_C: tl.constexpr):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return c, c < channels


@triton.jit
def _positions(points, share):
    first = tl.program_id(0) * share
    return first, tl.minimum(first + share, points)


@triton.jit
def _tile(start, stop, c, valid, channels, positions, SIDE_BY_SIDE: tl.constexpr, BLOCK_P: tl.constexpr):
    """Memory offsets and validity (BLOCK_P, BLOCK_C) of a tile of channels `c`."""
    p = start + tl.arange(0, BLOCK_P)
    if SIDE_BY_SIDE:
        offsets = (p * channels)[:, None] + c[None, :]
    else:
        offsets = (p // positions * (positions * channels) + p % positions)[:, None] + (c * positions)[
            None, :
        ]
    return offsets, (p < stop)[:, None] & valid[None, :]


@triton.jit
def _load(pointer, offsets, inside):
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_sum(x, added, total, offsets, inside):
    """x + added, rounded and stored in `total`; x alone where nothing is added."""
    if added is None:
        values = _load(x, offsets, inside)
    else:
        values = (_load(x, offsets, inside) + _load(added, offsets, inside)).to(total.dtype.element_ty)
        tl.store(total + offsets, values, mask=inside)
        values = values.to(tl.float32)
    return values


@triton.jit
def _or(pointer, c, valid, default: tl.constexpr):
    if pointer is None:
        values = tl.full(c.shape, default, tl.float32)
    else:
        values = tl.load(pointer + c, mask=valid, other=0.0)
    return values


@triton.jit
def statistics(
    x,
    added,
    total,
    partials,  # (2, parts, channels): mean and sum of squares about it
    counter,
    points,
    channels,
    positions,
    share,
    SIDE_BY_SIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The statistics of x + added by parts: sums about the mean of a part's first tile, which is near."""
    c, valid = _channels(channels, BLOCK_C)
    first, stop = _positions(points, share)
    offsets, inside = _tile(first, stop, c, valid, channels, positions, SIDE_BY_SIDE, BLOCK_P)
    values = _load_sum(x, added, total, offsets, inside)
    centre = tl.sum(values, axis=0) / tl.minimum(stop - first, BLOCK_P)
    deviations = tl.where(inside, values - centre[None, :], 0.0)
    squares = deviations * deviations
    for start in range(first + BLOCK_P, stop, BLOCK_P):
        offsets, inside = _tile(start, stop, c, valid, channels, positions, SIDE_BY_SIDE, BLOCK_P)
        values = _load_sum(x, added, total, offsets, inside)
        values = tl.where(inside, values - centre[None, :], 0.0)
        deviations += values
        squares += values * values
    count = stop - first
    moved = tl.sum(deviations, axis=0) / count
    at = partials + tl.program_id(0) * channels + c
    tl.store(at, centre + moved, mask=valid)
    spread = tl.sum(squares, axis=0) - moved * moved * count
    tl.store(at + tl.num_programs(0) * channels, tl.where(spread < 0, 0.0, spread), mask=valid)
    if counter is not None:  # noqa: SIM102 (decided when it is compiled)
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(counter, tl.load(counter) + 1)


@triton.jit
def _merged(partials, c, valid, points, channels, share, parts, PARTS: tl.constexpr):
    """Mean and sum of squares about it, of all parts (Chan, Golub and LeVeque's formula)."""
    part = tl.arange(0, PARTS)
    at = partials + part[:, None] * channels + c[None, :]
    inside = (part < parts)[:, None] & valid[None, :]
    means = tl.load(at, mask=inside, other=0.0)
    spreads = tl.load(at + parts * channels, mask=inside, other=0.0)
    counts = tl.where(part < parts, tl.minimum(points - part * share, share), 0).to(tl.float32)[:, None]
    mean = tl.sum(counts * means, axis=0) / points
    away = means - mean[None, :]
    return mean, tl.sum(spreads + counts * away * away, axis=0)


@triton.jit
def _running(running_mean, running_var, counter, shift, momentum, mean, spread, points, c, valid):
    """The running averages' update; without a momentum they weigh all batches alike."""
    if momentum is None:
        keep = 1.0 / tl.load(counter).to(tl.float32)
    else:
        keep = momentum
    mean += _or(shift, c, valid, 0.0)
    before = tl.load(running_mean + c, mask=valid, other=0.0)
    tl.store(running_mean + c, before * (1 - keep) + mean * keep, mask=valid)
    before = tl.load(running_var + c, mask=valid, other=0.0)
    tl.store(running_var + c, before * (1 - keep) + spread / (points - 1) * keep, mask=valid)


@triton.jit
def apply(
    x,
    residual,
    y,
    partials,
    stats,  # (2, channels): mean and 1 / standard deviation, for the backward pass
    weight,
    bias,
    running_mean,
    running_var,
    counter,
    shift,
    momentum,
    eps,
    parameters,
    points,
    channels,
    positions,
    share,
    parts,
    part_share,
    PREPARE: tl.constexpr,
    VALUE: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """y = activation((x - mean) / std * weight + bias + residual)."""
    c, valid = _channels(channels, BLOCK_C)
    first, stop = _positions(points, share)
    mean, spread = _merged(partials, c, valid, points, channels, part_share, parts, PARTS)
    scale = tl.rsqrt(spread / points + eps)
    if tl.program_id(0) == 0:
        tl.store(stats + c, mean, mask=valid)
        tl.store(stats + channels + c, scale, mask=valid)
        if running_mean is not None:
            _running(running_mean, running_var, counter, shift, momentum, mean, spread, points, c, valid)
    scale *= _or(weight, c, valid, 1.0)
    offset = _or(bias, c, valid, 0.0)
    if PREPARE is not None:
        state = PREPARE(parameters, c, valid, D, GROUPS, GROUP)
    for start in range(first, stop, BLOCK_P):
        offsets, inside = _tile(start, stop, c, valid, channels, positions, SIDE_BY_SIDE, BLOCK_P)
        z = (_load(x, offsets, inside) - mean[None, :]) * scale[None, :] + offset[None, :]
        if residual is not None:
            z += _load(residual, offsets, inside)
        if PREPARE is None:
            z = VALUE(z, parameters)
        else:
            z = VALUE(z, state, parameters, D, GROUPS, GROUP)
        tl.store(y + offsets, z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _load_gradient(grads, offsets, inside):
    """The sum of the gradients that arrive by all copies of the output."""
    g = _load(grads[0], offsets, inside)
    for i in tl.static_range(1, len(grads)):
        g += _load(grads[i], offsets, inside)
    return g


@triton.jit
def backward_sums(
    x,
    residual,
    grads,
    slopes,  # like x: the gradient before the activation, stored if it is asked for
    partials,  # (2, parts, channels): its sum and that of its product with the normalised x
    learned,  # (D, parts, channels): gradients by the activation's coefficients
    stats,
    weight,
    bias,
    parameters,
    points,
    channels,
    positions,
    share,
    PREPARE: tl.constexpr,
    SLOPE: tl.constexpr,
    WEIGHT: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c, valid = _channels(channels, BLOCK_C)
    first, stop = _positions(points, share)
    mean = tl.load(stats + c, mask=valid, other=0.0)
    scale = tl.load(stats + channels + c, mask=valid, other=0.0)
    gain = scale * _or(weight, c, valid, 1.0)
    offset = _or(bias, c, valid, 0.0)
    plain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    moved = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    sums = ()
    if PREPARE is not None:
        state = PREPARE(parameters, c, valid, D, GROUPS, GROUP)
        if learned is not None:
            for _ in tl.static_range(D):
                sums = sums + (tl.zeros((BLOCK_P, BLOCK_C), tl.float32),)
    for start in range(first, stop, BLOCK_P):
        offsets, inside = _tile(start, stop, c, valid, channels, positions, SIDE_BY_SIDE, BLOCK_P)
        away = _load(x, offsets, inside) - mean[None, :]
        z = away * gain[None, :] + offset[None, :]
        if residual is not None:
            z += _load(residual, offsets, inside)
        g = _load_gradient(grads, offsets, inside)
        if PREPARE is None:
            g *= SLOPE(z, parameters)
        else:
            g, sums = SLOPE(z, g, state, sums, parameters, D, GROUPS, GROUP, learned is not None)
        if slopes is not None:
            rounded = g.to(slopes.dtype.element_ty)
            tl.store(slopes + offsets, rounded, mask=inside)
            g = rounded.to(tl.float32)  # what the next kernel reads sums up to what this one stores
        plain += g
        moved += g * away
    size = tl.num_programs(0) * channels
    at = tl.program_id(0) * channels + c
    tl.store(partials + at, tl.sum(plain, axis=0), mask=valid)
    tl.store(partials + size + at, tl.sum(moved, axis=0) * scale, mask=valid)
    if learned is not None:
        for i in tl.static_range(D):
            tl.store(learned + i * size + at, tl.sum(sums[i], axis=0) * WEIGHT(state, i, GROUP), mask=valid)


@triton.jit
def _added_up(partials, c, valid, channels, parts, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)
    inside = (part < parts)[:, None] & valid[None, :]
    return tl.sum(tl.load(partials + part[:, None] * channels + c[None, :], mask=inside, other=0.0), axis=0)


@triton.jit
def backward_input(
    x,
    residual,
    grads,
    grad_x,
    partials,
    learned,
    stats,
    weight,
    bias,
    grad_weight,
    grad_bias,
    grad_learned,
    parameters,
    points,
    channels,
    positions,
    share,
    parts,
    SLOPE: tl.constexpr,
    D: tl.constexpr,
    PARTS: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(g - mean(g) - n mean(g n)) weight / std, with n the normalised x and g the gradient by n weight."""
    c, valid = _channels(channels, BLOCK_C)
    first, stop = _positions(points, share)
    mean = tl.load(stats + c, mask=valid, other=0.0)
    scale = tl.load(stats + channels + c, mask=valid, other=0.0)
    gain = scale * _or(weight, c, valid, 1.0)
    offset = _or(bias, c, valid, 0.0)
    plain = _added_up(partials, c, valid, channels, parts, PARTS)
    moved = _added_up(partials + parts * channels, c, valid, channels, parts, PARTS)
    if tl.program_id(0) == 0:
        if grad_weight is not None:
            tl.store(grad_weight + c, moved, mask=valid)
        if grad_bias is not None:
            tl.store(grad_bias + c, plain, mask=valid)
    if grad_learned is not None:
        for i in range(tl.program_id(0), D, tl.num_programs(0)):
            total = _added_up(learned + i * parts * channels, c, valid, channels, parts, PARTS)
            tl.store(grad_learned + c * D + i, total, mask=valid)
    plain /= points
    moved *= scale / points
    for start in range(first, stop, BLOCK_P):
        offsets, inside = _tile(start, stop, c, valid, channels, positions, SIDE_BY_SIDE, BLOCK_P)
        away = _load(x, offsets, inside) - mean[None, :]
        g = _load_gradient(grads, offsets, inside)
        if SLOPE is not None:
            z = away * gain[None, :] + offset[None, :]
            if residual is not None:
                z += _load(residual, offsets, inside)
            g *= SLOPE(z, parameters)
        g = (g - plain[None, :] - away * moved[None, :]) * gain[None, :]
        tl.store(grad_x + offsets, g.to(grad_x.dtype.element_ty), mask=inside)
