"""The thesis's whole grid on a GPU, or as much of it as there is time for; called again, it goes on.

    python -m benchmarks.thesis [--minutes 9] [--jobs 4] [--cores 16] [--output FOLDER]

The grid lies in --results. Its records, histories and tables are copied into the folder (default: the
environment's OUT, else results/benchmarks/gpu), beside thesis.json: the seconds of each call. To carry the
unfinished grid itself to another machine: workflow/scripts/pack_results.py.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from kafnets.runtime import cli
from kafnets.runtime.files import read_json, write_json

ROOT = Path(__file__).parents[1]
KEPT = ("models/**/record.json", "models/**/history.csv", "evaluations/**/*.json", "*.csv", "tables/*.*")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path(os.environ.get("OUT") or "results/benchmarks/gpu")
    )
    parser.add_argument("--results", default="results", help="where the grid lies, made or not")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--jobs", type=int, default=4, help="at a time on the GPU")
    parser.add_argument("--minutes", type=float, help="when to stop, to be called again")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "snakemake", "--cores", str(arguments.cores)]
    command += ["--resources", f"gpu={arguments.jobs}"]
    command += ["--config", "device=cuda", f"output={arguments.results}"]
    started, in_time, complete = time.monotonic(), True, False
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        complete = process.wait(60 * arguments.minutes if arguments.minutes else None) == 0
    except subprocess.TimeoutExpired:
        in_time = False
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: trainings write checkpoints, and go on from them
        process.wait()
    copy_texts(Path(arguments.results), arguments.output / "thesis")
    row = {"seconds": time.monotonic() - started, "complete": complete, "jobs_at_a_time": arguments.jobs}
    path = arguments.output / "thesis.json"
    calls = [*(read_json(path)["calls"] if path.is_file() else []), row]
    write_json(path, {"benchmark": "thesis", "calls": calls})
    state = "complete" if complete else "not complete: call it again" if not in_time else "failed"
    print(f"grid: {sum(call['seconds'] for call in calls):.0f} s in {len(calls)} calls, {state}")
    return 0 if complete or not in_time else 1


def copy_texts(results, folder):
    for pattern in KEPT:
        for path in results.glob(pattern):
            target = folder / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


if __name__ == "__main__":
    cli.run(main)
