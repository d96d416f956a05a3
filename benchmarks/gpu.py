"""Everything that a GPU is still to show, in stages of at most ten minutes, into one folder.

    python -m benchmarks.gpu check kaf training     # a first call
    python -m benchmarks.gpu attack                 # a second one; without weights it says how to make them
    python -m benchmarks.gpu grid --minutes 9       # the thesis's grid: again and again, until it is complete
    python -m benchmarks.gpu table                  # what all calls so far have found

The folder is --output, else the environment's OUT, else results/benchmarks/gpu. The table comes last in every
call. The grid itself lies in --results; its records, histories and tables are copied into the folder.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from kafnets import KAF
from kafnets.activations.kaf import gpu
from kafnets.activations.kaf.functional import kaf
from kafnets.attacks import pgd, slots
from kafnets.evaluation.judge import IDENTITY
from kafnets.models import create_model
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import read_json, write_json
from kafnets.runtime.graphs import WARM_UP, computing_on
from kafnets.training.training import Training

from .training import BATCH, RATE, random_images, settings

ROOT = Path(__file__).parents[1]
STAGES = ("check", "kaf", "training", "attack", "grid", "table")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT") or "results/benchmarks/gpu")
    )
    parser.add_argument("--results", default="results", help="where the grid lies, made or not")
    parser.add_argument("--model", type=Path, help="for attack (default: the grid's ELU ResNet20)")
    parser.add_argument("--data", type=Path, help="prepared CIFAR-10 (default: the grid's)")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="for grid")
    parser.add_argument("--jobs", type=int, default=4, help="for grid: at a time on the GPU")
    parser.add_argument("--minutes", type=float, help="for grid: when to stop, to be called again")
    arguments = parser.parse_args()
    results = Path(arguments.results)
    arguments.model = arguments.model or results / "models/resnet20/elu/seed0/model.safetensors"
    arguments.data = arguments.data or results / "data/cifar10.safetensors"
    arguments.output.mkdir(parents=True, exist_ok=True)
    run = {"check": check, "kaf": kaf_kernels, "training": training, "attack": attack, "grid": grid}
    failed = [stage for stage in arguments.stages if stage in run and not run[stage](arguments)]
    print_table(arguments.output)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def check(arguments):
    """Do the kernels agree with the formula, and do both CUDA graphs work? The answers, one by one."""
    device = resolve("cuda")
    dtypes, layouts = ("float32", "bfloat16", "float16"), ("contiguous_format", "channels_last")
    found = {
        "triton_agrees": gpu.available(),
        "largest_errors": {
            f"{dtype} {layout}": kernel_error(device, getattr(torch, dtype), getattr(torch, layout))
            for dtype in dtypes
            for layout in layouts
        },
        "training_graphs": {precision: training_graph(device, precision) for precision in dtypes},
        "pgd_graph": pgd_graph(device),
    }
    write_json(
        arguments.output / "check.json",
        {"benchmark": "check", "environment": records.environment(device), **found},
    )
    return found["triton_agrees"] and found["pgd_graph"] and all(found["training_graphs"].values())


def kernel_error(device, dtype, layout):
    """The largest error of y, and of the gradients of x and alpha, over the largest value of each."""
    torch.manual_seed(0)
    layer = KAF(16, std=1.0, device=device)
    x, grad = (
        torch.randn(64, 16, 32, 32, device=device).mul(2).to(dtype).contiguous(memory_format=layout)
        for _ in range(2)
    )

    def computed(backend, dtype=None):
        given = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (x, layer.alpha)]
        fixed = [t.to(dtype or t.dtype) for t in (layer.dictionary, layer.bandwidth)]
        y = kaf(*given, *fixed, backend=backend)
        return [y, *torch.autograd.grad(y, given, grad.to(y.dtype))]

    pairs = zip(computed("triton"), computed("portable", torch.float64), strict=True)
    return [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs]


def training_graph(device, precision):
    """Whether a training step is captured and passes its trial."""
    one = Training(settings("kaf", precision), random_images(BATCH * (WARM_UP + 2)), device)
    with computing_on(device):
        for rows in one.batches.epoch(0):
            one.step(rows, RATE)
        one.check()
    return one.replayed.graph is not None


def pgd_graph(device):
    """Whether a PGD step is captured and passes its trial."""
    make, steps = slots.step_of, []

    def noted(*given):
        steps.append(make(*given))
        return steps[-1]

    slots.step_of = noted
    try:
        model = create_model("resnet20", "kaf").to(device).eval()
        images = random_images(256).train_images.to(device).float() / 255
        with torch.no_grad():
            labels = model(images).argmax(1)
        pgd(model, images, labels, eps=1e-6, step=1e-7, iterations=40, restarts=2, batch_size=256)
    finally:
        slots.step_of = make
    return any(getattr(step, "graph", None) is not None for step in steps)


def kaf_kernels(arguments):
    output = arguments.output / "kaf.json"
    return called("benchmarks.kaf", "--device", "cuda", "--repeats", "5", "--output", output)


def training(arguments):
    data = ["--data", arguments.data] if arguments.data.is_file() else []
    command = ["--device", "cuda", "--epochs", "4", "--jobs", "1", "2", "4", "8"]
    return called("benchmarks.training", *command, *data, "--output", arguments.output / "training.json")


def attack(arguments):
    missing = [str(path) for path in (arguments.model, arguments.data) if not path.is_file()]
    if missing:
        print(f"attack: make {' and '.join(missing)} first: make {' '.join(missing)}", file=sys.stderr)
        return False
    given = ["--device", "cuda", "--model", arguments.model, "--data", arguments.data, "--images", "2000"]
    command = [*given, "--iterations", "50", "--restarts", "10", "--batch-size", "1000", "--repeats", "3"]
    return called("benchmarks.attack", *command, "--json", arguments.output / "attack.json")


def grid(arguments):
    """The thesis's whole grid, or as much of it as there is time for; its records and tables come along."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(arguments.cores)]
    command += ["--resources", f"gpu={arguments.jobs}"]
    command += ["--config", "device=cuda", f"output={arguments.results}"]
    started, in_time, complete = time.perf_counter(), True, False
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        complete = process.wait(60 * arguments.minutes if arguments.minutes else None) == 0
    except subprocess.TimeoutExpired:
        in_time = False
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: trainings write checkpoints, and go on from them
        process.wait()
    results, copy = Path(arguments.results), arguments.output / "thesis"
    kept = ("models/**/record.json", "models/**/history.csv", "evaluations/**/*.json", "*.csv", "tables/*.*")
    for pattern in kept:
        for path in results.glob(pattern):
            target = copy / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    row = {"seconds": time.perf_counter() - started, "complete": complete, "jobs_at_a_time": arguments.jobs}
    path = arguments.output / "thesis.json"
    calls = [*(read_json(path)["calls"] if path.is_file() else []), row]
    write_json(path, {"benchmark": "thesis", "calls": calls})
    return complete or not in_time


