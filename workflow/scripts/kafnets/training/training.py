"""A training on its device: network, optimiser, batches, and the step that updates the weights."""

import functools

import torch
from torch import nn

from ..activations import layers_of
from ..models.create import count_parameters, create_model
from ..registry import AROUND
from ..runtime.errors import UserError
from ..runtime.graphs import Replayed
from . import fusing, groups, nonfinite
from .averaging import Averaged
from .batches import create_batches
from .methods.base import Network, create_method

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

# A float16 loss scale that had to back off this often in a row is not overflow any more.
MAX_SKIPPED_STEPS = 20


def initial_model(settings):
    """The network of a run before its first step.

    Args:
        settings (dict): the run's settings; `seed`, `architecture`, `activation`, `num_classes`,
            `architecture_arguments`, `activation_arguments` and, where it is given, `image_shape` are read.

    Returns:
        nn.Module on the CPU: the same weights for the same settings. Torch's global random state is set
        to `seed`.
    """
    torch.manual_seed(settings["seed"])
    return create_model(
        settings["architecture"],
        activation=settings["activation"],
        num_classes=settings["num_classes"],
        activation_arguments=settings["activation_arguments"],
        image_shape=settings.get("image_shape"),
        **settings["architecture_arguments"],
    )


def parameter_groups(model, l2, activation_rate=1.0):
    """The optimiser's groups: kernels with their L2 penalty, activations, and everything else without.

    Args:
        model (nn.Module): its `Conv2d` and `Linear` weights are the kernels; biases and normalisations are
            never penalised, and what belongs to an activation has the weight decay of its entry.
        l2 (dict): `conv` and `dense`, the factor of the *sum of squares* added to the loss. Its gradient is
            2 l2 w, hence torch's weight decay is twice that factor.
        activation_rate (float): the activations' learning rate over the network's.
    """
    kernels = {"conv": [], "dense": []}
    inside = {part for layer in layers_of(model).values() for part in layer.modules()}
    for module in (module for module in model.modules() if module not in inside):
        if isinstance(module, nn.Conv2d):
            kernels["conv"].append(module.weight)
        elif isinstance(module, nn.Linear):
            kernels["dense"].append(module.weight)
    decays = {weight: 2 * l2[kind] for kind, weights in kernels.items() for weight in weights}
    of_activations = groups.decays(model)
    found = {}  # each group is updated by kernels of its own: as few as there are decays and rates
    for parameter in [*decays, *of_activations, *model.parameters()]:
        factor = activation_rate if parameter in of_activations else 1.0
        key = decays.get(parameter, of_activations.get(parameter, 0.0)), factor
        found.setdefault(key, {})[parameter] = None
    return [
        {"params": list(parameters), "weight_decay": decay, groups.FACTOR: factor}
        for (decay, factor), parameters in found.items()
    ]


def _is_dense(tensor):
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


