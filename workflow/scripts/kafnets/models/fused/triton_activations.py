"""Fixed activations inside Triton kernels: f and f' in float32, and which module has which.

NaN goes through; what a comparison leaves out is never infinite, so that nothing becomes NaN by it.
"""

import triton
import triton.language as tl
from torch import nn

from ...activations.inlined import Inlined


@triton.jit
def _identity(z, parameters):
    return z


@triton.jit
def _identity_slope(z, parameters):
    return tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def _relu(z, parameters):
    return tl.where(z <= 0, 0.0, z)


@triton.jit
def _relu_slope(z, parameters):
    return tl.where(z <= 0, 0.0, 1.0)


@triton.jit
def _elu(z, parameters):
    return tl.where(z > 0, z, parameters[0] * (tl.exp(tl.where(z > 0, 0.0, z)) - 1))


@triton.jit
def _elu_slope(z, parameters):
    return tl.where(z > 0, 1.0, parameters[0] * tl.exp(tl.where(z > 0, 0.0, z)))


@triton.jit
def _silu(z, parameters):
    return z * tl.sigmoid(z)


@triton.jit
def _silu_slope(z, parameters):
    s = tl.sigmoid(z)
    return s * (1 + z * (1 - s))


@triton.jit
def _tanh(z, parameters):
    small = tl.exp(-2 * tl.abs(z))
    return tl.where(z < 0, -1.0, 1.0) * (1 - small) / (1 + small)


@triton.jit
def _tanh_slope(z, parameters):
    t = _tanh(z, parameters)
    return 1 - t * t


@triton.jit
def _gelu(z, parameters):
    return 0.5 * z * (1 + tl.erf(0.7071067811865476 * z))


@triton.jit
def _gelu_slope(z, parameters):
    return 0.5 * (1 + tl.erf(0.7071067811865476 * z)) + 0.3989422804014327 * z * tl.exp(-0.5 * z * z)


@triton.jit
def _gelu_tanh(z, parameters):
    return z * tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))


@triton.jit
def _gelu_tanh_slope(z, parameters):
    s = tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
    return s + z * s * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * z * z)


@triton.jit
def _softplus(z, parameters):
    scaled = z * parameters[0]
    linear = scaled > parameters[1]
    return tl.where(linear, z, tl.log(1 + tl.exp(tl.where(linear, 0.0, scaled))) / parameters[0])


@triton.jit
def _softplus_slope(z, parameters):
    scaled = z * parameters[0]
    return tl.where(scaled > parameters[1], 1.0, tl.sigmoid(scaled))


_GELUS = {"none": Inlined(_gelu, _gelu_slope), "tanh": Inlined(_gelu_tanh, _gelu_tanh_slope)}

IDENTITY = Inlined(_identity, _identity_slope)
# By exact type: a subclass may compute something else.
FIXED = {
    nn.Identity: lambda layer: IDENTITY,
    nn.ReLU: lambda layer: Inlined(_relu, _relu_slope),
    nn.ELU: lambda layer: Inlined(_elu, _elu_slope, (float(layer.alpha),)),
    nn.SiLU: lambda layer: Inlined(_silu, _silu_slope),
    nn.Tanh: lambda layer: Inlined(_tanh, _tanh_slope),
    nn.GELU: lambda layer: _GELUS[layer.approximate],
    nn.Softplus: lambda layer: Inlined(
        _softplus, _softplus_slope, (float(layer.beta), float(layer.threshold))
    ),
}
