"""Networks that draw random numbers, attacked and judged by the mean of several passes."""

import torch
from torch import nn

from .arguments import check_integer


class Expectation(nn.Module):
    r"""A random model's mean logits: expectation over transformation (EOT).

    .. math:: f(x) = \frac1n \sum_{i=1}^n \text{model}(x; \omega_i), \quad \omega_i \text{ drawn anew}

    Its gradient is the mean of n gradients, so any attack on it follows the expected gradient, and a verdict
    is the answer of the mean instead of one draw's. Every query costs n passes.

    Args:
        model (nn.Module): classifier whose forward pass draws random numbers in evaluation mode.
        samples (int): n, at least 1.

    Shape:
        images (N, ...) -> logits (N, classes)

    Raises:
        ValueError: for a number of samples below 1.

    Source: Athalye, Engstrom, Ilyas & Kwok 2018, arXiv:1707.07397.
    """

    def __init__(self, model: nn.Module, samples: int):
        super().__init__()
        self.model, self.samples = model, check_integer("eot_samples", samples, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.model(images) for _ in range(self.samples)]).mean(0)
