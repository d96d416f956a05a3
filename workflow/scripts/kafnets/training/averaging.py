"""Weight averaging: an exponential mean of the weights over a training's updates."""

import contextlib

import torch
from torch import nn

COPY, RECALIBRATE = "copy", "recalibrate"
_BATCH = 500  # images of a pass that only gathers statistics


class Averaged:
    r"""The mean :math:`\bar w \leftarrow \tau_t \bar w + (1 - \tau_t)\,w` after each update of the weights.

    :math:`\tau_t = \min(\tau, (1 + t) / (10 + t))` at the t-th update, from 0, so that the mean soon forgets
    where it began; 0 before the epoch `start`. On the device, in place: an update is part of a CUDA graph.

    Args:
        model (nn.Module): the network; its parameters are averaged, buffers are not.
        decay (float): :math:`\tau`, in [0, 1).
        start (int): epochs before the averaging begins.
        batch_norm (str): the running averages that the mean is judged with: "copy", those of the network as
            it is, or "recalibrate", those of a pass over the unperturbed training images.

    Source: B. T. Polyak and A. B. Juditsky, 1992; in adversarial training: S.-A. Rebuffi et al., 2021,
    arXiv:2103.01946, with a decay of 0.995.
    """

    def __init__(self, model, decay, start=0, batch_norm=COPY):
        self.model, self.decay, self.start, self.batch_norm = model, decay, start, batch_norm
        self.parameters = [parameter.detach() for parameter in model.parameters()]
        self.means = [parameter.clone() for parameter in self.parameters]
        device = self.means[0].device
        self.updates, self.begun = torch.zeros(2, dtype=torch.float64, device=device).unbind()

    def begin_epoch(self, epoch):
        """To be called before the first step of an epoch, counted from 0."""
        self.begun.fill_(float(epoch >= self.start))

    @torch.no_grad()
    def update(self):
        """Takes the weights, as an update has left them, into the mean."""
        kept = ((1 + self.updates) / (10 + self.updates)).clamp_(max=self.decay) * self.begun
        # of the weights' type: of another, each tensor would be a kernel of its own
        kept, new = (factor.to(self.means[0].dtype) for factor in (kept, 1 - kept))
        torch._foreach_mul_(self.means, kept)
        torch._foreach_add_(self.means, torch._foreach_mul(self.parameters, new))
        self.updates += self.begun

    @property
    def tensors(self):
        """All that an update changes."""
        return [*self.means, self.updates, self.begun]

    @contextlib.contextmanager
    def installed(self, images):
        """Within the block the network has the averaged weights, and the running averages for them.

        Args:
            images (Tensor): uint8 :math:`(N, C, H, W)`, the training images.
        """
        own = [parameter.clone() for parameter in self.parameters]
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            self.install(images)
            yield
        finally:
            torch._foreach_copy_(self.parameters, own)
            for buffer, value in buffers:
                buffer.copy_(value)

    def install(self, images):
        """Gives the network the averaged weights for good; see :meth:`installed`."""
        torch._foreach_copy_(self.parameters, self.means)
        if self.batch_norm == RECALIBRATE:
            recalibrate(self.model, images)


@torch.no_grad()
def recalibrate(model, images):
    """Sets the running averages of all normalisations to those of the images, unperturbed, in equal batches.

    Args:
        model (nn.Module): left in the mode it was in; dropout is off in the pass.
        images (Tensor): uint8 :math:`(N, C, H, W)`, on any device.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    device, training = next(model.parameters()).device, model.training
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    try:
        for part in images.tensor_split(-(-len(images) // _BATCH)):
            model(part.to(device).float().div_(255).contiguous(memory_format=torch.channels_last))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
