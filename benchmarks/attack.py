"""How long PGD with restarts takes: ours, the plain loop, and the attack libraries.

    python -m benchmarks.attack --model model.safetensors --data cifar10.safetensors --json out.json

Without --model a ResNet20 is first trained for a minute, adversarially, on the bundled digits. Everyone
attacks the same images with the same settings, in turns, several times over; the table shows medians. A
library that is not installed is left out (requirements-benchmarks.txt). On a CPU that others use too, the
processor's time says more than the clock's.

    python -m benchmarks.attack --published FOLDER --data cifar10.safetensors --stored FOLDER --device cuda

The networks of the thesis's author (of the rows `--rows`; files as the pipeline converts them, or as
published), each under PGD-50-10 with steps in each of `--precision`: how many of `--images` stay robust, in
what time, and how the verdicts compare with those of the first precision and with the `--stored` ones of an
earlier run (*pgd_{row}.npz). The file --json is written after each. With several `--batch-sizes` and fewer
`--restarts` it shows which batch is best on a GPU:

    python -m benchmarks.attack --published FOLDER --data cifar10.safetensors --device cuda --rows relu \\
        --restarts 1 --batch-sizes 256 512 1024 2048 4096
"""

import argparse
import importlib
import importlib.metadata
import itertools
import statistics
import sys
import time
from pathlib import Path

import numpy
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from kafnets import published
from kafnets.attacks import pgd
from kafnets.attacks.base import is_correct, predict
from kafnets.data import load, prepare_digits
from kafnets.evaluation.judge import PRECISIONS, evaluate, synchronize
from kafnets.models import create_model, load_model
from kafnets.registry import PUBLISHED
from kafnets.runtime import records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import write_json
from kafnets.training.methods.base import Network
from kafnets.training.methods.fbf import FBF


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="weights (safetensors); default: trained here on the digits")
    parser.add_argument("--data", help="prepared data set (safetensors) that belongs to --model")
    parser.add_argument("--activation", default="relu", help="of the network that is trained here")
    parser.add_argument("--images", type=int, help="default: 64; with --published all, of these the first")
    parser.add_argument("--eps", type=float, default=8, help="radius, in 255ths")
    parser.add_argument("--iterations", type=int, help="default: 10; with --published 50")
    parser.add_argument("--restarts", type=int, help="default: 3; with --published 10")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="written: every repeat, hardware, versions")
    parser.add_argument("--published", type=Path, help="folder of the thesis author's weights")
    parser.add_argument(
        "--rows", nargs="+", default=["relu", "kaf", "swish"], choices=PUBLISHED, metavar="ROW"
    )
    parser.add_argument(
        "--precision", nargs="+", default=["float16"], choices=PRECISIONS, help="of the steps"
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[None], help="default: by device")
    parser.add_argument("--stored", type=Path, help="folder of verdicts to compare with, *pgd_{row}.npz")
    arguments = parser.parse_args()
    if arguments.published:
        if arguments.data is None:
            parser.error("--published: give --data too, the prepared CIFAR-10")
        published_networks(arguments)
        return
    defaults = {"images": 64, "iterations": 10, "restarts": 3}
    for name, value in defaults.items():
        setattr(arguments, name, value if getattr(arguments, name) is None else getattr(arguments, name))
    if (arguments.model is None) != (arguments.data is None):
        parser.error("--model and --data go together")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = resolve(arguments.device)
    if arguments.model:
        model = load_model(arguments.model, device)
        dataset = load(arguments.data, test_examples=arguments.images)
    else:
        dataset = prepare_digits()
        model = train_a_minute(dataset, arguments.activation, arguments.eps / 255, device)
    if len(dataset.test_labels) < arguments.images:
        parser.error(
            f"--images {arguments.images}: {dataset.name} has {len(dataset.test_labels)} test images; write "
            "--images with no more, or --model and --data"
        )
    bytes_, labels = dataset.test_images[: arguments.images], dataset.test_labels[: arguments.images]
    case = Case(model, bytes_, labels, device, arguments)
    result = measure(case, contestants(), arguments.repeats)
    print_table(result)
    if arguments.json:
        write_json(
            arguments.json,
            {
                "benchmark": "attack",
                "settings": {name: value for name, value in vars(arguments).items() if name != "json"},
                "environment": records.environment(device),
                "versions": versions(),
                "clean_accuracy": case.clean_accuracy,
                "contestants": result,
            },
        )


