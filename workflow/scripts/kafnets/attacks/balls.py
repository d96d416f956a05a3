"""The balls in which attacks search: norms, the way back into a ball, and random points to start from."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from .arguments import HALVES, check_choice, check_integer, check_real

NORMS = ("linf", "l2")


def check_radius(eps, norm):
    """The radius of a ball as a float; in the L-infinity norm it is at most 1."""
    check_choice("norm", norm, NORMS)
    return check_real("eps", eps, 0, 1 if norm == "linf" else math.inf)


def distances(images, others, norm):
    """How far every image is from its other, (N,), in the "linf" or "l2" norm; of halves in float64."""
    if images.dtype in HALVES:
        images, others = images.double(), others.double()
    return (images - others).flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)


def into_ball(points, centers, eps, norm):
    """The points brought back into the balls around their centers, and to [0, 1].

    In float32 and float64 the bounds are rounded to the nearest number, so that a pixel may lie half the
    distance of two numbers outside (in float32 3e-8). Half-precision numbers are too far apart for that: they
    are rounded towards the center and lie inside the ball as it is.

    Args:
        points: of the centers' type, or, around half-precision centers, of a wider one.
        eps: the radius, a number or a tensor that multiplies with the points.

    Returns:
        Tensor: of the centers' type.
    """
    if centers.dtype in HALVES:
        return _halves_into_ball(points, centers, eps, norm)
    if norm == "linf":
        return points.clamp((centers - eps).clamp_(0, 1), (centers + eps).clamp_(0, 1))
    offsets = points - centers
    return (centers + offsets * (eps / lengths(offsets)).clamp(max=1)).clamp_(0, 1)


def _halves_into_ball(points, centers, eps, norm):
    exact, wide = points.double(), centers.double()
    exact = into_ball(exact, wide, eps, norm)
    nearest = exact.to(centers.dtype)
    beyond = (nearest.double() - wide).abs() > (exact - wide).abs()
    # numbers in [0, 1] are ordered as their bits are: one less or more is the next number towards the center
    step = torch.where(nearest > centers, -1, 1).to(torch.int16)
    return (nearest.view(torch.int16) + beyond * step).view(centers.dtype)


def per_image(values, images):
    """(N,) values shaped to be multiplied with (N, ...) images."""
    return values.view(-1, *[1] * (images.dim() - 1))


def lengths(vectors):
    """Euclidean lengths, (N, 1, ...), kept above zero for dividing by them."""
    tiny = torch.finfo(vectors.dtype).tiny
    return per_image(vectors.flatten(1).norm(dim=1).clamp(min=tiny), vectors)


class RandomStarts:
    """Uniform points of the ball, clipped to [0, 1]: `starts[r]` is those of restart r for the whole set.

    They are drawn on the CPU; those that :meth:`begin` is told of, in a thread beside whatever else is done.
    """

    def __init__(self, images, eps, seed, norm="linf"):
        self.images, self.eps, self.norm = images, eps, norm
        self.seed = check_integer("seed", seed, 0)
        self.begun = {}

    def begin(self, restart):
        """Lets the noise of a restart be drawn before it is asked for."""
        if restart not in self.begun:
            self.begun[restart] = _one_thread().submit(self._noise, restart)

    def __getitem__(self, restart):
        begun = self.begun.pop(restart, None)
        noise = self._noise(restart) if begun is None else begun.result()
        noise = noise.to(self.images.device, non_blocking=self.images.is_cuda)
        return (self.images + noise).clamp_(0, 1).to(self.images.dtype)

    def _noise(self, restart):
        # torch's CPU generator reads only 32 bits of its seed, so the pair is hashed, not packed
        state = np.random.SeedSequence([self.seed, restart]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        dtype = torch.float32 if self.images.dtype in HALVES else self.images.dtype
        # from pinned memory it reaches a GPU without the host's waiting
        noise = torch.empty(self.images.shape, dtype=dtype, pin_memory=self.images.is_cuda)
        if self.norm == "linf":
            noise.uniform_(-self.eps, self.eps, generator=generator)
        else:
            noise.normal_(generator=generator)
            radius = torch.rand(len(noise), generator=generator, dtype=noise.dtype) ** (1 / noise[:1].numel())
            noise *= per_image(self.eps * radius, noise) / lengths(noise)
        return noise


@functools.cache
def _one_thread():
    return ThreadPoolExecutor(1, "starts")


def check_starts(starts, images, eps, norm, runs):
    if not isinstance(starts, torch.Tensor) or starts.shape != (runs, *images.shape):
        raise ValueError(f"starts: expected a tensor of shape {(runs, *images.shape)} (restarts, N, ...)")
    # they may be many: each is brought to the model's device when its turn comes
    starts, images = starts.detach().to(images.dtype), images.to(starts.device)
    # what a start computed as image + noise may lie outside by rounding
    slack = 4 * torch.finfo(images.dtype).eps * (1 if norm == "linf" else images[:1].numel() ** 0.5)
    if starts.numel():
        offsets = (starts - images).flatten(0, 1).flatten(1)
        distance = offsets.abs().amax() if norm == "linf" else offsets.norm(dim=1).amax()
        if distance > eps + slack or not (starts.amin() >= 0 and starts.amax() <= 1):
            raise ValueError("starts: every start must lie within eps of its image and in [0, 1]")
    return starts
