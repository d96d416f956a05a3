"""The Triton kernels of `pointwise`: a program does BLOCK numbers of tensors whose channels lie side by side.

KIND says what the activation is: 0 the identity, 1 ReLU, 2 ELU, 3 SiLU. Arithmetic is in float32.
"""

import triton
import triton.language as tl


@triton.jit
def _here(count, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets, which of them are within the tensors, and their channels."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return at, at < count, at % CHANNELS


@triton.jit
def _before(x, residual, scale, shift, at, inside, c, RESIDUAL: tl.constexpr, SCALED: tl.constexpr):
    """What the activation is applied to."""
    z = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + tl.load(shift + c)
    if RESIDUAL:
        r = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        if SCALED:
            r *= tl.load(scale + c)
        z += r
    return z


@triton.jit
def forward(
    x,
    residual,
    y,
    scale,
    shift,
    count,
    alpha,
    CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, inside, c = _here(count, CHANNELS, BLOCK)
    z = _before(x, residual, scale, shift, at, inside, c, RESIDUAL, SCALED)
    if KIND == 1:
        z = tl.where(z <= 0, 0.0, z)  # NaN stays
    elif KIND == 2:
        z = tl.where(z > 0, z, alpha * (tl.exp(tl.where(z > 0, 0.0, z)) - 1))
    elif KIND == 3:
        z = z * tl.sigmoid(z)
    tl.store(y + at, z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    g,
    other,
    x,
    residual,
    y,
    grad_x,
    grad_residual,
    scale,
    shift,
    count,
    alpha,
    CHANNELS: tl.constexpr,
    KIND: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SCALED: tl.constexpr,
    TWO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, inside, c = _here(count, CHANNELS, BLOCK)
    grad = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
    if TWO:
        grad += tl.load(other + at, mask=inside, other=0.0).to(tl.float32)
    if KIND == 1:
        grad = tl.where(tl.load(y + at, mask=inside, other=0.0) <= 0, 0.0, grad)
    elif KIND == 2:
        out = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        grad *= tl.where(out > 0, 1.0, out + alpha)
    elif KIND == 3:
        z = _before(x, residual, scale, shift, at, inside, c, RESIDUAL, SCALED)
        s = tl.sigmoid(z)
        grad *= s * (1 + z * (1 - s))
    tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=inside)
    if SCALED:
        grad *= tl.load(scale + c)
        tl.store(grad_residual + at, grad.to(grad_residual.dtype.element_ty), mask=inside)
