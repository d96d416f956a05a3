"""What a grid costs before its first job: the time and memory of planning it (`snakemake -n`).

    python -m benchmarks.grid [--trainings 150 1005] [--target all] [--repeats 3]

The grid is config.yaml's with more seeds: 15 trainings for each (the target `models`), with their 45
evaluations, tables and plots (`all`). The processor's time stands beside the clock's, for machines that
others use too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "scripts"))

from kafnets.runtime import records
from kafnets.runtime.files import write_json

ROOT = Path(__file__).parents[1]
CELLS_PER_SEED = 15


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", type=int, nargs="+", default=[150, 1005], help="multiples of 15")
    parser.add_argument("--target", default="all", help="a target rule: all (default), models, evaluations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/grid.json"))
    arguments = parser.parse_args()
    rows = []
    print(f"{'trainings':>10}{'jobs':>8}{'seconds':>9}{'CPU s':>8}{'ms a job':>10}{'MiB':>7}")
    for trainings in arguments.trainings:
        runs = [plan(trainings, arguments.target) for _ in range(arguments.repeats)]
        row = {"target": arguments.target, "trainings": trainings, "jobs": runs[0]["jobs"], "runs": runs}
        for name in ("seconds", "processor_seconds", "peak_mebibytes"):
            row[name] = statistics.median(run[name] for run in runs)
        rows.append(row)
        print(
            f"{trainings:10,}{row['jobs']:8,}{row['seconds']:9.1f}{row['processor_seconds']:8.1f}"
            f"{1000 * row['processor_seconds'] / row['jobs']:10.2f}{row['peak_mebibytes']:7.0f}",
            flush=True,
        )
    write_json(arguments.output, {"benchmark": "grid", "environment": records.environment(), "rows": rows})
    print(f"written to {arguments.output}")


def plan(trainings, target):
    """One dry run of a grid of so many trainings, of which nothing is there yet."""
    seeds = list(range(trainings // CELLS_PER_SEED))
    command = [sys.executable, "-m", "snakemake", target, "-n", "--cores", "8", "--quiet", "rules"]
    command += ["--config", f"seeds={seeds}", "output=results/benchmarks/planned"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", cwd=ROOT
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"planning failed:\n{output[-2000:]}")
    jobs = [int(line.split()[1]) for line in output.splitlines() if line.startswith("total ")]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mebibytes": usage.ru_maxrss / unit,
        "jobs": jobs[0],
    }


if __name__ == "__main__":
    main()