def called(module, *command):
    """Whether such a benchmark ran to its end."""
    print(f"\n== {module}", flush=True)
    return subprocess.run([sys.executable, "-m", module, *map(str, command)], cwd=ROOT).returncode == 0


def print_table(folder):
    """A line for each figure in the folder."""
    print(f"\n== {folder}")
    for name, figures in FIGURES.items():
        path = folder / f"{name}.json"
        for figure, value in figures(read_json(path)) if path.is_file() else ():
            print(f"{name:10}{figure:54}{value}")
    for path in sorted(folder.glob("thesis/**/*.json")):
        record = read_json(path)
        if record.get("kind") in ("training", "evaluation"):
            cell = "/".join(str(record[name]) for name in IDENTITY if name in record)
            accuracy = record.get("accuracy", record.get("final", {}).get("clean_accuracy"))
            print(f"{'thesis':10}{cell:54}{record['wall_seconds']:.1f} s, accuracy {accuracy:.2%}")


def _check_figures(content):
    yield "Triton's kernels agree", content["triton_agrees"]
    for name, errors in content["largest_errors"].items():
        yield f"errors of y, grad x, grad alpha: {name}", " ".join(f"{error:.1e}" for error in errors)
    for name, works in content["training_graphs"].items():
        yield f"graph of a training step, {name}", works
    yield "graph of a PGD step", content["pgd_graph"]


def _kaf_figures(content):
    for row in content["rows"]:
        if row["contender"] == "kaf":
            size = "x".join(map(str, [row["batch"], *row["shape"]]))
            yield (
                f"kaf over SiLU, graph: {size} {row['layout']} {row['dtype']}",
                f"{row['graph_over_silu']:.2f}",
            )


def _training_figures(content):
    for row in content["contestants"]:
        yield row["contestant"], f"{row['step_ms']:.2f} ms a step, {row['times_ours']:.2f} x ours"
    for row in content["whole_epochs"]:
        yield f"whole epoch, {row['activation']}", f"{row['median']:.2f} s"
    for row in content["sharing"]:
        yield f"{row['jobs']} at a time", f"{row['seconds_per_model_epoch']:.2f} s a model and epoch"


def _attack_figures(content):
    for name, row in content["contestants"].items():
        yield (
            name,
            f"{row['median']:.2f} s, {row['times_ours']:.2f} x ours, {row['robust_accuracy']:.2%} robust",
        )


def _thesis_figures(content):
    calls = content["calls"]
    yield "grid", f"{sum(call['seconds'] for call in calls):.0f} s in {len(calls)} calls"
    yield "complete", calls[-1]["complete"]


FIGURES = {
    "check": _check_figures,
    "kaf": _kaf_figures,
    "training": _training_figures,
    "attack": _attack_figures,
    "thesis": _thesis_figures,
}


if __name__ == "__main__":
    cli.run(main)
