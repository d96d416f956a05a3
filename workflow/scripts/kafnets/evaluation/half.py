"""A network in float16 that leads an attack, proved on the images to point the same way as in float32."""

import copy

import torch
from torch import nn

from ..attacks.base import frozen
from ..runtime.device import exact_convolutions
from ..runtime.errors import is_out_of_memory
from .fusing import fuse
from .inspection import AGREEING, agreement, compare
from .pointwise import Pointwise

# Of the logits' range, and the cosine of the gradients. The thesis's eight ResNet20 differ by 2e-3 at most,
# the least cosine is 0.996 (128 test images of CIFAR-10, on a CPU). What this lets through costs steps, no
# verdict.
ROUNDING = 0.1
ALIGNED = 0.9
# Of the images: how many may stop somewhere for want of a float16 gradient before float16 is given up.
STALLED = 0.01
# Largest part of the logits' gradient, for each image; tried until gradients 16 times as large fit.
_SCALES = (2.0**10, 2.0**6, 2.0**2, 2.0**-2)
_HEADROOM = 16
# Layers that take float16 with parameters in float32.
_IN_FLOAT32 = (nn.modules.batchnorm._BatchNorm, Pointwise)


class InFloat16(nn.Module):
    r"""A float32 network's float16 copy, for those who follow the directions of its gradients.

    The gradient by the logits is brought to the same size for every image, whatever its loss: an image that
    is classified with certainty has one too small for float16, whose smallest number is 6e-8,

    .. math:: g \leftarrow s\, g / \max_k |g_k|

    and so is the gradient by the images, up to a positive factor each. Losses are computed of float32 logits.

    Args:
        model (nn.Module): float32, in evaluation mode, with frozen parameters; it is not changed.
        scale (float): :math:`s`.
        fused (bool): whether layers are taken together (:func:`.fusing.fuse`). Default: ``True``

    Shape:
        images (N, ...) float32 -> logits (N, classes) float32
    """

    def __init__(self, model, scale, fused=True):
        super().__init__()
        self.model, self.scale = copy.deepcopy(model), scale
        if fused:
            self.model = fuse(self.model)
        for layer in self.model.modules():
            if not isinstance(layer, _IN_FLOAT32):
                layer._apply(_halved, recurse=False)

    def forward(self, images):
        return _Rescaled.apply(self.model(images.half()), self.scale)


def _halved(tensor):
    return tensor.half() if tensor.is_floating_point() else tensor


class _Rescaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, scale):
        ctx.scale = scale
        return logits.float()

    @staticmethod
    def backward(ctx, gradient):
        size = gradient.abs().amax(1, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
        return (gradient / size * ctx.scale).half(), None


def half_copy(model, images):
    """The network in float16, and "" or why there is none.

    Args:
        model (nn.Module): float32, deterministic; it is not changed.
        images (Tensor): (N, ...) float32, N >= 1; one batch, see :func:`.inspection.sample`.

    Returns:
        (InFloat16 or None, str)
    """
    for fused in (True, False):  # the second for what only the operators of the first break
        half, why = _tried(model, images, fused)
        if half is not None:
            break
    return half, why


def _tried(model, images, fused):
    try:
        half = InFloat16(model, 1.0, fused)
        for half.scale in _SCALES:
            if _gradients_are_finite(half, images):
                why = differs(half, model, images)
                return (None, why) if why else (half, "")
    except Exception as error:  # whatever a network's own code does with types that it does not expect
        if is_out_of_memory(error):
            raise
        return None, f"it does not compute in float16 ({type(error).__name__})"
    return None, "its gradients are too large for float16"


def differs(half, model, images):
    """In words how the float16 copy's answers on the images differ from the network's; "" if not at all."""
    with exact_convolutions():
        return compare(half, model, images, ROUNDING, ALIGNED)


def not_led(half, model, result, batch_size):
    """The images, (N,) bool, that the float16 copy has not led as the network would; why that is too much.

    They are those without a gradient on the way, and those that withstood the attack at points where the copy
    points elsewhere than the network. The second value is "" where they are few.

    Args:
        half (InFloat16), model (nn.Module): the two.
        result (AttackResult): of the attack that followed the copy's gradients.
        batch_size (int): images per forward pass.
    """
    astray = result.stalled.clone()
    share = astray.double().mean().item()
    if share > STALLED:
        return astray, f"{share:.1%} of the images had no gradient in float16"
    kept = (result.robust & ~astray).nonzero()[:, 0]
    if len(kept):
        astray[kept] = _points_elsewhere(half, model, result.adversarial[kept], batch_size)
    found = int(astray[kept].sum())
    if found > (1 - AGREEING) * len(astray):
        return astray, f"the copy's gradients differ on {found} of {len(kept)} images"
    return astray, ""


def _points_elsewhere(half, model, images, batch_size):
    """(N,) bool: the images at which the float16 copy does not point the way that the network does."""
    with exact_convolutions():
        found = [agreement(half, model, some, ROUNDING, ALIGNED) for some in images.split(batch_size)]
    return torch.cat([~(logits & gradients) for logits, gradients in found])


def _gradients_are_finite(half, images):
    with frozen(half):
        points = images.detach().clone().requires_grad_()
        logits = half.model(points.half())
        # of both signs, as any loss has them
        signs = torch.ones(logits.shape[1], device=logits.device, dtype=logits.dtype)
        signs[::2] = -1
        (gradient,) = torch.autograd.grad(logits, points, (signs * half.scale * _HEADROOM).expand_as(logits))
    return bool(gradient.isfinite().all())
