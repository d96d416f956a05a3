"""Who trains in benchmarks.training: the pipeline's loop, and others; each takes so many steps at a call."""

import contextlib
import itertools
import logging
import runpy
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from kafnets.data import Dataset
from kafnets.evaluation.judge import synchronize
from kafnets.models import create_model
from kafnets.runtime.graphs import WARM_UP, capture, computing_on
from kafnets.training.augmentation import crop_flip
from kafnets.training.methods.base import parameters_frozen
from kafnets.training.training import PRECISIONS, Training
from torch.nn import functional

BATCH = 128
EPS, STEP = 8 / 255, 10 / 255
RATE = 0.01
ARCHITECTURES = {
    "resnet20": {"block": "thesis"},
    "resnet8": {"block": "thesis"},
    "vgg": {"dropout": [0.2, 0.25, 0.3, 0.4]},
}


class Contestant(NamedTuple):
    """One that trains.

    Args:
        run (callable): takes the number of steps.
        facts (mapping): what else was measured of it.
        counted (bool): whether one step can be taken alone, to count what it launches.
    """

    run: Callable
    facts: Mapping = MappingProxyType({})
    counted: bool = True


class Case:
    """What everyone trains on, what, and where."""

    def __init__(self, dataset, device, precision, architecture="resnet20", batch=BATCH):
        self.dataset, self.device, self.precision = dataset, device, precision
        self.architecture, self.batch = architecture, batch


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Dataset("random", images, labels, images[:128], labels[:128], tuple(map(str, range(10))), "", "")


def settings(activation, precision, architecture="resnet20", batch=BATCH):
    return {
        "experiment": "benchmark",
        "activation": activation,
        "seed": 0,
        "architecture": architecture,
        "architecture_arguments": ARCHITECTURES[architecture],
        "activation_arguments": {},
        "num_classes": 10,
        "training": {
            "adversary": {"name": "fbf", "eps": "8/255", "step": "10/255"},
            "batch_size": batch,
            "augmentation": "none" if architecture == "vgg" else "crop_flip",
            "precision": precision,
            "momentum": 0.0,
            "l2": {"conv": 0.0005, "dense": 0.0005},
            "learning_rate": [RATE, RATE],
        },
    }


def model_of(case, activation):
    return create_model(case.architecture, activation, **ARCHITECTURES[case.architecture])


def ours(activation, architecture=None):
    """The pipeline's training loop; `architecture` in the place of the case's."""

    def prepare(case):
        chosen = settings(activation, case.precision, architecture or case.architecture, case.batch)
        with computing_on(case.device):
            training = Training(chosen, case.dataset, case.device)
        whole = len(case.dataset.train_labels) // case.batch
        epochs = (itertools.islice(training.batches.epoch(number), whole) for number in itertools.count())
        batches = itertools.chain.from_iterable(epochs)

        def run(steps):
            with computing_on(case.device):
                for rows in itertools.islice(batches, steps):
                    training.step(rows, RATE)
                training.check()

        return Contestant(run)

    return prepare


def plain_loop(case):
    """The paper's loop as its code writes it: transforms image by image, the loss read in every step."""
    from torchvision import transforms

    augment = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    loader = torch.utils.data.DataLoader(
        _Pictures(case.dataset, augment), batch_size=case.batch, shuffle=True, num_workers=2, drop_last=True
    )
    model = model_of(case, "relu").to(case.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=0.001)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def run(steps):
        total = 0.0
        for images, labels in itertools.islice(batches, steps):
            images, labels = images.to(case.device), labels.to(case.device)
            delta = torch.zeros_like(images).uniform_(-EPS, EPS)
            delta = ((images + delta).clamp(0, 1) - images).requires_grad_()
            functional.cross_entropy(model(images + delta), labels).backward()
            moved = (delta + STEP * delta.grad.sign()).clamp(-EPS, EPS).detach()
            moved = (images + moved).clamp(0, 1) - images
            output = model(images + moved)
            loss = functional.cross_entropy(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels) + (output.argmax(1) == labels).sum().item()
        return total

    return Contestant(run)


