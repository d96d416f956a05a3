"""Judges one detector by one attack: what it says of every test image, clean and attacked.

    python workflow/scripts/detect.py --settings attack.json \\
        --model model.safetensors --model-record record.json --detector metzen.safetensors \\
        --detector-record metzen.json --data results/data/cifar10.safetensors \\
        --record orthogonal.json --csv orthogonal.csv
"""

import argparse
import csv
from pathlib import Path

import torch
from kafnets.attacks.base import default_batch_size
from kafnets.data.dataset import load
from kafnets.detection.judge import COLUMNS, judge, split
from kafnets.detection.saving import load_detector
from kafnets.evaluation.judge import AttackProgress, in_memory
from kafnets.models import load_model
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import MADE_BY, alone, atomic_path, read_json, sha256, write_json
from kafnets.runtime.progress import line


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--model", required=True, type=Path, help="weights of the network (safetensors)")
    parser.add_argument("--model-record", required=True, type=Path, help="the record of these weights")
    parser.add_argument("--detector", required=True, type=Path, help="the detector (safetensors)")
    parser.add_argument("--detector-record", required=True, type=Path, help="its record")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--record", required=True, type=Path, help="written: figures, cost, environment")
    parser.add_argument(
        "--csv", required=True, type=Path, help="written: answers and scores, a line an image"
    )
    parser.add_argument("--batch-size", type=int, help="images per forward pass")
    parser.add_argument("--code", default="", help="its version: what it made is not made again")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    with alone(arguments.record) as waited:
        model_record = records.of_weights(arguments.model_record, arguments.model)
        detector_sha256 = of_detector(arguments.detector_record, arguments.detector, model_record)
        dataset = load(arguments.data)
        facts = {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": model_record["model_sha256"],
            "detector_sha256": detector_sha256,
        }
        if records.is_made(arguments.record, facts, {"csv_sha256": arguments.csv}, waited):
            line("the other process has judged it" if waited else f"{arguments.record}: judged already")
        else:
            run(arguments, settings, dataset, facts)


def of_detector(path, tensors, model_record):
    """The checksum of a detector's file, which must be that of its record, and of this network.

    Raises:
        UserError: when it is not.
    """
    if not tensors.is_file():
        raise UserError(f"{tensors}: no such file of a detector; {MADE_BY}")
    record, found = read_json(path), sha256(tensors)
    if record.get("tensors_sha256") != found:
        raise UserError(f"{tensors}: not the detector that {path} tells of; train it again")
    if record.get("model_sha256") != model_record["model_sha256"]:
        raise UserError(f"{tensors}: was trained beside another network; train it again")
    return found


def run(arguments, settings, dataset, facts):
    """Judges and writes; `facts` are what the record says of its inputs."""
    device, started = resolve(arguments.device), records.now()
    detector = load_detector(arguments.detector, load_model(arguments.model, device))
    attacked, held_out = split(dataset.test_labels, settings["examples"], settings["held_out"])
    name = f"{settings['attack']} on {settings['detector']} of {arguments.model.parent}"
    progress = AttackProgress(name)
    (figures, columns), _ = in_memory(
        lambda size: judge(
            detector,
            dataset.test_images[attacked],
            dataset.test_labels[attacked],
            dataset.test_images[held_out],
            settings["attack_settings"],
            batch_size=size,
            progress=progress,
        ),
        arguments.batch_size or default_batch_size(device),
    )
    progress.close()
    for found in figures["rates"]:
        line(
            f"{name}, threshold of {found['rate']:.0%} false positives: {found['detected']} of "
            f"{figures['fooled']} fooled rejected, {found['evaded']} of {figures['examples']} "
            f"images misclassified and accepted"
        )
    write_csv(arguments.csv, attacked.tolist(), columns)
    write_json(
        arguments.record,
        {
            "kind": "detection",
            **{key: settings[key] for key in ("experiment", "activation", "seed", "detector", "attack")},
            **figures,
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "environment": records.environment(device),
            "started": started,
            "finished": records.now(),
            **facts,
            "csv_sha256": sha256(arguments.csv),
        },
    )


def write_csv(path, numbers, columns):
    """A line an image: its place in the test set, then `COLUMNS`; floats as they are, to the bit."""
    rows = zip(numbers, *(columns[name].tolist() for name in COLUMNS), strict=True)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", *COLUMNS))
        writer.writerows(rows)


if __name__ == "__main__":
    cli.run(main)
