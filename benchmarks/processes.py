"""Trainings in processes of their own that share a device: how long a model's epoch takes with k of them.

The processes are started together, once; each makes its training ready, and then k of them take so many
steps at the same time while the others wait. On a GPU they take turns, unless NVIDIA's MPS runs.
"""

import multiprocessing
import time

import torch

from .contestants import BATCH, Case, ours, random_images

CIFAR10_TRAIN = 50_000
IMAGES = 16 * BATCH  # of each process: enough for the batches to differ
GRACE = 5  # seconds for a process to end by itself


def sharing(counts, case, steps, figures):
    """A row for each of `counts`, as it is measured; left out where too few get ready in time."""
    context = multiprocessing.get_context("spawn")
    workers = [_Worker(context, case) for _ in range(max(counts, default=0))]
    try:
        ready = [worker for worker in workers if worker.answers(figures.left())]
        for jobs in counts:
            if jobs > len(ready):
                figures.leave_out(f"{jobs} processes", f"{len(ready)} got ready")
            elif figures.allows(f"{jobs} processes"):
                seconds = _together(ready[:jobs], steps, figures.left())
                if seconds is not None:
                    _tell(figures, jobs, seconds, steps)
                else:
                    figures.leave_out(f"{jobs} processes", f"{steps} steps were not done in time")
                    break
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.reap()


def _together(workers, steps, limit):
    """The seconds until all have taken so many steps; None when that takes longer than `limit`."""
    started = time.monotonic()
    for worker in workers:
        worker.pipe.send(steps)
    in_time = all(worker.answers(started + limit - time.monotonic()) for worker in workers)
    return time.monotonic() - started if in_time else None


def _tell(figures, jobs, seconds, steps):
    model_step = seconds / steps / jobs
    row = {
        "jobs": jobs,
        "steps": steps,
        "model_step_ms": 1e3 * model_step,
        "seconds_per_model_epoch": model_step * CIFAR10_TRAIN / BATCH,
    }
    figures.add("sharing", row)
    print(
        f"{jobs} processes: {row['model_step_ms']:.2f} ms a model-step, "
        f"{row['seconds_per_model_epoch']:.2f} s a model and epoch of {CIFAR10_TRAIN:,}",
        flush=True,
    )


class _Worker:
    """A process with a training, and the pipe to it."""

    def __init__(self, context, case):
        self.pipe, theirs = context.Pipe()
        chosen = (case.device, case.precision, case.architecture, case.batch)
        self.process = context.Process(target=_work, args=(theirs, *chosen), daemon=True)
        self.process.start()
        self.ready = False
        theirs.close()

    def answers(self, seconds):
        """Whether it says so within so many seconds."""
        try:
            within = None if seconds == float("inf") else max(seconds, 0.0)
            self.ready = self.pipe.poll(within) and self.pipe.recv()
            return self.ready
        except EOFError:  # it died; its own words are above
            return False

    def end(self):
        """Lets it end, at once where it is not ready yet."""
        self.pipe.close()
        if not self.ready:
            self.process.kill()

    def reap(self):
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(pipe, device, *chosen):
    torch.set_num_threads(1)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    run = ours("relu")(Case(random_images(IMAGES), device, *chosen)).run
    run(8 if device.type == "cuda" else 1)  # compilers, the CUDA graph
    try:
        pipe.send(True)
        while True:
            run(pipe.recv())
            pipe.send(True)
    except (EOFError, OSError):
        return
