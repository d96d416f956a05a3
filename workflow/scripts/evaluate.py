"""Judges one network by one attack.

    python workflow/scripts/evaluate.py --model model.safetensors --data results/data/cifar10.safetensors \\
        --settings '{"method": "pgd", "eps": "8/255", "step": "2/255", "iterations": 50, "restarts": 10}' \\
        --record pgd.json --verdicts pgd.safetensors

Killed at any moment and called again, the attacks `pgd` and `thesis_pgd` go on where they were.
"""

import argparse
from pathlib import Path

import torch
from kafnets.activations import active_backend
from kafnets.data.dataset import load
from kafnets.evaluation.judge import IDENTITY, RESUMABLE, AttackProgress, Memory, evaluate
from kafnets.models import load_model
from kafnets.runtime import checkpoint, cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import MADE_BY, alone, atomic_path, sha256, write_json
from kafnets.runtime.graphs import own_stream
from kafnets.runtime.interruption import Interrupted, SignalFlag
from kafnets.runtime.progress import line
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
    parser.add_argument("--code", default="", help="its version: a checkpoint of another is not used")
    parser.add_argument("--device", help="auto, cpu or cuda (default: the settings', else auto)")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
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
    with alone(arguments.record) as waited:
        facts = {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": weights_checksum(arguments.model, arguments.model_record),
            "source_sha256": {
                name: weights_checksum(*pair)
                for name, *pair in zip(names, arguments.sources, source_records, strict=True)
            },
        }
        if records.is_made(arguments.record, facts, {"verdicts_sha256": arguments.verdicts}, waited):
            line("the other process has judged it" if waited else f"{arguments.record}: judged already")
            checkpoint.discard(checkpoint.beside(arguments.record, "any"))
            return 0
        device = resolve(arguments.device or settings.get("device", "auto"))
        if settings.get("method") not in RESUMABLE:  # a signal ends these at once
            run(arguments, settings, dataset, device, facts)
            return 0
        backend = active_backend(settings.get("activation"), device)
        name = checkpoint.fingerprint({**facts, "device": device.type, "kaf_backend": backend})
        checkpoint_path = checkpoint.beside(arguments.record, name)
        with SignalFlag() as stop:
            try:
                run(arguments, settings, dataset, device, facts, Memory(checkpoint_path, name, stop))
            except Interrupted as signal_name:
                line(f"stopped by {signal_name}; the same command goes on from {checkpoint_path}")
                return signal_name.exit_code
        checkpoint.discard(checkpoint_path)
        return 0


def run(arguments, settings, dataset, device, facts, memory=None):
    """Judges and writes; `facts` are what the record says of its inputs."""
    name = settings.get("attack", settings.get("method", "attack"))
    progress = AttackProgress(f"{name} on {arguments.model.parent}", memory)
    started = records.now()
    with own_stream(device):
        figures, verdicts = evaluate(
            load_model(arguments.model, device),
            dataset.test_images,
            dataset.test_labels,
            settings,
            sources=[load_model(path, device) for path in arguments.sources],
            batch_size=arguments.batch_size or settings.get("batch_size"),
            progress=progress,
            memory=memory,
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
        raise UserError(f"{weights}: no such file of weights; {MADE_BY}")
    return sha256(weights)


if __name__ == "__main__":
    cli.run(main)
