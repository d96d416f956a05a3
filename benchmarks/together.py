"""How long a step takes when k trainings share a device: in one process, in turns, and in a process each.

    python -m benchmarks.together [--activation relu] [--jobs 1 2 4 8] [--steps 200] [--only process]

The table shows milliseconds by the step of one network: the time from when all are ready until all are done,
divided by all their steps. In one process every training has a stream, a CUDA graph and random numbers of its
own, as in the pipeline (workflow/scripts/together.py). For processes under MPS start its daemon first.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from kafnets.evaluation.judge import synchronize
from kafnets.runtime import records, turns
from kafnets.runtime.device import resolve
from kafnets.runtime.files import write_json
from kafnets.runtime.graphs import WARM_UP, computing_on, wait_for
from kafnets.runtime.side_by_side import side_by_side
from kafnets.training.training import Training

from .training import BATCH, RATE, random_images, settings

READY = WARM_UP + 5  # steps before the clock starts: compilers, and the graph


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--precision", default="bfloat16", help="on a GPU: float32, bfloat16, float16")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batches", type=int, default=16, help="of the random images")
    parser.add_argument("--only", choices=["process", "processes"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="written: the table, hardware, versions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"process": in_one_process, "processes": in_a_process_each}
    rows = []
    print(f"{'jobs':>4}  {'':9}  ms a step of one network", flush=True)
    for jobs in arguments.jobs:
        for kind in [arguments.only] if arguments.only else kinds:
            seconds = kinds[kind](jobs, arguments)
            rows.append({"jobs": jobs, "kind": kind, "step_seconds": seconds / jobs / arguments.steps})
            print(f"{jobs:4}  {kind:9}  {rows[-1]['step_seconds'] * 1000:.3f}", flush=True)
    if arguments.json:
        facts = {name: value for name, value in vars(arguments).items() if name != "json"}
        environment = records.environment(resolve(arguments.device))
        write_json(
            arguments.json, {"benchmark": "together", **facts, "environment": environment, "rows": rows}
        )


def in_one_process(jobs, arguments):
    """Seconds from when all are ready until all are done."""
    device = resolve(arguments.device)
    ready, times = [], []

    def all_ready():
        ready.append(True)
        turns.until(lambda: len(ready) == jobs)
        times.append(time.perf_counter())

    def job(seed):
        steps(arguments, device, seed, all_ready)
        times.append(time.perf_counter())

    for error in side_by_side([lambda seed=seed: job(seed) for seed in range(jobs)], device):
        if error is not None:
            raise error
    return max(times) - min(times)


def in_a_process_each(jobs, arguments):
    """The same of processes, each of which makes its own network."""
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(jobs), context.SimpleQueue()
    crowd = [
        context.Process(target=one_process, args=(arguments, seed, barrier, times)) for seed in range(jobs)
    ]
    for process in crowd:
        process.start()
    found = []
    for process in crowd:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")
    while not times.empty():
        found += times.get()
    return max(found) - min(found)


def one_process(arguments, seed, barrier, times):
    torch.set_num_threads(1)
    device, clock = resolve(arguments.device), []

    def all_ready():
        synchronize(device)
        barrier.wait(300)
        clock.append(time.perf_counter())  # of the machine, the same in all processes

    steps(arguments, device, seed, all_ready)
    times.put([*clock, time.perf_counter()])


def steps(arguments, device, seed, all_ready):
    """The steps of one training; `all_ready` is called after those that get it ready."""
    dataset = random_images(arguments.batches * BATCH)
    run = {**settings(arguments.activation, arguments.precision), "seed": seed}
    with computing_on(device):
        training = Training(run, dataset, device)
        for number, rows in enumerate(endless(training, READY + arguments.steps)):
            if number == READY:
                wait_for(device)
                all_ready()
            training.step(rows, RATE)
            turns.give_way()
        wait_for(device)
        training.check()


def endless(training, count):
    """The rows of so many whole batches, epoch after epoch."""
    epoch = 0
    while count > 0:
        for rows in training.batches.epoch(epoch):
            if count > 0:
                yield rows
            count -= 1
        epoch += 1


if __name__ == "__main__":
    main()
