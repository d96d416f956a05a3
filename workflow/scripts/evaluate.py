"""Judges one network by one attack.

    python workflow/scripts/evaluate.py --model model.safetensors --data results/data/cifar10.safetensors \\
        --settings '{"method": "pgd", "eps": "8/255", "step": "2/255", "iterations": 50, "restarts": 10}' \\
        --record pgd.json --verdicts pgd.safetensors

Killed at any moment and called again, the attacks `pgd` and `thesis_pgd` go on where they were.
"""

import argparse
from pathlib import Path

import torch
from kafnets.data.dataset import load
from kafnets.models import load_model
from kafnets.recording.evaluations import judge_once
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.errors import UserError


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="weights (safetensors)")
    parser.add_argument("--model-record", type=Path, help="the training's record, to verify the weights with")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument(
        "--sources",
        nargs="*",
        type=Path,
        default=[],
        help="weights of the other models that the attack uses, in the order of the settings' sources",
    )
    parser.add_argument(
        "--source-records", nargs="*", type=Path, default=[], help="the records of --sources, in their order"
    )
    parser.add_argument("--record", required=True, type=Path, help="written: figures, cost, environment")
    parser.add_argument("--verdicts", required=True, type=Path, help="written: one verdict per image")
    parser.add_argument(
        "--batch-size", type=cli.positive, help="images per forward pass (no effect on verdicts)"
    )
    parser.add_argument("--code", default="", help="its version: a checkpoint of another is not used")
    parser.add_argument("--device", help="auto, cpu or cuda (default: the settings', else auto)")
    parser.add_argument("--threads", type=cli.positive, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    names = settings.get("sources", [])
    if len(names) != len(arguments.sources):
        raise UserError(
            f"--sources: expected the weights of {', '.join(names) or 'no model'}, found "
            f"{len(arguments.sources)} files; write one for each of the settings' sources, in their order"
        )
    if len(arguments.source_records) not in (0, len(names)):
        raise UserError(
            f"--source-records: expected {len(names)} files, found {len(arguments.source_records)}; "
            "write one for each of --sources, in their order"
        )
    source_records = arguments.source_records or [None] * len(names)
    dataset = load(arguments.data, test_examples=settings.get("test_examples"))

    def facts():
        return {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": records.checksum_of_weights(arguments.model, arguments.model_record),
            "source_sha256": {
                name: records.checksum_of_weights(*pair)
                for name, *pair in zip(names, arguments.sources, source_records, strict=True)
            },
        }

    def networks(device):
        return load_model(arguments.model, device), [load_model(path, device) for path in arguments.sources]

    return judge_once(
        networks,
        dataset,
        settings,
        facts,
        arguments.record,
        arguments.verdicts,
        lambda: resolve(arguments.device or settings.get("device", "auto")),
        title=arguments.model.parent,
        batch_size=arguments.batch_size,
    )


if __name__ == "__main__":
    cli.run(main)
