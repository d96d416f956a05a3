"""Measures the evaluation card of one network: can its robustness be believed?

    python workflow/scripts/card.py --model model.safetensors --model-record record.json \\
        --data results/data/cifar10.safetensors --settings card.json \\
        --record card_of_it.json --tensors card_of_it.safetensors
"""

import argparse
import time
from pathlib import Path

import torch
from kafnets.attacks.base import default_batch_size
from kafnets.data.dataset import load
from kafnets.diagnostics import card, checks
from kafnets.evaluation.judge import in_memory
from kafnets.models import load_model
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import alone, atomic_path, sha256, write_json
from kafnets.runtime.progress import line
from safetensors.torch import save


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="weights (safetensors)")
    parser.add_argument("--model-record", required=True, type=Path, help="the record of these weights")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--sources", nargs="*", default=[], help="networks whose adversarial examples to try")
    parser.add_argument("--source-records", nargs="*", default=[], help="their records, in their order")
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--record", required=True, type=Path, help="written: figures and checks")
    parser.add_argument("--tensors", required=True, type=Path, help="written: what the pictures show")
    parser.add_argument("--batch-size", type=int, help="images per forward pass")
    parser.add_argument("--code", default="", help="its version: a card that it made is not made again")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    if len(arguments.sources) != len(arguments.source_records):
        raise UserError(
            f"--source-records: expected {len(arguments.sources)} files, found "
            f"{len(arguments.source_records)}; write one for each of --sources, in their order"
        )
    with alone(arguments.record) as waited:
        model_record = records.of_weights(arguments.model_record, arguments.model)
        dataset = load(arguments.data, test_examples=settings.get("examples"))
        pairs = zip(arguments.sources, arguments.source_records, strict=True)
        facts = {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": model_record["model_sha256"],
            "source_sha256": [records.of_weights(record, source)["model_sha256"] for source, record in pairs],
        }
        if records.is_made(arguments.record, facts, {"tensors_sha256": arguments.tensors}, waited):
            line("the other process has made it" if waited else f"{arguments.record}: made already")
        else:
            run(arguments, settings, dataset, model_record, facts)


def run(arguments, settings, dataset, model_record, facts):
    """Measures and writes; `facts` are what the record says of its inputs."""
    device = resolve(arguments.device)
    model = load_model(arguments.model, device)
    started, clock = records.now(), time.perf_counter()
    images, labels = dataset.test_images, dataset.test_labels
    (figures, tensors), _ = in_memory(
        lambda size: card.measure(
            model, images, labels, settings["card"], arguments.sources, batch_size=size, note=line
        ),
        arguments.batch_size or default_batch_size(device),
    )
    judged = checks.judge(figures)
    for check in judged:
        images = f", {check['count']} images, {check['allowed']} allowed" if "count" in check else ""
        line(f"{'pass' if check['passed'] else 'FAIL'} {check['name']}: {check['figure']}{images}")
    with atomic_path(arguments.tensors) as temporary:
        temporary.write_bytes(save(tensors))
    write_json(
        arguments.record,
        {
            "kind": "card",
            **{key: settings[key] for key in ("experiment", "activation", "seed")},
            "training": _training(model_record["settings"]),
            "classes": list(dataset.classes),
            "sources": [str(source) for source in arguments.sources],
            "figures": figures,
            "checks": judged,
            "wall_seconds": time.perf_counter() - clock,
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "environment": records.environment(device),
            "started": started,
            "finished": records.now(),
            **facts,
            "tensors_sha256": sha256(arguments.tensors),
        },
    )


def _training(settings):
    """The adversary that a network was trained with, or whose weights it has."""
    return settings["training"]["adversary"]["name"] if "training" in settings else settings["weights"]


if __name__ == "__main__":
    cli.run(main)
