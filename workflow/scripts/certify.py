"""Certifies one network at every image by one certificate: within which radius can its answer not change?

    python workflow/scripts/certify.py --model model.safetensors --data results/data/cifar10.safetensors \\
        --settings '{"method": "smoothing", "arguments": {"sigma": 0.25, "samples": 1000}}' \\
        --record smoothing.json --csv smoothing.csv

Killed at any moment and called again, it goes on with the image where it was.
"""

import argparse
from pathlib import Path

import torch
from kafnets.data.dataset import load
from kafnets.models import load_model
from kafnets.recording.certifications import certify_once
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import sha256


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

    def facts():
        return {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": _checksum(arguments.model, arguments.model_record),
        }

    return certify_once(
        lambda device: load_model(arguments.model, device),
        dataset,
        settings,
        facts,
        arguments.record,
        arguments.csv,
        lambda: resolve(arguments.device),
        title=arguments.model.parent,
        batch_size=arguments.batch_size,
    )


def _checksum(weights, record):
    """The SHA-256 of the weights, which must be those of the record when there is one."""
    return sha256(weights) if record is None else records.of_weights(record, weights)["model_sha256"]


if __name__ == "__main__":
    cli.run(main)
