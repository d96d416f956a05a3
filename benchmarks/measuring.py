"""What the benchmarks share: figures that are written as they come, a limit of time, a count of kernels."""

import collections
import json
import tempfile
import time
from pathlib import Path

import torch
from kafnets.evaluation.judge import synchronize
from kafnets.runtime.files import write_json


class Figures:
    """A benchmark's figures in a JSON file, written anew with each, so that a stop leaves what was measured.

    Args:
        path (Path): the file.
        benchmark (str): its name.
        facts (dict): of the environment, the settings and the like.
        sections (sequence of str): lists of figures, empty at first.
        seconds (float, optional): no figure is begun later than this after the start; default: no limit.
    """

    def __init__(self, path, benchmark, facts, sections, seconds=None):
        self.path, self.seconds, self.started = path, seconds, time.monotonic()
        self.content = {"benchmark": benchmark, **facts, **{name: [] for name in sections}}
        self.content |= {"cut_short": [], "complete": False}
        self.write()

    def left(self):
        """Seconds until the limit."""
        return float("inf") if self.seconds is None else self.started + self.seconds - time.monotonic()

    def allows(self, what, seconds=0.0):
        """Whether there is time for `what`, which takes so many seconds; if not, that is noted and said."""
        if self.left() > seconds:
            return True
        self.leave_out(what, f"{self.seconds:g} s are not enough")
        return False

    def leave_out(self, what, reason):
        """Notes and says that something was not measured."""
        self.content["cut_short"].append(f"{what}: {reason}")
        print(f"left out: {what}: {reason}", flush=True)
        self.write()

    def add(self, section, row):
        self.content[section].append(row)
        self.write()

    def replace(self, section, rows):
        self.content[section] = rows
        self.write()

    def finish(self):
        """Says that the program came to its end (`cut_short` tells whether it left something out)."""
        self.content["complete"] = True
        self.write()
        if self.content["cut_short"]:
            print(f"cut short: {'; '.join(self.content['cut_short'])}")
        print(f"written to {self.path}")

    def write(self):
        write_json(self.path, self.content)


def launched(function, device):
    """What one call of `function` runs, counted by torch's profiler.

    Returns:
        dict: on a GPU `kernels` (within CUDA graphs too), `copies` and `fills` of memory; elsewhere
        `operators`, those within other operators included.
    """
    kinds = {"kernel": "kernels", "gpu_memcpy": "copies", "gpu_memset": "fills"}
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    else:
        kinds = {"cpu_op": "operators"}
    for _ in range(2):  # the first time the profiler itself is set up
        synchronize(device)
        with torch.profiler.profile(activities=activities, acc_events=True) as profile:
            function()
            synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    counts = collections.Counter(event.get("cat") for event in events)
    return {name: counts[kind] for kind, name in kinds.items()}
