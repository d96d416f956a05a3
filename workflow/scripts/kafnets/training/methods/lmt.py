"""Lipschitz-margin training: the true logit has to lead by what the network's constant allows to lose."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from ...certification.margins import distances
from ...certification.network import live_network_of
from ...certification.operations import Convolution, Dense
from ...certification.product import Product, in_training
from ...runtime.errors import UserError
from .base import Method, Update

_START = 1e-5  # of c, as in the authors' code


@dataclass(kw_only=True)
class LipschitzMarginTraining(Method):
    r"""The cross-entropy of logits with :math:`F c L \|w_j - w_y\|` added to every false one.

    :math:`L` is the Lipschitz constant, in the L2 norm, of what precedes the last layer, whose rows are
    :math:`w`; an image whose loss is small has an answer that holds within :math:`c`. So that the sum does
    not grow over the lead,

    .. math:: F = \min_{j \ne y} \mathrm{clip}\Big( \frac{z_y - z_j}{c L \|w_j - w_y\|}, 0, 1 \Big),

    through which no gradient flows. :math:`c` rises linearly over the first epochs, from 1e-5.

    :math:`L` is a product as in the certificate (:mod:`kafnets.certification.product`), differentiable, with
    the normalisations' running averages as constants. The spectral norms are estimates: for every layer one
    step of the power iteration an update, on an input of its true size, from where the last one ended. They
    are below the norms, and no proof; the certificate ``lipschitz`` is.

    Args:
        c (float): the radius aimed at, in units of the pixel range [0, 1]. Default: the authors' 0.01 for
            CIFAR-10 (0.1 for SVHN, 1 for MNIST)
        warm_up (int): epochs until it is reached. Default: the authors' 5

    Source: Y. Tsuzuku, I. Sato and M. Sugiyama, NeurIPS 2018, arXiv:1802.04034, and the authors' code, where
    `c` rises with every update and the variances are those of the batch.
    """

    c: float = 0.01
    warm_up: int = 5

    def prepare(self, network, images):
        try:
            self.network = live_network_of(network.model, images.shape[1:])
            self.product = Product(self.network, in_training)
        except ValueError as error:
            raise UserError(f"adversary lmt: {error}") from error

    def initial_state(self, images):
        generator = torch.Generator().manual_seed(0)
        state = {"c": torch.zeros((), dtype=torch.float64, device=images.device)}
        for number, step in enumerate(self.network.steps[:-1]):
            if isinstance(step.operation, Convolution | Dense):
                start = torch.randn(1, *step.shape, generator=generator)
                state[_name(number)] = (start / start.norm()).to(images.device)
        return state

    def begin_epoch(self, epoch, state):
        state["c"].fill_(_START + (self.c - _START) * min(1.0, epoch / max(self.warm_up, 1)))

    def objective(self, network, images, labels, crafted, state):
        logits = network(crafted)
        apart = distances(self.network.steps[-1].operation.weight.double())[labels]
        lost = self.constant(state) * apart  # what each lead may lose within a distance of 1
        share = _share(logits, labels, (state["c"] * lost).detach())
        raised = logits + (share * state["c"] * lost).to(logits.dtype)
        return Update(functional.cross_entropy(raised, labels), logits, crafted)

    def constant(self, state):
        """L by one step of each power iteration, float64, differentiable in the network's parameters."""
        return self.product.body(lambda *of: self._norm(state, *of))

    def _norm(self, state, number, factor):
        step = self.network.steps[number]
        operation, last = step.operation, state[_name(number)]
        shape = self.network.steps[step.inputs[0]].shape
        if factor is not None:
            factor = factor.to(last).reshape(-1, *[1] * (last.dim() - 2))
        with torch.no_grad():
            back = last if factor is None else last * factor
            right = _unit(operation.transposed(back.to(operation.weight.dtype), shape))
        left = operation.linear(right)
        left = left if factor is None else left * factor
        norm = left.double().square().sum().clamp(min=1e-60).sqrt()
        with torch.no_grad():
            last.copy_(torch.where(norm > 1e-30, _unit(left), last))
        return norm


def _name(number):
    return f"power_iteration_{number}"


def _unit(vector):
    return vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)


def _share(logits, labels, lost):
    """F, (N, 1) float64, without gradient.

    Args:
        logits (Tensor): (N, classes).
        lost (Tensor): float64, c times the constants of the leads over each class; 0 for the true one.
    """
    logits = logits.detach().double()
    leads = logits.gather(1, labels[:, None]) - logits
    share = torch.where(leads >= lost, 1.0, leads / torch.where(lost > 0, lost, 1.0))
    return share.clamp(min=0).amin(1, keepdim=True)