class Training:
    """One run: its network, its batches on the device, and all that a step needs.

    Args:
        settings (dict): the run's settings (see `config.yaml`, one cell of the grid).
        dataset (kafnets.data.Dataset): uint8 images.
        device (torch.device): where to compute.
        deferred (bool, optional): nothing in a step waits for the device; default: on a GPU.
        streamed (bool, optional): see :func:`.batches.create_batches`.
        fused (bool, optional): whether the network's layers are computed several at a time where they can be,
            see :mod:`kafnets.models.fused`; default: see :func:`.fusing.worthwhile`.

    Raises:
        UserError: when a batch would hold more images than there are.
    """

    def __init__(self, settings, dataset, device, deferred=None, streamed=None, fused=None):
        self.deferred = device.type == "cuda" if deferred is None else deferred
        self.options, self.device = settings["training"], device
        self.batches = create_batches(settings, dataset, device, streamed)
        self.steps_per_epoch = self.batches.steps_per_epoch
        model = initial_model(settings)
        self.parameters = count_parameters(model)
        self.model = model.to(device, memory_format=torch.channels_last).train()
        # deferred: the rate is read on the device, and an update that is not finite is left out there
        self.rates = groups.Rates(groups.factor_of(self.options), device if self.deferred else None)
        self.clipped = groups.limits(self.model)
        self.penalised = groups.Penalised(self.model, self.options.get("penalties", {}))
        self.optimizer = self._optimizer()
        precision = PRECISIONS[self.options["precision"]] if device.type == "cuda" else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        around = {name: self.options[name] for name in AROUND if name in self.options}
        self.method = create_method(self.options["adversary"], around)
        fused = False if self.method.twice_differentiated else fused
        self.network = Network(
            self.model, precision, self.scaler.scale, fusing.passes(self.model, device, fused)
        )
        self.tried = self.network.passes is self.model
        size = self.batches.size
        whole = torch.zeros(size, *dataset.train_images.shape[1:], device=device)
        whole = whole.contiguous(memory_format=torch.channels_last)
        self.method.prepare(self.network, whole)
        self.method_state = self.method.initial_state(whole)
        self.averaged = self._averaged()
        self.begin_epoch(0)
        self.size = torch.tensor(float(size), device=device)
        self.watch = nonfinite.Watch(whole, MAX_SKIPPED_STEPS if self.scaler.is_enabled() else 0)
        self.replayed = Replayed(self._step, self._changed, device, size)

    def _averaged(self):
        options = dict(self.options.get("averaging", {}))
        options.pop("keep", None)
        return Averaged(self.model, **options) if options else None

    def begin_epoch(self, epoch):
        """To be called before the first step of an epoch, and of what is left of one; counted from 0."""
        self.method.begin_epoch(epoch, self.method_state)
        if self.averaged is not None:
            self.averaged.begin_epoch(epoch)

    def _optimizer(self):
        optimizer = torch.optim.SGD(
            parameter_groups(self.model, self.options["l2"], groups.factor_of(self.options)),
            lr=self.rates.values[1.0],
            momentum=self.options["momentum"],
            fused=self.deferred or None,
        )
        self.rates.give(optimizer)
        if self.options["momentum"]:
            # the fused optimiser would begin with whatever lies in memory when the first update is left out
            for parameter in self.model.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def step(self, rows, learning_rate):
        """The updates of the weights by one batch: as many as the method makes of each, mostly one.

        Args:
            rows (Tensor): where the batch lies, one of :meth:`.batches.Batches.epoch`.
            learning_rate (float): of this step.

        Returns:
            Tensor of shape (4,): images seen, their summed loss, how many were classified correctly (on the
            perturbed images), and the gradient norm times the images seen.

        Raises:
            UserError: when the loss or a gradient is not finite; names epoch, step and layer. Deferred, such
                an update is left out and :meth:`check` raises.
        """
        self.rates.set(self.optimizer, learning_rate)
        if not self.tried:
            self.tried = True
            self.network.passes = fusing.tried(self.network, *self.batches.untouched(rows))
        return self.replayed(rows)

    def _step(self, rows):
        images, labels = self.batches.take(rows)
        updates = [self.update(images, labels) for _ in range(self.method.updates_per_batch)]
        if len(updates) == 1:
            return updates[0]
        return functools.reduce(torch.add, (figures.double() for figures in updates))

    def update(self, images, labels):
        """One update of the weights by unperturbed images, at the rate that is set; see :meth:`step`."""
        update = self.method.update(self.network, images, labels, self.method_state)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.scaler.scale(self.penalised(update.loss))
        loss.backward(self.network.one_like(loss))
        update.after_backward()
        self.scaler.unscale_(self.optimizer)
        norm = self._norm([p.grad for p in self.model.parameters() if p.grad is not None])
        groups.clip(self.clipped)
        loss = update.loss.detach()
        bad = self.watch.see(loss, norm, update.images.detach())
        if not self.deferred:
            self.check()
        elif not self.scaler.is_enabled():
            self.optimizer.found_inf = bad
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update()
        count = len(labels)
        correct = (update.logits.argmax(1) == labels).sum(dtype=norm.dtype)
        seen = self.size if count == self.batches.size else torch.full_like(norm, count)
        loss_sum, norm_sum = torch._foreach_mul([loss, norm], count)
        return torch.stack([seen, loss_sum, correct, norm_sum])

    def _norm(self, gradients):
        """Of all gradients as one vector."""
        if not self.deferred or not all(map(_is_dense, gradients)):
            return nn.utils.get_total_norm(gradients)
        # in two kernels instead of five
        return torch.linalg.vector_norm(torch.cat([g.as_strided((g.numel(),), (1,)) for g in gradients]))

    def check(self):
        """Raises UserError when a step's loss or gradient was not finite (waits for the device)."""
        failure = self.watch.failure()
        if failure is None:
            return
        number, images = failure
        step = number // self.method.updates_per_batch
        raise UserError(
            f"training stopped at {self.where(*divmod(step, self.steps_per_epoch))}: "
            f"{nonfinite.describe(self.model, images)}; "
            f"a lower learning rate than {self.options['learning_rate']} may help"
        )

    def where(self, epoch, step):
        """A step in words."""
        return f"epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}"

    def _changed(self):
        """All tensors that a step changes, in groups of a kind."""
        buffers = list(self.model.buffers())
        kinds = [
            self.model.parameters(),
            [buffer for buffer in buffers if buffer.is_floating_point()],
            [buffer for buffer in buffers if not buffer.is_floating_point()],
            [value for state in self.optimizer.state.values() for value in state.values()],
            [self.watch.steps, self.watch.failed_at, self.watch.overflows, self.watch.images],
            [self.scaler._scale, self.scaler._growth_tracker] if self.scaler.is_enabled() else [],
            self.method_state.values(),
            self.averaged.tensors if self.averaged is not None else [],
        ]
        return [[tensor.detach() for tensor in kind if tensor is not None] for kind in kinds]

    def state(self):
        """All that the next step depends on."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "watch": self.watch.state(),
            "method": self.method_state,
            "averaged": self.averaged.tensors if self.averaged is not None else [],
        }
        if self.device.type == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state):
        """Puts back what :meth:`state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.watch.restore(state["watch"])
        for name, tensor in state["method"].items():
            self.method_state[name].copy_(tensor)
        if self.averaged is not None:
            torch._foreach_copy_(self.averaged.tensors, state["averaged"])
        if self.deferred:
            self.rates.give(self.optimizer)
        if self.device.type == "cuda" and "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        torch.set_rng_state(state["random"])
