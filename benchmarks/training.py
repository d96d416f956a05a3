"""How long an epoch of fast adversarial training takes: ours, and the plain eager loop of the FBF paper.

    python -m benchmarks.training [--data cifar10.safetensors] [--fast-adversarial CHECKOUT --cifar10 FOLDER]

Everyone trains a ResNet20 on the same number of images with batches of 128, random crops and flips, in turns,
several times over; the table shows medians, by the step and for an epoch of 50,000 images. With
--fast-adversarial (a checkout of locuslab/fast_adversarial) its own train_fgsm.py runs beside, with this
ResNet20 in the place of its network; apex, which it imports, is replaced by plain float32 where it is not
installed. "eager loop" is the same training as a careful user writes it: data and crops on the device,
channels-last, mixed precision, no waiting. With --epochs k, k epochs of `kafnets.training.train` are timed
too: the monitor, the checkpoint and the last, smaller batch included; the first also pays for compilers and
the CUDA graph and is left out of the median. With --jobs k so many trainings share the device at the same
time. Without --data the images are random: they train nothing, but take as long.
"""

import argparse
import contextlib
import itertools
import logging
import multiprocessing
import runpy
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from kafnets.data import Dataset, load
from kafnets.evaluation.judge import synchronize
from kafnets.models import create_model
from kafnets.runtime import records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import write_json
from kafnets.runtime.graphs import computing_on
from kafnets.training.augmentation import crop_flip
from kafnets.training.run import train
from kafnets.training.training import PRECISIONS, Training

BATCH = 128
EPS, STEP = 8 / 255, 10 / 255
RATE = 0.01
CIFAR10_TRAIN = 50_000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="prepared CIFAR-10 (safetensors); default: random images")
    parser.add_argument("--images", type=int, help="of an epoch (default: 1024, on a GPU 50,000)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="bfloat16", help="on a GPU: float32, bfloat16, float16")
    parser.add_argument("--epochs", type=int, default=0, help="of a whole training, timed one by one")
    parser.add_argument("--jobs", type=int, nargs="*", default=[], help="trainings that share the device")
    parser.add_argument("--fast-adversarial", type=Path, metavar="CHECKOUT")
    parser.add_argument("--cifar10", type=Path, help="folder that holds cifar-10-batches-py, for it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/training.json"))
    arguments = parser.parse_args()
    if (arguments.fast_adversarial is None) != (arguments.cifar10 is None):
        parser.error("--fast-adversarial and --cifar10 go together")
    if arguments.epochs == 1:
        parser.error("--epochs 1: the first is left out of the median; write 2 or more")
    torch.set_num_threads(arguments.threads)
    device = resolve(arguments.device)
    count = arguments.images or (CIFAR10_TRAIN if device.type == "cuda" else 1024)
    dataset = load(arguments.data, train_examples=count) if arguments.data else random_images(count)
    case = Case(dataset, device, arguments.precision)
    rows = measure(contestants(case, arguments), case, arguments.repeats)
    print_table(rows, device)
    activations = ("relu", "kaf") if arguments.epochs else ()
    whole = [whole_epochs(case, activation, arguments.epochs) for activation in activations]
    shared = [sharing(arguments, dataset, device, jobs) for jobs in arguments.jobs]
    write_json(
        arguments.output,
        {
            "benchmark": "training",
            "settings": {key: str(value) for key, value in vars(arguments).items()},
            "images": count,
            "environment": records.environment(device),
            "contestants": rows,
            "whole_epochs": whole,
            "sharing": shared,
        },
    )
    print(f"written to {arguments.output}")


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Dataset(
        "random", images, labels, images[:BATCH], labels[:BATCH], tuple(map(str, range(10))), "", ""
    )


class Case:
    """What everyone trains on, and where."""

    def __init__(self, dataset, device, precision):
        self.dataset, self.device, self.precision = dataset, device, precision
        self.steps = len(dataset.train_labels) // BATCH


def settings(activation, precision):
    return {
        "experiment": "benchmark",
        "activation": activation,
        "seed": 0,
        "architecture": "resnet20",
        "architecture_arguments": {"block": "thesis"},
        "activation_arguments": {},
        "num_classes": 10,
        "training": {
            "adversary": {"name": "fbf", "eps": "8/255", "step": "10/255"},
            "batch_size": BATCH,
            "augmentation": "crop_flip",
            "precision": precision,
            "momentum": 0.0,
            "l2": {"conv": 0.0005, "dense": 0.0005},
            "learning_rate": [RATE, RATE],
        },
    }


def ours(activation):
    """The pipeline's training loop: a function of a case that makes a function that trains one epoch."""

    def prepare(case):
        training = Training(settings(activation, case.precision), case.dataset, case.device)
        epochs = iter(range(1_000_000))

        def epoch():
            with computing_on(case.device):
                sums = 0
                for rows in itertools.islice(training.batches.epoch(next(epochs)), case.steps):
                    sums = sums + training.step(rows, RATE)
                training.check()
            return sums

        return epoch

    return prepare


def plain_loop(case):
    """The paper's loop as its code writes it: transforms image by image, the loss read in every step."""
    from torchvision import transforms

    augment = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    loader = torch.utils.data.DataLoader(
        _Pictures(case.dataset, augment), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True
    )
    model = create_model("resnet20", "relu").to(case.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=0.001)

    def epoch():
        total = 0.0
        for images, labels in loader:
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

    return epoch


