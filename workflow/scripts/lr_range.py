"""Runs the learning-rate range test of one activation."""

import argparse
import csv
from pathlib import Path

import torch
from kafnets.data.dataset import load
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import alone, atomic_path, sha256, write_json
from kafnets.training.lr_range import lr_range, suggest


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--csv", required=True, type=Path, help="written: one row a step")
    parser.add_argument("--json", required=True, type=Path, help="written: the suggested range")
    parser.add_argument("--code", default="", help="its version: a test that it made is not made again")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    dataset = load(arguments.data, train_examples=settings["train_examples"])
    facts = {"settings": settings, "data_sha256": dataset.sha256, "code": arguments.code}
    with alone(arguments.json) as waited:
        if records.is_made(arguments.json, facts, {"csv_sha256": arguments.csv}, waited):
            print("the other process has made it" if waited else f"{arguments.json}: made already")
        else:
            run(arguments, settings, dataset, facts)


def run(arguments, settings, dataset, facts):
    """Tests and writes; `facts` are what the record says of its inputs."""
    device = resolve(arguments.device)
    rows = lr_range(settings, dataset, device)
    with atomic_path(arguments.csv) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["step", "learning_rate", "loss", "smoothed_loss"])
        writer.writeheader()
        writer.writerows(rows)
    write_json(
        arguments.json,
        {
            "kind": "lr_range",
            **{name: settings[name] for name in ("experiment", "activation", "seed")},
            "environment": records.environment(device),
            "finished": records.now(),
            "suggested": suggest(rows),
            **facts,
            "csv_sha256": sha256(arguments.csv),
        },
    )


if __name__ == "__main__":
    cli.run(main)
