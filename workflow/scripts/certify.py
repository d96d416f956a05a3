"""Certifies one network at every image by one certificate: within which radius can its answer not change?

    python workflow/scripts/certify.py --model model.safetensors --data results/data/cifar10.safetensors \\
        --settings '{"method": "smoothing", "arguments": {"sigma": 0.25, "samples": 1000}}' \\
        --record smoothing.json --csv smoothing.csv

Killed at any moment and called again, it goes on with the image where it was.
"""

import argparse
from pathlib import Path

import torch
from kafnets.certification.entry import with_arguments
from kafnets.data.dataset import load
from kafnets.models import load_model
from kafnets.recording.certifications import certify_once
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve


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
    parser.add_argument("--batch-size", type=cli.positive, help="images per forward pass")
    parser.add_argument("--code", default="", help="its version: a checkpoint of another is not used")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=cli.positive, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = with_arguments(cli.settings_argument(arguments.settings))
    dataset = load(arguments.data, test_examples=settings.get("examples"))

    def facts():
        return {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": records.checksum_of_weights(arguments.model, arguments.model_record),
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


if __name__ == "__main__":
    cli.run(main)