def published_networks(arguments):
    """PGD on the networks of the thesis's author; a line for each, and the file as they come."""
    torch.set_num_threads(arguments.threads)
    device = resolve(arguments.device)
    dataset = load(arguments.data)
    images, labels = dataset.test_images[: arguments.images], dataset.test_labels[: arguments.images]
    settings = {
        "method": "pgd",
        "eps": arguments.eps / 255,
        "step": arguments.eps / 4 / 255,
        "iterations": 50 if arguments.iterations is None else arguments.iterations,
        "restarts": 10 if arguments.restarts is None else arguments.restarts,
    }
    rows = []
    for row, size in itertools.product(arguments.rows, arguments.batch_sizes):
        model = published.load_weights(row, weights_of(arguments.published, row)).to(device)
        others = stored_verdicts(arguments.stored, row, len(labels))
        for precision in arguments.precision:
            figures, verdicts = evaluate(
                model, images, labels, settings, precision=precision, batch_size=size
            )
            robust = verdicts["robust"].bool()
            others = {**others, precision: others.get(precision, robust)}
            figures |= {"row": row, "asked_precision": precision, "versus": compared(robust, others)}
            rows.append(figures)
            print(published_line(figures), flush=True)
            if arguments.json:
                environment = records.environment(device)
                content = {"settings": settings, "environment": environment, "rows": rows}
                write_json(arguments.json, {"benchmark": "published attack", **content})


def weights_of(folder, row):
    """The file of a row of the thesis's table, by either name."""
    converted = folder / f"{row}.safetensors"
    return converted if converted.is_file() else folder / f"{PUBLISHED[row]}.safetensors"


def stored_verdicts(folder, row, count):
    """{"stored": (count,) bool} of an earlier run, or nothing."""
    paths = [] if folder is None else sorted(folder.glob(f"*pgd_{row}.npz"))
    if not paths:
        return {}
    return {"stored": torch.from_numpy(numpy.load(paths[0])["robust"][:count].astype(bool))}


def compared(robust, others):
    """How many are robust by other verdicts, and on how many images only these or only the others say so."""
    return {
        name: {
            "correct": int(other.sum()),
            "only_here": int((robust & ~other).sum()),
            "only_there": int((other & ~robust).sum()),
        }
        for name, other in others.items()
    }


def published_line(figures):
    versus = "; ".join(
        f"{name} {one['correct']} (only here {one['only_here']}, only there {one['only_there']})"
        for name, one in figures["versus"].items()
        if name != figures["asked_precision"]
    )
    return (
        f"{figures['row']:6} batch {figures['batch_size']:5}, steps in {figures['gradient_precision']}: "
        f"{figures['correct']} of {figures['examples']} robust, {figures['wall_seconds']:.2f} s, "
        f"{figures['queries']} queries{'; ' * bool(versus)}{versus}"
    )


class Case:
    """The model, the images, and what the attack is to be, for everyone."""

    def __init__(self, model, bytes_, labels, device, arguments):
        self.model, self.bytes, self.labels = model.eval(), bytes_.to(device), labels.to(device)
        self.images = self.bytes.float() / 255
        self.eps, self.step = arguments.eps / 255, arguments.eps / 4 / 255
        self.iterations, self.restarts = arguments.iterations, arguments.restarts
        self.batch_size, self.device = arguments.batch_size, device
        with torch.no_grad():
            self.clean_accuracy = (
                is_correct(predict(model, self.images, 64), self.labels).double().mean().item()
            )

    def batches(self):
        return zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)


def ours(case):
    """As the pipeline runs it, the check of every verdict on the network itself included."""
    settings = {
        "method": "pgd",
        "eps": case.eps,
        "step": case.step,
        "iterations": case.iterations,
        "restarts": case.restarts,
    }
    _, verdicts = evaluate(case.model, case.bytes, case.labels, settings, batch_size=case.batch_size)
    return verdicts["robust"].bool()


def ours_unfolded(case):
    """kafnets.attacks.pgd on the network as it is."""
    return pgd(
        case.model,
        case.images,
        case.labels,
        eps=case.eps,
        step=case.step,
        iterations=case.iterations,
        restarts=case.restarts,
        batch_size=case.batch_size,
    ).robust


def plain_loop(case):
    """The loop as papers' codes write it: every restart on every image, gradients through `backward`."""
    robust = []
    for images, labels in case.batches():
        with torch.no_grad():
            right = case.model(images).argmax(1) == labels
        for _ in range(case.restarts):
            delta = torch.empty_like(images).uniform_(-case.eps, case.eps)
            delta = ((images + delta).clamp(0, 1) - images).requires_grad_()
            for _ in range(case.iterations):
                functional.cross_entropy(case.model(images + delta), labels).backward()
                with torch.no_grad():
                    moved = (delta + case.step * delta.grad.sign()).clamp(-case.eps, case.eps)
                    delta.copy_((images + moved).clamp(0, 1) - images)
                    delta.grad.zero_()
            with torch.no_grad():
                right &= case.model(images + delta).argmax(1) == labels
        robust.append(right)
    case.model.zero_grad(set_to_none=True)
    return torch.cat(robust)


