"""One step of an attack along the gradient, as a function of tensors that a GPU can replay from a graph."""

from dataclasses import dataclass

import torch

from ..runtime.graphs import WARM_UP, StepWithGraph
from .balls import into_ball, lengths, per_image
from .base import differentiable, is_correct


@dataclass(frozen=True)
class Rule:
    """How a point moves, and when a job is over.

    A gradient counts by its direction, image by image: it may be multiplied by any positive number.
    """

    eps: float
    step: float
    iterations: int
    runs: int
    loss: object
    norm: str
    momentum: float
    early_stop: bool
    half: torch.dtype | None = None

    def move(self, points, gradient, centers, velocity):
        """One step of all points, and their accumulated gradients."""
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)  # a gradient that is not a number points nowhere
        if self.momentum:
            size = gradient.abs().flatten(1).mean(1).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = velocity = self.momentum * velocity + gradient / per_image(size, gradient)
        direction = gradient.sign() if self.norm == "linf" else gradient / lengths(gradient)
        return self.project(torch.add(points, direction, alpha=self.step), centers), velocity

    def project(self, points, centers):
        """The points brought back into the balls around their centers."""
        return into_ball(points, centers, self.eps, self.norm)

    def seen(self, points, centers):
        """What the model sees of the points: in half precision they are rounded into the ball."""
        return points if self.half is None else into_ball(points, centers.to(self.half), self.eps, self.norm)


# A capture costs about as much as this many steps of any other kind.
_PASSES_WORTH_A_GRAPH = 30
_REPLAYED_ALIKE = 0.999


def step_of(model, rule, device, slots, passes):
    """The function of one step.

    Args:
        model (nn.Module): whose gradients it follows.
        rule (Rule): how.
        device (torch.device): where.
        slots (int): rows of its arguments.
        passes (int): about how many steps of so many rows there will be.

    Returns:
        callable: points, centers, labels, velocity, goals -> verdicts (N,) bool, moved points, velocity, and
        (N,) bool, True where there was no gradient to follow: zero, or not finite.
    """

    def step(points, centers, labels, velocity, goals):
        seen = rule.seen(points.detach(), centers).requires_grad_()
        logits = differentiable(model(seen))
        (gradient,) = torch.autograd.grad(rule.loss(logits, labels, goals), seen)
        size = gradient.abs().flatten(1).amax(1)
        moved, velocity = rule.move(points.detach(), gradient.to(points.dtype), centers, velocity)
        return is_correct(logits.detach(), labels), moved, velocity, ~((size > 0) & size.isfinite())

    return AttackStep(step, device, slots) if passes >= _PASSES_WORTH_A_GRAPH else step


class AttackStep(StepWithGraph):
    """One step of all slots; it changes nothing but what it returns, so that it can be tried at once."""

    instead = "the attack goes on step by step"

    def _capture(self, *inputs):
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # libraries choose their algorithms and workspaces before the capture
            for _ in range(WARM_UP):
                self.step(*inputs)
        current.wait_stream(stream)
        super()._capture(*inputs)

    def _does_the_same(self, *inputs):
        moved, expected = self._replay(*inputs)[1], self.step(*inputs)[1]
        # the sign of a gradient near zero may flip between two runs of the same kernels
        return torch.isclose(moved, expected).float().mean() >= _REPLAYED_ALIKE
