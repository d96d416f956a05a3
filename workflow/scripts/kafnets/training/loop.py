"""The training loop: every step is a function of the settings, the seed and the state of a checkpoint."""

import contextlib
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..activations import layers_of
from ..config.slices import fraction
from ..models import create_model
from ..registry import ACTIVATIONS, ADVERSARIES, lookup
from ..runtime import checkpoint, progress
from ..runtime.errors import UserError, is_out_of_memory
from ..runtime.graphs import Replayed, computing_on
from ..runtime.interruption import Interrupted, SignalFlag
from . import monitor, nonfinite
from .augmentation import AUGMENTATIONS
from .schedule import learning_rates

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

# A float16 loss scale that had to back off this often in a row is not overflow any more.
MAX_SKIPPED_STEPS = 20

CHECKPOINT_SECONDS = 60.0
# On a GPU the host asks only now and then whether all was finite: each question waits for the queue to empty.
CHECK_STEPS = 100
CLEAN_IMAGES = 1000
PROBE_SEED = 20200701


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


def parameter_groups(model, l2):
    """The optimiser's groups: kernels with their L2 penalty, everything else without.

    Args:
        model (nn.Module): its `Conv2d` and `Linear` weights are the kernels; biases, normalisations and
            whatever belongs to an activation are never penalised.
        l2 (dict): `conv` and `dense`, the factor of the *sum of squares* added to the loss. Its gradient is
            2 l2 w, hence torch's weight decay is twice that factor.
    """
    kernels = {"conv": [], "dense": []}
    of_activations = {part for layer in layers_of(model).values() for part in layer.modules()}
    for module in (module for module in model.modules() if module not in of_activations):
        if isinstance(module, nn.Conv2d):
            kernels["conv"].append(module.weight)
        elif isinstance(module, nn.Linear):
            kernels["dense"].append(module.weight)
    penalised = {id(weight) for weights in kernels.values() for weight in weights}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in penalised]
    groups = [{"params": weights, "weight_decay": 2 * l2[kind]} for kind, weights in kernels.items()]
    return [group for group in [*groups, {"params": rest, "weight_decay": 0.0}] if group["params"]]