def with_torchattacks(case):
    """torchattacks: its own way to carry on with what still stands (MultiAttack)."""
    import torchattacks

    one = torchattacks.PGD(case.model, eps=case.eps, alpha=case.step, steps=case.iterations)
    attack = torchattacks.MultiAttack([one] * case.restarts) if case.restarts > 1 else one
    return judged(case, attack)


def with_foolbox(case):
    """foolbox: `repeat`."""
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=case.step, steps=case.iterations).repeat(case.restarts)
    wrapped = foolbox.PyTorchModel(case.model, bounds=(0, 1), device=case.device)
    return judged(case, lambda images, labels: attack(wrapped, images, labels, epsilons=case.eps)[1])


def with_adv_lib(case):
    """adv-lib: `pgd_linf` with restarts."""
    from adv_lib.attacks import pgd_linf

    def attack(images, labels):
        return pgd_linf(
            case.model,
            images,
            labels,
            ε=case.eps,
            steps=case.iterations,
            restarts=case.restarts,
            random_init=True,
            absolute_step_size=case.step,
        )

    return judged(case, attack)


def judged(case, attack):
    """The verdicts of a library's adversarial images."""
    robust = []
    for images, labels in case.batches():
        adversarial = attack(images, labels)
        with torch.no_grad():
            robust.append(
                (case.model(images).argmax(1) == labels) & (case.model(adversarial).argmax(1) == labels)
            )
    return torch.cat(robust)


def contestants():
    """Name -> function of a case, for all that is installed."""
    chosen = {"kafnets (pipeline)": ours, "kafnets.attacks.pgd": ours_unfolded, "plain loop": plain_loop}
    peers = (
        ("torchattacks", "torchattacks", with_torchattacks),
        ("foolbox", "foolbox", with_foolbox),
        ("adv-lib", "adv_lib.attacks", with_adv_lib),
    )
    for name, module, function in peers:
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
        else:
            chosen[name] = function
    return chosen


def measure(case, functions, repeats):
    """Everyone's times, in turns, after one turn that does not count."""
    seconds = {name: [] for name in functions}
    processor_seconds = {name: [] for name in functions}
    robust = {}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            torch.manual_seed(turn)
            synchronize(case.device)
            started, processor = time.perf_counter(), time.process_time()
            robust[name] = function(case)
            synchronize(case.device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
                processor_seconds[name].append(time.process_time() - processor)
    ours_first = next(iter(functions))
    return {
        name: {
            "seconds": seconds[name],
            "processor_seconds": processor_seconds[name],
            "median": statistics.median(seconds[name]),
            "median_processor": statistics.median(processor_seconds[name]),
            "times_ours": ratio(seconds, name, ours_first),
            "times_ours_processor": ratio(processor_seconds, name, ours_first),
            "robust_accuracy": robust[name].double().mean().item(),
        }
        for name in functions
    }


def ratio(times, name, ours_name):
    """The median time of one contestant over ours."""
    return statistics.median(times[name]) / statistics.median(times[ours_name])


def print_table(result):
    print(f"{'':24}{'median s':>10}{'x ours':>8}{'CPU s':>9}{'x ours':>8}{'robust':>9}")
    for name, row in result.items():
        clock = f"{row['median']:10.2f}{row['times_ours']:8.2f}"
        processor = f"{row['median_processor']:9.2f}{row['times_ours_processor']:8.2f}"
        print(f"{name:24}{clock}{processor}{row['robust_accuracy']:9.1%}")


def versions():
    found = {}
    for name in ("torch", "torchattacks", "foolbox", "adv-lib"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def train_a_minute(dataset, activation, eps, device, steps=60):
    """A network that an attack must work for: a few steps of fast adversarial training."""
    model = create_model("resnet20", activation=activation).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    network, method = Network(model), FBF(eps=eps, step=1.25 * eps)
    for _ in range(steps):
        rows = torch.randint(len(labels), (64,)).to(device)
        pixels, classes = images[rows].float() / 255, labels[rows]
        optimiser.zero_grad()
        method.update(network, pixels, classes, {}).loss.backward()
        optimiser.step()
    return model


if __name__ == "__main__":
    main()
