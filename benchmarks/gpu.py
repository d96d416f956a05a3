"""Everything that a GPU is still to show, in one call of under 8 minutes, into one folder.

    python -m benchmarks.gpu [--weights FOLDER] [--data cifar10.safetensors | --cifar10 cifar-10-batches-py]
    python -m benchmarks.gpu steps compiled         # some stages only
    python -m benchmarks.gpu table                  # what all calls so far have found, beside the targets

Each stage is a program of its own with a limit of time; figures are written as they come, and what a stage
has measured before it was stopped counts. The folder is --output, else the environment's OUT, else
results/benchmarks/gpu. --weights holds the thesis's networks (kafnets.published); without it the attack is
left out. --tiny does the same with the smallest sizes, on a CPU too, to see that it works.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from kafnets.runtime import cli
from kafnets.runtime.files import read_json, write_json

from . import targets

ROOT = Path(__file__).parents[1]
MINUTES = 7.8
GRACE = 5  # seconds to stop by itself
MARGIN = 8  # seconds of a stage's limit that its program does not plan with


class Stage(NamedTuple):
    """A program of benchmarks/ as it is called here.

    Args:
        program (str): the module's name.
        seconds (int): that it may take.
        arguments, tiny (str): its own, and those of --tiny instead.
        output (str): its option for the file to write.
        weights (str, optional): its option for the thesis's networks, which it needs.
        data (bool): whether it reads --data.
        limited (bool): whether it takes --seconds, to leave out by itself what there is no time for.
    """

    program: str
    seconds: int
    arguments: str = ""
    tiny: str = ""
    output: str = "--output"
    weights: str | None = None
    data: bool = False
    limited: bool = True


OURS = '"kafnets relu" "kafnets kaf" "kafnets swish"'
SMALL = "--architecture resnet8 --batch 8 --images 16 --steps 1 --repeats 1"
STORED = "results/reference/h200-2026-11-27/published"
STAGES = {
    "check": Stage("check", 90, tiny="--batch 2"),  # nearly all of it compiles
    "steps": Stage(
        "training",
        90,
        f'--contestants {OURS} "kafnets vgg relu" "eager loop relu" --epochs 3 --whole relu',
        f'{SMALL} --contestants "kafnets relu" "kafnets kaf" --epochs 2 --whole relu',
        data=True,
    ),
    "together": Stage(
        "together",
        70,
        "--trainings 8 1 4 2",  # what is aimed at comes first
        "--architecture resnet8 --batch 8 --steps 2 --trainings 1 2 --processes 1 2",
    ),
    "compiled": Stage(
        "training",
        85,
        '--contestants "kafnets relu" "compiled relu"',
        f'{SMALL} --contestants "kafnets relu" "eager loop relu"',
        data=True,
    ),
    "attack": Stage(
        "attack",
        88,
        f"--stored {STORED}",
        "--images 4 --iterations 2 --restarts 1 --rows relu",
        output="--json",
        weights="--published",
        data=True,
        limited=False,
    ),
    "kaf": Stage(
        "kaf", 45, "--repeats 3 --batch 128 --dtypes bfloat16", "--repeats 1 --batch 1 --layouts nchw"
    ),
}
# Not among those of a call without names: trainings as processes, which take turns on a GPU unless MPS runs.
ASKED_FOR = {
    "processes": Stage(
        "training", 85, "--contestants --jobs 1 2 4 8", f"{SMALL} --contestants --jobs 1 2", data=True
    ),
}


def main():
    arguments = parse()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    log = [*(read_json(output / "stages.json")["stages"] if (output / "stages.json").is_file() else [])]
    data = arguments.data if arguments.data.is_file() else None
    if arguments.cifar10 and "table" not in arguments.stages:
        data = prepare(arguments.cifar10)
    failed = []
    for name in arguments.stages or STAGES:
        if name == "table":
            continue
        left = 60 * arguments.minutes - (time.monotonic() - started)
        row = {"stage": name, "tiny": arguments.tiny, **run(name, arguments, data, left)}
        log.append(row)
        write_json(output / "stages.json", {"benchmark": "gpu", "stages": log})
        print(f"{name}: {row['came_of_it']}, {row['seconds']:.0f} s", flush=True)
        failed += [name] * (row["came_of_it"] == "failed")
    targets.print_table(output)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*STAGES, *ASKED_FOR, "table"]
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(names))
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT") or "results/benchmarks/gpu")
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of all stages (default {MINUTES})")
    parser.add_argument("--weights", type=Path, help="folder of the thesis's converted networks")
    parser.add_argument("--data", type=Path, default=Path("results/data/cifar10.safetensors"))
    parser.add_argument("--cifar10", type=Path, help="folder cifar-10-batches-py, in the place of --data")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, on any device")
    parser.add_argument("--device", help="default: cuda; with --tiny cpu")
    arguments = parser.parse_args()
    for name in arguments.stages:
        if name not in names:
            parser.error(f"{name}: not a stage; write one of {', '.join(names)}")
    arguments.device = arguments.device or ("cpu" if arguments.tiny else "cuda")
    return arguments


def prepare(folder):
    """CIFAR-10 as the stages read it; not among the figures, which are to be carried away."""
    data = ROOT / "results" / "benchmarks" / "cifar10.safetensors"
    if not data.is_file():
        data.parent.mkdir(parents=True, exist_ok=True)
        script = ROOT / "workflow" / "scripts" / "prepare_data.py"
        command = [sys.executable, script, "--dataset", "cifar10", "--source", folder]
        command += ["--output", data, "--record", data.with_suffix(".json")]
        subprocess.run(command, check=True, timeout=120)
    return data


def run(name, arguments, data, left):
    """Runs a stage within the time left.

    Returns:
        dict: `came_of_it` ("done", "failed", "stopped" at its limit, "left out" and why), and `seconds`.
    """
    stage = {**STAGES, **ASKED_FOR}[name]
    reason = why_not(stage, arguments, data, left)
    if reason:
        return {"came_of_it": f"left out: {reason}", "seconds": 0.0}
    limit = min(stage.seconds, left)
    started = time.monotonic()
    process = subprocess.Popen(command(name, stage, arguments, data, limit), cwd=ROOT, start_new_session=True)
    try:
        came_of_it = "failed" if process.wait(limit) else "done"
    except subprocess.TimeoutExpired:
        came_of_it = "stopped"
    stop(process)
    return {"came_of_it": came_of_it, "seconds": time.monotonic() - started}


def why_not(stage, arguments, data, left):
    if not (ROOT / "benchmarks" / f"{stage.program}.py").is_file():
        return f"there is no benchmarks/{stage.program}.py"
    if stage.weights and not (arguments.weights and data):
        return "give --weights, and --data or --cifar10"
    if left < 2 * MARGIN:
        return "the time is over"
    return None


def command(name, stage, arguments, data, limit):
    """The command line of a stage."""
    words = [sys.executable, "-m", f"benchmarks.{stage.program}", "--device", arguments.device]
    words += [stage.output, str((arguments.output / f"{name}.json").resolve())]
    words += shlex.split(stage.tiny if arguments.tiny else stage.arguments)
    if stage.limited:
        words += ["--seconds", f"{limit - MARGIN:.0f}"]
    if stage.weights:
        words += [stage.weights, str(arguments.weights.resolve())]
    if stage.data and data and (stage.weights or not arguments.tiny):
        words += ["--data", str(data.resolve())]
    return words


def stop(process):
    """Ends the stage and what it started; nothing where it has ended."""
    for number, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    cli.run(main)
