"""How long a step of fast adversarial training takes: ours, and others, with the kernels that it launches.

    python -m benchmarks.training [--data cifar10.safetensors] [--fast-adversarial CHECKOUT --cifar10 FOLDER]

Everyone trains a ResNet20 with batches of 128, random crops and flips, in turns of so many steps, several
times over; the table shows medians, by the step and for an epoch of 50,000 images, and what one step
launches: kernels on a GPU (within CUDA graphs too), operators on the CPU. "ready" is what goes before the
first steady step: compilers, kernels' choice, the CUDA graph. "plain loop" is the loop of the FBF paper.
"eager loop" is the same training as a careful user writes it: data and crops on the device, channels-last,
mixed precision, no waiting; "compiled" the same with `torch.compile(network)`, on a GPU as one CUDA graph.
With --fast-adversarial (a checkout of locuslab/fast_adversarial) its own train_fgsm.py runs beside, with
this ResNet20 in the place of its network; apex, which it imports, is replaced by plain float32 where it is
not installed. With --epochs k, k epochs of `kafnets.training.train` are timed too: the monitor, the
checkpoint and the last, smaller batch included; the first also pays for compilers and the CUDA graph and is
left out of the median. With --jobs k so many processes share the device at the same time. Without --data
the images are random: they train nothing, but take as long.

Figures are written as they come; with --seconds nothing is begun that would end later, and the file says
what was left out.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from kafnets.data import load
from kafnets.evaluation.judge import synchronize
from kafnets.runtime import records
from kafnets.runtime.device import resolve
from kafnets.training.run import train

from .contestants import ARCHITECTURES, BATCH, RATE, Case, known, random_images, settings
from .measuring import Figures, launched
from .processes import CIFAR10_TRAIN, sharing

SLOW = ("compiled relu",)  # made ready when the others have been measured
DEFAULT = ("kafnets relu", "kafnets kaf", "eager loop relu", "compiled relu", "plain loop relu")


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    device = resolve(arguments.device)
    on_gpu = device.type == "cuda"
    count = arguments.images or (CIFAR10_TRAIN if on_gpu else 1024)
    dataset = load(arguments.data, train_examples=count) if arguments.data else random_images(count)
    steps = arguments.steps or (100 if on_gpu else count // arguments.batch)
    chosen = known(arguments.fast_adversarial, arguments.cifar10)
    names = arguments.contestants
    if names is None:
        names = [*DEFAULT, *[name for name in chosen if name.startswith("fast_adversarial")]]
    facts = {
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "images": count,
        "steps": steps,
        "environment": records.environment(device),
    }
    sections = ("contestants", "whole_epochs", "sharing")
    figures = Figures(arguments.output, "training", facts, sections, arguments.seconds)
    case = Case(dataset, device, arguments.precision, arguments.architecture, arguments.batch)
    measure({name: chosen[name] for name in names}, case, steps, arguments.repeats, figures)
    for activation in arguments.whole if arguments.epochs else ():
        whole_epochs(case, activation, arguments.epochs, figures)
    sharing(arguments.jobs, case, steps, figures)
    figures.finish()


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="prepared CIFAR-10 (safetensors); default: random images")
    parser.add_argument("--images", type=int, help="of an epoch (default: 1024, on a GPU 50,000)")
    parser.add_argument("--steps", type=int, help="of a turn (default: an epoch's, on a GPU 100)")
    parser.add_argument("--repeats", type=int, default=3, help="turns, after one that does not count")
    parser.add_argument("--seconds", type=float, help="nothing is begun that would end later")
    parser.add_argument("--contestants", nargs="*", choices=known(), metavar="NAME", help=", ".join(known()))
    parser.add_argument("--architecture", default="resnet20", choices=ARCHITECTURES)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--precision", default="bfloat16", help="on a GPU: float32, bfloat16, float16")
    parser.add_argument("--epochs", type=int, default=0, help="of a whole training, timed one by one")
    parser.add_argument("--whole", nargs="+", default=["relu", "kaf"], help="the activations for --epochs")
    parser.add_argument("--jobs", type=int, nargs="*", default=[], help="processes that share the device")
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
    return arguments


def measure(functions, case, steps, repeats, figures):
    """Everyone's turns, after one turn that does not count, as long as the time allows.

    Args:
        functions (dict): name -> function of the case that prepares a contestant.
        case (Case): what all train on.
        steps (int): of a turn.
        repeats (int): turns.
        figures (Figures): where the rows go.
    """
    contestants, first, seconds, counts = {}, {}, {}, {}
    quick = [name for name in functions if name not in SLOW]
    for names in (quick, [name for name in functions if name in SLOW]):
        for name in names:
            if figures.allows(name):
                started = time.perf_counter()
                contestants[name] = functions[name](case)
                timed(contestants[name].run, steps, case.device)
                first[name] = time.perf_counter() - started
                seconds[name] = {}
        if not seconds.keys() & set(names):
            continue
        for _ in range(repeats):
            turn = sum(map(len, seconds.values()))  # another number each time
            if not figures.allows("a turn of everyone", _longest(seconds)):
                break
            for name, contestant in contestants.items():
                seconds[name][turn] = timed(contestant.run, steps, case.device)
            figures.replace("contestants", rows(contestants, first, seconds, counts, steps))
    for name, contestant in contestants.items():
        if contestant.counted and seconds[name] and figures.allows(f"what a step of {name} launches"):
            counts[name] = launched(lambda run=contestant.run: run(1), case.device)
            figures.replace("contestants", rows(contestants, first, seconds, counts, steps))
    if contestants:
        print_table(figures.content["contestants"], case.device)


def timed(run, steps, device):
    synchronize(device)
    started = time.perf_counter()
    run(steps)
    synchronize(device)
    return time.perf_counter() - started


def _longest(seconds):
    """What another turn of everyone may take: as much as the longest of each so far."""
    return sum(max(times.values(), default=0.0) for times in seconds.values())


def rows(contestants, first, seconds, counts, steps):
    """A row for each contestant that has had a turn."""
    reference = seconds[next(iter(contestants))]
    found = []
    for name, contestant in contestants.items():
        if not seconds[name]:
            continue
        median = statistics.median(seconds[name].values())
        found.append(
            {
                "contestant": name,
                "seconds": [*seconds[name].values()],
                "median": median,
                "step_ms": 1e3 * median / steps,
                "epoch_of_50000_seconds": median / steps * (CIFAR10_TRAIN / BATCH),
                "times_ours": statistics.median(
                    taken / reference[turn] for turn, taken in seconds[name].items()
                ),
                "ready_seconds": max(first[name] - median, 0.0),
                "launched": counts.get(name),
                **contestant.facts,
            }
        )
    return found


def print_table(rows, device):
    print(f"{device}, torch {torch.__version__}, medians")
    print(f"{'':24}{'ms a step':>11}{'s / 50,000':>12}{'x ours':>8}{'ready s':>9}  launched a step")
    for row in rows:
        counts = ", ".join(f"{count} {what}" for what, count in (row["launched"] or {}).items())
        compiling = f"; compiled in {row['compile_seconds']:.1f} s" if "compile_seconds" in row else ""
        print(
            f"{row['contestant']:24}{row['step_ms']:11.2f}{row['epoch_of_50000_seconds']:12.2f}"
            f"{row['times_ours']:8.2f}{row['ready_seconds']:9.1f}  {counts}{compiling}",
            flush=True,
        )


def whole_epochs(case, activation, epochs, figures):
    """The seconds of each epoch of a training as the pipeline runs it, beside those of its steps alone."""
    named = {row["contestant"]: row for row in figures.content["contestants"]}
    step = named.get(f"kafnets {activation}")
    images = len(case.dataset.train_labels)
    steps_seconds = step["step_ms"] / 1e3 * -(-images // case.batch) if step else None
    what = f"{epochs} whole epochs, {activation}"
    if not figures.allows(what, epochs * (steps_seconds or 0.0)):
        return
    chosen = settings(activation, case.precision, case.architecture, case.batch)
    chosen["training"] |= {
        "epochs": epochs,
        "tail": {"epochs": 0, "learning_rate": RATE, "halve_every": 1},
        "monitor": {"eps": "8/255", "examples": 128, "iterations": 10, "every": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        _, history, _ = train(chosen, case.dataset, case.device, Path(folder) / "checkpoint")
    seconds = [row["seconds"] for row in history]
    row = {
        "activation": activation,
        "images": images,
        "seconds": seconds,
        "median": statistics.median(seconds[1:]),
        "steps_seconds": steps_seconds,
    }
    row["times_steps"] = row["median"] / steps_seconds if step else None
    figures.add("whole_epochs", row)
    beside = f", {row['times_steps']:.2f} x its steps" if step else ""
    print(f"a whole training, {activation}: {row['median']:.2f} s an epoch of {images:,}{beside}", flush=True)


if __name__ == "__main__":
    main()