class Training:
    """One run: its network, its data on the device, and all that a step needs.

    Args:
        settings (dict): the run's settings (see `config.yaml`, one cell of the grid).
        dataset (kafnets.data.Dataset): uint8 images.
        device (torch.device): where to compute.
        deferred (bool, optional): nothing in a step waits for the device; default: on a GPU.
    """

    def __init__(self, settings, dataset, device, deferred=None):
        self.deferred = device.type == "cuda" if deferred is None else deferred
        self.settings, self.options, self.device = settings, settings["training"], device
        self.images = dataset.train_images.to(device)
        self.labels = dataset.train_labels.to(device)
        model = initial_model(settings)
        self.parameters = count_parameters(model)
        self.model = model.to(device, memory_format=torch.channels_last).train()
        # deferred: the rate is read on the device, and an update that is not finite is left out there
        self.rate = torch.zeros((), device=device) if self.deferred else 0.0
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.model, self.options["l2"]),
            lr=self.rate,
            momentum=self.options["momentum"],
            fused=self.deferred or None,
        )
        if self.options["momentum"]:
            # the fused optimiser would begin with whatever lies in memory when the first update is left out
            for parameter in self.model.parameters():
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        precision = PRECISIONS[self.options["precision"]] if device.type == "cuda" else None
        self.autocast = {"device_type": device.type, "dtype": precision, "enabled": precision is not None}
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
        self.augment = AUGMENTATIONS[self.options["augmentation"]]
        adversary = dict(self.options["adversary"])
        self.adversary = lookup(ADVERSARIES, adversary.pop("name"), "adversary").load()
        self.adversary_settings = {name: fraction(value) for name, value in adversary.items()}
        size = self.options["batch_size"]
        if size > len(self.labels):
            raise UserError(
                f"training.batch_size: {size} is more than the {len(self.labels)} training images; "
                "write at most as many"
            )
        self.steps_per_epoch = -(-len(self.labels) // size)
        whole = torch.zeros(size, *self.images.shape[1:], device=device)
        self.watch = nonfinite.Watch(
            whole.contiguous(memory_format=torch.channels_last),
            MAX_SKIPPED_STEPS if self.scaler.is_enabled() else 0,
        )
        self.replayed = Replayed(self._step, self._changed, device, size)

    def order(self, epoch):
        """The images of `epoch` in their order, a function of the seed and the epoch alone."""
        # hashed together, because torch's generator on the CPU reads no more than 32 bits of a seed
        seed = int(np.random.SeedSequence([self.settings["seed"], epoch]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.labels), generator=generator).to(self.device)

    def chosen(self, order, step):
        """The numbers of one step's images."""
        size = self.options["batch_size"]
        return order[step * size : (step + 1) * size]

    def batch(self, chosen):
        """The augmented images, float in [0, 1], and the labels of the training images `chosen`."""
        images = self.augment(self.images[chosen])
        images = images.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)
        return images, self.labels[chosen]

    def loss(self, images, labels):
        """The network's logits and mean cross-entropy on a batch, under mixed precision where it is on."""
        with torch.autocast(**self.autocast):
            logits = self.model(images)
            return logits, functional.cross_entropy(logits.float(), labels)

    def step(self, chosen, learning_rate):
        """One update of the weights.

        Args:
            chosen (Tensor): numbers of training images: see :meth:`chosen`.
            learning_rate (float): of this step.

        Returns:
            Tensor of shape (4,): images seen, their summed loss, how many were classified correctly (on the
            perturbed images), and the gradient norm times the images seen.

        Raises:
            UserError: when the loss or a gradient is not finite; names epoch, step and layer. Deferred, such
                an update is left out and :meth:`check` raises.
        """
        if self.deferred:
            self.rate.fill_(learning_rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
        return self.replayed(chosen)

    def _step(self, chosen):
        return self.update(*self.batch(chosen))

    def update(self, images, labels):
        """One update of the weights by a clean batch, at the rate that is set; see :meth:`step`."""
        with parameters_frozen(self.model):
            # the mean, as in the update: a scaled sum overflows float16, and an infinite gradient has no sign
            images = self.adversary(
                lambda perturbed: self.scaler.scale(self.loss(perturbed, labels)[1]),
                images,
                **self.adversary_settings,
            )
        logits, loss = self.loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(
            [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        )
        bad = self.watch.see(loss.detach(), norm, images)
        if not self.deferred:
            self.check()
        elif not self.scaler.is_enabled():
            self.optimizer.found_inf = bad
        self.scaler.step(self.optimizer)
        self.scaler.update()
        count = len(labels)
        correct = (logits.argmax(1) == labels).sum()
        seen = torch.full_like(norm, count)
        return torch.stack([seen, loss.detach() * count, correct.to(norm.dtype), norm * count]).double()

    def check(self):
        """Raises UserError when a step's loss or gradient was not finite (waits for the device)."""
        failure = self.watch.failure()
        if failure is None:
            return
        number, images = failure
        raise UserError(
            f"training stopped at {self.where(*divmod(number, self.steps_per_epoch))}: "
            f"{nonfinite.describe(self.model, images)}; "
            f"a lower learning rate than {self.options['learning_rate']} may help"
        )

    def where(self, epoch, step):
        """A step in words."""
        return f"epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}"

    def _changed(self):
        """All tensors that a step changes, in groups of a kind."""
        buffers = list(self.model.buffers())
        groups = [
            self.model.parameters(),
            [buffer for buffer in buffers if buffer.is_floating_point()],
            [buffer for buffer in buffers if not buffer.is_floating_point()],
            [value for state in self.optimizer.state.values() for value in state.values()],
            [self.watch.steps, self.watch.failed_at, self.watch.overflows, self.watch.images],
            [self.scaler._scale, self.scaler._growth_tracker] if self.scaler.is_enabled() else [],
        ]
        return [[tensor.detach() for tensor in group if tensor is not None] for group in groups]

    def state(self):
        """All that the next step depends on."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "watch": self.watch.state(),
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
        if self.deferred:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
        if self.device.type == "cuda" and "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        torch.set_rng_state(state["random"])


@contextlib.contextmanager
def parameters_frozen(model):
    """No gradients of the parameters within the block: an attack's pass needs the images' alone."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def count_parameters(model):
    """Trainable parameters in all, and those of the activations among them."""
    of_activations = {parameter for layer in layers_of(model).values() for parameter in layer.parameters()}
    return {
        "trainable": sum(parameter.numel() for parameter in model.parameters()),
        "activation": sum(parameter.numel() for parameter in of_activations),
    }


class Monitor:
    """The end-of-epoch measurements on fixed images; they draw nothing from the training's random numbers."""

    def __init__(self, settings, dataset, device):
        options = settings["training"]["monitor"]
        self.every, self.iterations = options["every"], options["iterations"]
        self.epochs = settings["training"]["epochs"] + settings["training"]["tail"]["epochs"]
        self.eps = fraction(options["eps"])
        generator = torch.Generator().manual_seed(PROBE_SEED)
        held_out = torch.randperm(len(dataset.test_labels), generator=generator)[: options["examples"]]
        clean = torch.randperm(len(dataset.train_labels), generator=generator)[:CLEAN_IMAGES]
        self.held_out = (
            _floats(dataset.test_images[held_out], device),
            dataset.test_labels[held_out].to(device),
        )
        self.clean = _floats(dataset.train_images[clean], device), dataset.train_labels[clean].to(device)

    def __call__(self, model, epoch, after_pass):
        """The history's measured columns after `epoch`; the probe's are None in the epochs between.

        `after_pass` is called after every forward pass, and may raise: nothing is changed by then.
        """
        row = {"probe_fgsm_accuracy": None, "probe_pgd_accuracy": None}
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs:
            fgsm, full = monitor.probe(model, *self.held_out, self.eps, self.iterations, after_pass)
            row = {"probe_fgsm_accuracy": fgsm, "probe_pgd_accuracy": full}
        return {"clean_accuracy": monitor.clean_accuracy(model, *self.clean, after_pass), **row}


def _floats(images, device):
    return images.to(device).float().div_(255)


def run_fingerprint(settings, dataset, device, code=""):
    """A short name of all that decides a run's weights: settings, data, code, and how a KAF is computed."""
    facts = {"settings": settings, "data": dataset.sha256, "kaf_backend": kaf_backend(settings, device)}
    return checkpoint.fingerprint({**facts, "code": code})


def kaf_backend(settings, device):
    """The implementation that computes this run's KAFs on `device`; None for another activation."""
    return ACTIVATIONS[settings["activation"]].backend_on(device)


def train(
    settings,
    dataset,
    device,
    checkpoint_path,
    checkpoint_seconds=CHECKPOINT_SECONDS,
    deferred=None,
    code="",
):
    """Trains one network from its settings, or from where an interrupted run of the same settings stopped.

    On the CPU a run interrupted at any moment and resumed ends with the weights of an uninterrupted one,
    bit for bit (with the same number of threads).

    Args:
        settings (dict): one cell of the grid.
        dataset (kafnets.data.Dataset): the data the settings name.
        device (torch.device): where to compute.
        checkpoint_path (Path): the state of the unfinished run, written at the end of every epoch, every
            `checkpoint_seconds` within one and on SIGTERM or SIGINT. It is the caller's to delete at the end.
        checkpoint_seconds (float): seconds between two checkpoints within an epoch.
        deferred (bool, optional): see :class:`Training`.
        code (str): names the code that trains; a checkpoint of other code is another run's.

    Returns:
        (nn.Module, list of dict, dict): the trained network, one row an epoch, and `parameters`,
        `kaf_backend`, `seconds`, `probe_examples` (images of a probe, see :mod:`.monitor`).

    Raises:
        UserError: when the loss or a gradient is not finite, the checkpoint is another run's, or the device's
            memory does not hold a step; the batch size that fits is named then.
        Interrupted: after a signal, with the state saved.
    """
    with computing_on(device):
        name = run_fingerprint(settings, dataset, device, code)
        return _train(settings, dataset, device, checkpoint_path, checkpoint_seconds, deferred, name)


def _train(settings, dataset, device, checkpoint_path, checkpoint_seconds, deferred, name):
    training = Training(settings, dataset, device, deferred)
    measure = Monitor(settings, dataset, device)
    rates = learning_rates(training.options, training.steps_per_epoch)
    position = {
        "epoch": 0,
        "step": 0,
        "sums": torch.zeros(4, dtype=torch.float64),
        "history": [],
        "seconds": 0.0,
    }
    saved = checkpoint.read(checkpoint_path, name)
    if saved is not None:
        training.restore(saved["training"])
        position = saved["position"]
        progress.line(f"resuming at epoch {position['epoch'] + 1}, step {position['step'] + 1}")
    clock = _Clock(position["seconds"])

    def save(epoch, step, sums, history):
        training.check()
        position = {"epoch": epoch, "step": step, "sums": sums.cpu(), "history": history}
        position["seconds"] = clock.total()
        checkpoint.write(
            checkpoint_path, {"fingerprint": name, "training": training.state(), "position": position}
        )

    epochs = len(rates) // training.steps_per_epoch
    history, first_step, sums = position["history"], position["step"], position["sums"].to(device)
    with SignalFlag() as stop, progress.bar(len(rates), _label(settings)) as bar:
        bar.update(position["epoch"] * training.steps_per_epoch + first_step)
        last_save = time.monotonic()
        for epoch in range(position["epoch"], epochs):
            order = training.order(epoch)
            for step in range(first_step, training.steps_per_epoch):
                rate = rates[epoch * training.steps_per_epoch + step]
                sums += _step_in_memory(training, epoch, order, step, rate)
                bar.update()
                if training.deferred and (step + 1) % CHECK_STEPS == 0:
                    training.check()
                if stop.received or time.monotonic() - last_save > checkpoint_seconds:
                    save(epoch, step + 1, sums, history)
                    last_save = time.monotonic()
                stop.check()
            training.check()
            rate = rates[(epoch + 1) * training.steps_per_epoch - 1]
            try:
                row = _row(training, epoch, rate, sums, measure, clock, history, stop.check)
            except Interrupted:  # the measurements may take minutes on a CPU: they are made again
                save(epoch, training.steps_per_epoch, sums, history)
                raise
            history.append(row)
            first_step, sums = 0, torch.zeros_like(sums)
            save(epoch + 1, 0, sums, history)
            last_save = time.monotonic()
            progress.line(_describe(settings, row, epochs))
            stop.check()
    return (
        training.model,
        history,
        {
            "parameters": training.parameters,
            "kaf_backend": kaf_backend(settings, device),
            "seconds": clock.total(),
            "probe_examples": len(measure.held_out[1]),
        },
    )


def _step_in_memory(training, epoch, order, step, rate):
    """One step of an epoch; when it does not fit an error, for a smaller batch is another training."""
    try:
        return training.step(training.chosen(order, step), rate)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # out of the handler: its traceback holds the tensors of the failed pass
    size = training.options["batch_size"]
    fitting = fitting_batch_size(training, order)
    found = f"{fitting} would fit (a step was tried)" if fitting else "2 do not fit either"
    raise UserError(
        f"training stopped at {training.where(epoch, step)}: out of memory on {training.device} with a "
        f"batch_size of {size}; {found}. Write a smaller one under training, or run fewer jobs on the device "
        "at a time"
    )


def fitting_batch_size(training, order):
    """The largest of 1/2, 1/4, ... of the batch size with which a whole step fits; None when not even 2 do.

    The steps are really taken, outside any CUDA graph, so `training` is not to be used any more.
    """
    size = training.options["batch_size"] // 2
    while size >= 2:  # a normalisation cannot train on one image
        torch.cuda.empty_cache()
        training.optimizer.zero_grad(set_to_none=True)
        training.options = {**training.options, "batch_size": size}
        try:
            training.update(*training.batch(training.chosen(order, 0)))
            return size
        except UserError:  # not finite, but computed
            return size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
    return None


class _Clock:
    """Seconds of computing, over interruptions."""

    def __init__(self, before):
        self.before, self.start = before, time.monotonic()

    def total(self):
        return self.before + time.monotonic() - self.start


def _row(training, epoch, rate, sums, measure, clock, history, after_pass):
    seen, loss, correct, norm = sums.tolist()
    measured = measure(training.model, epoch, after_pass)
    return {
        "epoch": epoch + 1,
        "phase": "cycle" if epoch < training.options["epochs"] else "tail",
        "learning_rate": rate,
        "loss": loss / seen,
        "fgsm_accuracy": correct / seen,
        **measured,
        "gradient_norm": norm / seen,
        "seconds": clock.total() - sum(earlier["seconds"] for earlier in history),
    }


def _label(settings):
    return f"{settings['experiment']}/{settings['activation']}/seed{settings['seed']}"


def _describe(settings, row, epochs):
    left = (epochs - row["epoch"]) * row["seconds"]
    robust = row["probe_pgd_accuracy"]
    held_out = "" if robust is None else f"  held-out PGD {robust:.3f}"
    return (
        f"{_label(settings)}  epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  "
        f"train {row['fgsm_accuracy']:.3f}  clean {row['clean_accuracy']:.3f}{held_out}  "
        f"{row['seconds']:.1f} s  left {progress.duration(left)}"
    )
