"""Trains one network of the grid.

    python workflow/scripts/train.py --settings run.yaml --data results/data/cifar10.safetensors \\
        --model model.safetensors --history history.csv --record record.json

Killed at any moment and called again, it goes on where it was.
"""

import argparse
import csv
import os
from pathlib import Path

import torch
from kafnets.data.dataset import load
from kafnets.models import save_model
from kafnets.runtime import checkpoint, cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import alone, atomic_path, sha256, write_json
from kafnets.runtime.interruption import Interrupted
from kafnets.training.monitor import catastrophic_overfitting
from kafnets.training.run import run_fingerprint, train

# Set where Snakemake may throw a finished training away with others that fail: it is then written again.
KEEP_CHECKPOINT = "KAFNETS_KEEP_CHECKPOINT"
LAST_WEIGHTS = "last.safetensors"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--model", required=True, type=Path, help="written: the weights")
    parser.add_argument("--history", required=True, type=Path, help="written: one row an epoch")
    parser.add_argument("--record", required=True, type=Path, help="written: what was done, where, how long")
    parser.add_argument("--code", default="", help="its version: a checkpoint of another is not used")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; weights are equal for equal threads"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    dataset = load(arguments.data, train_examples=settings["train_examples"])
    facts = {"settings": settings, "data_sha256": dataset.sha256, "code": arguments.code}
    files = {"model_sha256": arguments.model, "history_sha256": arguments.history}
    keep = bool(os.environ.get(KEEP_CHECKPOINT))
    with alone(arguments.record) as waited:
        if records.is_made(arguments.record, facts, files, waited):
            print("the other process has trained it" if waited else f"{arguments.record}: trained already")
            if not keep:
                checkpoint.discard(checkpoint.beside(arguments.record, "any"))
            return 0
        device = resolve(arguments.device)
        name = run_fingerprint(settings, dataset, device, arguments.code)
        checkpoint_path = checkpoint.beside(arguments.record, name)
        code = run(arguments, settings, dataset, device, checkpoint_path)
        if code == 0:
            checkpoint.discard(checkpoint_path, keep)
        return code


def run(arguments, settings, dataset, device, checkpoint_path):
    """Trains and writes; the exit code."""
    started = records.now()
    try:
        model, history, facts = train(settings, dataset, device, checkpoint_path, code=arguments.code)
    except Interrupted as signal_name:
        print(f"stopped by {signal_name}; the same command goes on from {checkpoint_path}")
        return signal_name.exit_code
    save_model(model, arguments.model)
    selection = {} if facts["selection"] is None else {"selection": facts["selection"]}
    if facts["last"] is not None:  # the last epoch's own weights, beside those that were chosen
        last = arguments.model.with_name(LAST_WEIGHTS)
        model.load_state_dict(facts["last"])
        save_model(model, last)
        selection["selection"]["last_sha256"] = sha256(last)
    write_history(arguments.history, history)
    write_json(
        arguments.record,
        {
            "kind": "training",
            **{name: settings[name] for name in ("experiment", "activation", "seed")},
            "settings": settings,
            "environment": {**records.environment(device), "kaf_backend": facts["kaf_backend"]},
            "started": started,
            "finished": records.now(),
            "wall_seconds": facts["seconds"],
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "parameters": facts["parameters"],
            "final": history[-1],
            "catastrophic_overfitting": catastrophic_overfitting(
                history, facts["probe_examples"], facts["single_step"]
            ),
            **selection,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": sha256(arguments.model),
            "history_sha256": sha256(arguments.history),
        },
    )
    return 0


def write_history(path, history):
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


if __name__ == "__main__":
    cli.run(main)