class Careful:
    """The same training as a careful user writes it.

    Data and crops on the device, channels-last, mixed precision, no waiting. Used within `computing_on`.
    """

    def __init__(self, case, compiled):
        self.device, self.batch = case.device, case.batch
        self.images = case.dataset.train_images.to(case.device)
        self.labels = case.dataset.train_labels.to(case.device)
        on_gpu = case.device.type == "cuda"
        self.model = model_of(case, "relu").to(case.device, memory_format=torch.channels_last).train()
        self.network = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=RATE, weight_decay=0.001, fused=on_gpu or None
        )
        self.dtype = PRECISIONS[case.precision] if on_gpu else None
        self.scaler = torch.amp.GradScaler(case.device.type, enabled=self.dtype is torch.float16)

    def batches(self):
        while True:
            order = torch.randperm(len(self.labels), device=self.device)
            yield from order[: len(order) // self.batch * self.batch].split(self.batch)

    def loss_of(self, pixels, classes):
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.network(pixels)
        return output, functional.cross_entropy(output.float(), classes)

    def step(self, rows):
        """One update; the summed loss and the right answers."""
        pixels, classes = crop_flip(self.images[rows]).float().div_(255), self.labels[rows]
        delta = torch.empty_like(pixels).uniform_(-EPS, EPS).requires_grad_()
        with parameters_frozen(self.model):
            loss = self.loss_of(pixels + delta, classes)[1]
            (gradient,) = torch.autograd.grad(self.scaler.scale(loss), delta)
        moved = (delta.detach() + STEP * gradient.sign()).clamp_(-EPS, EPS)
        output, loss = self.loss_of((pixels + moved).clamp_(0, 1), classes)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach() * len(classes) + (output.argmax(1) == classes).sum()

    def captured(self, rows):
        """:meth:`step` as one CUDA graph, made as ours is: warm-up and capture on the stream of all steps."""
        for _ in range(WARM_UP):
            self.step(rows)
        own = rows.clone()
        with capture(self.device, torch.cuda.current_stream(self.device)) as graph:
            total = self.step(own)

        def replay(rows):
            own.copy_(rows)
            graph.replay()
            return total.clone()

        return replay


def eager_loop(case):
    """Nothing left to do but the launches."""
    with computing_on(case.device):
        loop = Careful(case, compiled=False)
    return Contestant(_many(loop.step, loop))


def compiled_loop(case):
    """The eager loop with `torch.compile(network)`; on a GPU its step is one CUDA graph, as ours is."""
    with computing_on(case.device):
        loop = Careful(case, compiled=True)
        rows = next(loop.batches())
        seconds = [_seconds(loop.step, rows, case.device) for _ in range(2)]
        step = loop.captured(rows) if case.device.type == "cuda" else loop.step
    return Contestant(_many(step, loop), {"compile_seconds": seconds[0] - seconds[1]})


def _many(step, loop):
    batches = loop.batches()

    def run(steps):
        with computing_on(loop.device):
            total = sum(step(rows) for rows in itertools.islice(batches, steps))
            return total.item()

    return run


def _seconds(step, rows, device):
    synchronize(device)
    started = time.perf_counter()
    step(rows)
    synchronize(device)
    return time.perf_counter() - started


class _Pictures(torch.utils.data.Dataset):
    """The images as torchvision's CIFAR10 hands them out."""

    def __init__(self, dataset, transform):
        from PIL import Image

        arrays = dataset.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.images, self.transform = [Image.fromarray(array) for array in arrays], transform
        self.labels = dataset.train_labels.tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def published_code(checkout, cifar10):
    """train_fgsm.py of the paper's authors, one epoch at a call, on the first images of CIFAR-10."""

    def prepare(case):
        def run(steps):
            with tempfile.TemporaryDirectory() as out, _in_their_place(checkout, case, steps):
                sys.argv = ["train_fgsm.py", "--epochs", "1", "--opt-level", "O0", "--out-dir", out]
                sys.argv += ["--data-dir", str(cifar10), "--batch-size", str(case.batch)]
                runpy.run_path(str(checkout / "CIFAR10" / "train_fgsm.py"), run_name="__main__")

        return Contestant(run, counted=False)

    return prepare


@contextlib.contextmanager
def _in_their_place(checkout, case, steps):
    """Their imports as they find them here: our ResNet20 for their network, fewer images, no evaluation."""
    before = (sys.argv, list(sys.path), dict(sys.modules), torch.Tensor.cuda, torch.nn.Module.cuda)
    sys.path.insert(0, str(checkout / "CIFAR10"))
    if case.device.type != "cuda":
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self: self
    logging.disable(logging.INFO)
    try:
        import apex.amp  # noqa: F401
    except ImportError:
        amp = types.ModuleType("apex.amp")
        amp.initialize = lambda model, optimizer, **_: (model, optimizer)
        amp.scale_loss = lambda loss, _: contextlib.nullcontext(loss)
        sys.modules["apex"], sys.modules["apex.amp"] = types.ModuleType("apex"), amp
        sys.modules["apex"].amp = amp
    sys.modules["preact_resnet"] = types.SimpleNamespace(PreActResNet18=lambda: model_of(case, "relu"))
    import utils

    loaders = utils.get_loaders

    def fewer(folder, batch_size):
        train, test = loaders(folder, batch_size)
        subset = torch.utils.data.Subset(train.dataset, range(steps * case.batch))
        return torch.utils.data.DataLoader(subset, batch_size=batch_size, shuffle=True, num_workers=2), test

    utils.get_loaders = fewer
    utils.evaluate_pgd = utils.evaluate_standard = lambda *_: (0.0, 0.0)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        sys.argv, sys.path[:], modules, torch.Tensor.cuda, torch.nn.Module.cuda = before
        for name in set(sys.modules) - set(modules):
            del sys.modules[name]


def known(checkout=None, cifar10=None):
    """Name -> function of a case that prepares the contestant."""
    found = {f"kafnets {name}": ours(name) for name in ("relu", "kaf", "swish", "elu")}
    found |= {"kafnets vgg relu": ours("relu", "vgg")}
    found |= {"eager loop relu": eager_loop, "compiled relu": compiled_loop, "plain loop relu": plain_loop}
    if checkout:
        found["fast_adversarial relu"] = published_code(checkout, cifar10)
    return found
