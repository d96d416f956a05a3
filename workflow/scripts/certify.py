"""Certifies one network at every image by one certificate: within which radius can its answer not change?

    python workflow/scripts/certify.py --model model.safetensors --data results/data/cifar10.safetensors \\
        --settings '{"method": "smoothing", "arguments": {"sigma": 0.25, "samples": 1000}}' \\
        --record smoothing.json --csv smoothing.csv

Killed at any moment and called again, it goes on with the image where it was.
"""

import argparse
import csv
from pathlib import Path

import torch
from kafnets.activations import active_backend
from kafnets.attacks.base import default_batch_size
from kafnets.certification.certify import Memory, Progress, certify
from kafnets.data.dataset import load
from kafnets.evaluation.judge import in_memory
from kafnets.models import load_model
from kafnets.runtime import checkpoint, cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import alone, atomic_path, sha256, write_json
from kafnets.runtime.interruption import Interrupted, SignalFlag
from kafnets.runtime.progress import line

# Of the settings, what says which cell of the grid it is.
IDENTITY = ("experiment", "activation", "seed", "certificate", "method")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="weights (safetensors)")
    parser.add_argument("--model-record", type=Path, help="the training's record, to verify the weights with")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--record", required=True, type=Path, help="written: figures, cost, environment")
    parser.add_argument("--csv", required=True, type=Path, help="written: a row an image")
    parser.add_argument("--batch-size", type=int, help="images per forward pass")
    parser.add_argument("--code", default="", help="its version: a checkpoint of another is not used")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    dataset = load(arguments.data, test_examples=settings.get("examples"))
    with alone(arguments.record) as waited:
        facts = {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": _checksum(arguments.model, arguments.model_record),
        }
        if records.is_made(arguments.record, facts, {"csv_sha256": arguments.csv}, waited):
            line("the other process has made it" if waited else f"{arguments.record}: made already")
            checkpoint.discard(checkpoint.beside(arguments.record, "any"))
            return 0
        device = resolve(arguments.device)
        backend = active_backend(settings.get("activation"), device)
        name = checkpoint.fingerprint({**facts, "device": device.type, "kaf_backend": backend})
        path = checkpoint.beside(arguments.record, name)
        with SignalFlag() as stop:
            try:
                run(arguments, settings, dataset, device, facts, Memory(path, name, stop))
            except Interrupted as signal_name:
                line(f"stopped by {signal_name}; the same command goes on from {path}")
                return signal_name.exit_code
        checkpoint.discard(path)
        return 0


def run(arguments, settings, dataset, device, facts, memory):
    """Certifies and writes; `facts` are what the record says of its inputs."""
    name = settings.get("certificate", settings.get("method", "certificate"))
    progress = Progress(f"{name} of {arguments.model.parent}")
    model, started = load_model(arguments.model, device), records.now()
    (figures, columns), batch_size = in_memory(
        lambda size: certify(
            model,
            dataset.test_images,
            dataset.test_labels,
            settings.get("method"),
            settings.get("arguments", {}),
            batch_size=size,
            progress=progress,
            memory=memory,
        ),
        arguments.batch_size or default_batch_size(device),
    )
    progress.close()
    line(
        f"{name}: right at {figures['accuracy']:.2%} of {figures['examples']} images, average radius "
        f"{figures['average_radius']:.4f} ({figures['norm']}), abstained from {figures['abstained']}, "
        f"{figures['seconds_per_image']:.2f} s an image"
    )
    write_images(arguments.csv, dataset.test_labels, columns)
    write_json(
        arguments.record,
        {
            "kind": "certification",
            **{key: settings.get(key) for key in IDENTITY},
            **figures,
            "batch_size": batch_size,
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "environment": records.environment(device),
            "started": started,
            "finished": records.now(),
            **facts,
            "csv_sha256": sha256(arguments.csv),
        },
    )


def write_images(path, labels, columns):
    """A row an image: its number, its label, and what :func:`kafnets.certification.certify.certify` says."""
    rows = zip(*(values.tolist() for values in (labels, *columns.values())), strict=True)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", *columns])
        writer.writerows([number, *row] for number, row in enumerate(rows))


def _checksum(weights, record):
    """The SHA-256 of the weights, which must be those of the record when there is one."""
    return sha256(weights) if record is None else records.of_weights(record, weights)["model_sha256"]


if __name__ == "__main__":
    cli.run(main)