def eager_loop(case):
    """Nothing left to do but the launches: data on the device, channels-last, mixed precision, no waiting."""
    images, labels = case.dataset.train_images.to(case.device), case.dataset.train_labels.to(case.device)
    model = create_model("resnet20", "relu").to(case.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=0.001, foreach=True)
    dtype = PRECISIONS[case.precision] if case.device.type == "cuda" else None
    scaler = torch.amp.GradScaler(case.device.type, enabled=dtype is torch.float16)

    def loss_of(pixels, classes):
        with torch.autocast(case.device.type, dtype, enabled=dtype is not None):
            output = model(pixels)
        return output, functional.cross_entropy(output.float(), classes)

    def epoch():
        total = torch.zeros((), device=case.device)
        order = torch.randperm(len(labels), device=case.device)
        for rows in order[: case.steps * BATCH].split(BATCH):
            pixels, classes = crop_flip(images[rows]).float().div_(255), labels[rows]
            delta = torch.empty_like(pixels).uniform_(-EPS, EPS).requires_grad_()
            (gradient,) = torch.autograd.grad(scaler.scale(loss_of(pixels + delta, classes)[1]), delta)
            moved = (delta.detach() + STEP * gradient.sign()).clamp_(-EPS, EPS)
            output, loss = loss_of((pixels + moved).clamp_(0, 1), classes)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(classes) + (output.argmax(1) == classes).sum()
        return total.item()

    return epoch


def whole_epochs(case, activation, epochs):
    """The seconds of each epoch of a training as the pipeline runs it."""
    chosen = settings(activation, case.precision)
    chosen["training"] |= {
        "epochs": epochs,
        "tail": {"epochs": 0, "learning_rate": RATE, "halve_every": 1},
        "monitor": {"eps": "8/255", "examples": 128, "iterations": 10, "every": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        _, history, _ = train(chosen, case.dataset, case.device, Path(folder) / "checkpoint")
    seconds = [row["seconds"] for row in history]
    row = {"activation": activation, "seconds": seconds, "median": statistics.median(seconds[1:])}
    print(
        f"a whole training, {activation}: {row['median']:.2f} s an epoch of {len(case.dataset.train_labels)}"
    )
    return row


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
        def epoch():
            with tempfile.TemporaryDirectory() as out, _in_their_place(checkout, case):
                sys.argv = ["train_fgsm.py", "--epochs", "1", "--opt-level", "O0", "--out-dir", out]
                sys.argv += ["--data-dir", str(cifar10), "--batch-size", str(BATCH)]
                runpy.run_path(str(checkout / "CIFAR10" / "train_fgsm.py"), run_name="__main__")

        return epoch

    return prepare


@contextlib.contextmanager
def _in_their_place(checkout, case):
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
    sys.modules["preact_resnet"] = types.SimpleNamespace(
        PreActResNet18=lambda: create_model("resnet20", "relu")
    )
    import utils

    loaders = utils.get_loaders

    def fewer(folder, batch_size):
        train, test = loaders(folder, batch_size)
        subset = torch.utils.data.Subset(train.dataset, range(case.steps * BATCH))
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


def contestants(case, arguments):
    """Name -> function that trains one epoch."""
    chosen = {
        "kafnets relu": ours("relu"),
        "kafnets kaf": ours("kaf"),
        "eager loop relu": eager_loop,
        "plain loop relu": plain_loop,
    }
    if arguments.fast_adversarial:
        chosen["fast_adversarial relu"] = published_code(arguments.fast_adversarial, arguments.cifar10)
    return {name: prepare(case) for name, prepare in chosen.items()}


def measure(functions, case, repeats):
    """Everyone's epochs, in turns, after one turn that does not count."""
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, epoch in functions.items():
            synchronize(case.device)
            started = time.perf_counter()
            epoch()
            synchronize(case.device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    first = next(iter(functions))
    return [
        {
            "contestant": name,
            "seconds": times,
            "median": statistics.median(times),
            "step_ms": 1e3 * statistics.median(times) / case.steps,
            "epoch_of_50000_seconds": statistics.median(times) / case.steps * (CIFAR10_TRAIN / BATCH),
            "times_ours": statistics.median(
                one / reference for one, reference in zip(times, seconds[first], strict=True)
            ),
        }
        for name, times in seconds.items()
    ]


def print_table(rows, device):
    print(f"{device}, torch {torch.__version__}, medians of {len(rows[0]['seconds'])}")
    print(f"{'':24}{'ms a step':>11}{'s / 50,000':>12}{'x ours':>8}")
    for row in rows:
        print(
            f"{row['contestant']:24}{row['step_ms']:11.1f}{row['epoch_of_50000_seconds']:12.2f}"
            f"{row['times_ours']:8.2f}"
        )


def sharing(arguments, dataset, device, jobs):
    """So many trainings at the same time on one device: the seconds of an epoch, over their number."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(jobs), context.Queue()
    count = len(dataset.train_labels)
    workers = [
        context.Process(target=_share, args=(count, device, arguments.precision, barrier, results))
        for _ in range(jobs)
    ]
    for worker in workers:
        worker.start()
    seconds = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    row = {"jobs": jobs, "epoch_seconds": max(seconds), "seconds_per_model_epoch": max(seconds) / jobs}
    print(f"{jobs} at a time: {row['seconds_per_model_epoch']:.2f} s a model and epoch of {count} images")
    return row


def _share(count, device, precision, barrier, results):
    torch.set_num_threads(1)
    epoch = ours("relu")(Case(random_images(count), device, precision))
    epoch()
    barrier.wait()
    started = time.perf_counter()
    epoch()
    epoch()
    results.put((time.perf_counter() - started) / 2)


if __name__ == "__main__":
    main()
