"""How long a step takes when k trainings share a device: in one process, in turns, and in a process each.

    python -m benchmarks.together [--activation relu] [--trainings 1 2 4 8] [--processes 1 2 4 8]

The table shows milliseconds by the step of one network: the time from when all are ready until all are done,
divided by all their steps. In one process every training has a stream, a CUDA graph and random numbers of its
own, as in the pipeline (workflow/scripts/together.py). Processes take turns on a GPU unless NVIDIA's MPS
runs: start its daemon first. Figures are written as they come; with --seconds nothing is begun that would
probably end later, and the file says what was left out.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch
from kafnets.runtime import records, turns
from kafnets.runtime.device import resolve
from kafnets.runtime.graphs import WARM_UP, computing_on, wait_for
from kafnets.runtime.side_by_side import side_by_side
from kafnets.training.training import Training

from .contestants import ARCHITECTURES, BATCH, RATE, Case, random_images, settings
from .measuring import Figures
from .processes import sharing

READY = WARM_UP + 5  # steps before the clock starts: compilers, and the graph
BATCHES = 16  # of the random images: enough for them to differ


def main():
    arguments = parse()
    torch.set_num_threads(1)
    device = resolve(arguments.device)
    chosen = {key: str(value) for key, value in vars(arguments).items()}
    facts = {"settings": chosen, "environment": records.environment(device)}
    figures = Figures(arguments.output, "together", facts, ("together", "sharing"), arguments.seconds)
    data = random_images(BATCHES * arguments.batch)
    case = Case(data, device, arguments.precision, arguments.architecture, arguments.batch)
    in_one_process(arguments.trainings, case, arguments.activation, arguments.steps, figures)
    sharing(arguments.processes, case, arguments.steps, figures)
    figures.finish()


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--activation", default="relu", help="of the trainings in one process")
    parser.add_argument("--precision", default="bfloat16", help="on a GPU: float32, bfloat16, float16")
    parser.add_argument("--architecture", default="resnet20", choices=ARCHITECTURES)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--trainings", type=int, nargs="*", default=[1, 2, 4, 8], help="in one process")
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="with a training each (relu)")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--seconds", type=float, help="nothing is begun that would end later")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/together.json"))
    return parser.parse_args()


def in_one_process(counts, case, activation, steps, figures):
    """A row for each of `counts`, as it is measured; left out where, by the last one, time is short."""
    each = 0.0  # seconds a training of the last count, with its getting ready
    for count in counts:
        if not figures.allows(f"{count} trainings in one process", each * count):
            continue
        started = time.monotonic()
        seconds = together(count, case, activation, steps)
        each = (time.monotonic() - started) / count
        row = {"trainings": count, "steps": steps, "model_step_ms": 1e3 * seconds / count / steps}
        figures.add("together", row)
        print(f"{count} trainings in one process: {row['model_step_ms']:.3f} ms a model-step", flush=True)


def together(count, case, activation, steps):
    """Seconds from when all trainings are ready until all are done.

    Raises:
        Exception: what has ended one of them; the others are not waited for.
    """
    ready, failed, times = [], [], []

    def all_ready():
        ready.append(True)
        turns.until(lambda: len(ready) == count or failed)
        if failed:
            raise SystemExit
        times.append(time.perf_counter())

    def job(seed):
        try:
            train(case, activation, seed, steps, all_ready)
        except Exception as error:
            failed.append(error)
        times.append(time.perf_counter())

    ended = side_by_side([lambda seed=seed: job(seed) for seed in range(count)], case.device)
    for error in [*failed, *filter(None, ended)]:
        raise error
    return max(times) - min(times)


def train(case, activation, seed, steps, all_ready):
    """The steps of one training; `all_ready` is called after those that get it ready."""
    run = {**settings(activation, case.precision, case.architecture, case.batch), "seed": seed}
    with computing_on(case.device):
        training = Training(run, case.dataset, case.device)
        for number, rows in enumerate(whole_batches(training, READY + steps)):
            if number == READY:
                wait_for(case.device)
                all_ready()
            training.step(rows, RATE)
            turns.give_way()
        wait_for(case.device)
        training.check()


def whole_batches(training, count):
    """The rows of so many, epoch after epoch; there are whole ones only (see BATCHES)."""
    epochs = (training.batches.epoch(number) for number in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(epochs), count)


if __name__ == "__main__":
    main()
