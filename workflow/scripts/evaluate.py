"""Judges one network by one attack.

    python workflow/scripts/evaluate.py --model model.safetensors --data results/data/cifar10.safetensors \\
        --settings '{"method": "pgd", "eps": "8/255", "step": "2/255", "iterations": 50, "restarts": 10}' \\
        --record pgd.json --verdicts pgd.safetensors
"""

import argparse
from pathlib import Path

import torch
from kafnets import cli, records
from kafnets.data import load
from kafnets.device import resolve
from kafnets.errors import UserError
from kafnets.evaluation import IDENTITY, AttackProgress, evaluate
from kafnets.files import alone, atomic_path, sha256, write_json
from kafnets.models import load_model
from kafnets.progress import line
from safetensors.torch import save


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
    parser.add_argument("--batch-size", type=positive, help="images per forward pass (no effect on verdicts)")
    parser.add_argument("--device", help="auto, cpu or cuda (default: the settings', else auto)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    device = resolve(arguments.device or settings.get("device", "auto"))
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
    with alone(arguments.record) as waited:
        facts = {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "model_sha256": weights_checksum(arguments.model, arguments.model_record),
            "source_sha256": {
                name: weights_checksum(*pair)
                for name, *pair in zip(names, arguments.sources, source_records, strict=True)
            },
        }
        if waited and records.tells_of(arguments.record, facts, {"verdicts_sha256": arguments.verdicts}):
            line("the other process has judged it")
        else:
            run(arguments, settings, dataset, device, facts)


def run(arguments, settings, dataset, device, facts):
    """Judges and writes; `facts` are what the record says of its inputs."""
    name = settings.get("attack", settings.get("method", "attack"))
    progress = AttackProgress(f"{name} on {arguments.model.parent}")
    started = records.now()
    figures, verdicts = evaluate(
        load_model(arguments.model, device),
        dataset.test_images,
        dataset.test_labels,
        settings,
        sources=[load_model(path, device) for path in arguments.sources],
        batch_size=arguments.batch_size or settings.get("batch_size"),
        progress=progress,
    )
    progress.close()
    line(
        f"{name}: accuracy {figures['accuracy']:.2%}, clean {figures['clean_accuracy']:.2%}, "
        f"{figures['examples']} images, {figures['wall_seconds']:.1f} s"
    )
    with atomic_path(arguments.verdicts) as temporary:
        temporary.write_bytes(save(verdicts))
    write_json(
        arguments.record,
        {
            "kind": "evaluation",
            **{key: settings.get(key) for key in IDENTITY},
            **figures,
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "environment": records.environment(device),
            "started": started,
            "finished": records.now(),
            **facts,
            "verdicts_sha256": sha256(arguments.verdicts),
        },
    )


def positive(text):
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def weights_checksum(weights, record):
    """The SHA-256 of the weights, which must be those of the record when there is one."""
    if record is not None:
        return records.of_weights(record, weights)["model_sha256"]
    if not weights.is_file():
        raise UserError(f"no such file of weights: {weights}")
    return sha256(weights)


if __name__ == "__main__":
    cli.run(main)
