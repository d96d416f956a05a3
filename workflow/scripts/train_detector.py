"""Trains one detector beside one network.

    python workflow/scripts/train_detector.py --settings detector.json --model model.safetensors \\
        --model-record record.json --data results/data/cifar10.safetensors \\
        --detector metzen.safetensors --record metzen.json

Killed at any moment and called again, it goes on after the last whole epoch.
"""

import argparse
import time
from pathlib import Path

import torch
from kafnets.attacks.base import default_batch_size
from kafnets.data.dataset import load
from kafnets.detection.saving import create_detector, save_detector
from kafnets.detection.training import recipe_of, train
from kafnets.models import load_model
from kafnets.runtime import checkpoint, cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.files import alone, sha256, write_json
from kafnets.runtime.interruption import Interrupted, SignalFlag
from kafnets.runtime.progress import line


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--model", required=True, type=Path, help="weights of the network (safetensors)")
    parser.add_argument("--model-record", required=True, type=Path, help="the record of these weights")
    parser.add_argument("--data", required=True, type=Path, help="prepared data set (safetensors)")
    parser.add_argument("--detector", required=True, type=Path, help="written: the detector (safetensors)")
    parser.add_argument("--record", required=True, type=Path, help="written: what was done, where, how long")
    parser.add_argument("--batch-size", type=int, help="images per forward pass of what is computed once")
    parser.add_argument("--code", default="", help="its version: a state that another left is not used")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = cli.settings_argument(arguments.settings)
    with alone(arguments.record) as waited:
        model_record = records.of_weights(arguments.model_record, arguments.model)
        dataset = load(arguments.data, train_examples=settings["train_examples"])
        facts = {
            "settings": settings,
            "data_sha256": dataset.sha256,
            "code": arguments.code,
            "model_sha256": model_record["model_sha256"],
        }
        if records.is_made(arguments.record, facts, {"tensors_sha256": arguments.detector}, waited):
            line("the other process has trained it" if waited else f"{arguments.record}: trained already")
            checkpoint.discard(checkpoint.beside(arguments.record, "any"))
            return 0
        device = resolve(arguments.device)
        name = checkpoint.fingerprint({**facts, "device": device.type})
        path = checkpoint.beside(arguments.record, name)
        with SignalFlag() as stop:
            try:
                run(arguments, settings, dataset, device, facts, State(path, name, stop))
            except Interrupted as signal_name:
                line(f"stopped by {signal_name}; the same command goes on from {path}")
                return signal_name.exit_code
        checkpoint.discard(path)
        return 0


class State:
    """The state of the training on disk, after every epoch; then it asks whether there was a signal."""

    def __init__(self, path, name, stop):
        self.path, self.name, self.stop = path, name, stop
        self.left = checkpoint.read(path, name)

    def save(self, state):
        checkpoint.write(self.path, {"fingerprint": self.name, **state()})
        self.stop.check()


def run(arguments, settings, dataset, device, facts, state):
    """Trains and writes; `facts` are what the record says of its inputs."""
    started, clock = records.now(), time.perf_counter()
    network = load_model(arguments.model, device)
    own, recipe = recipe_of(settings["detector_settings"], settings["seed"])
    shape = tuple(dataset.train_images.shape[1:])
    method = settings["detector_settings"]["method"]
    detector = create_detector(method, network, shape, settings["seed"], **own)
    history = []
    if detector.learns:
        history = train(
            detector,
            dataset.train_images,
            dataset.train_labels,
            recipe,
            batch_size=arguments.batch_size or default_batch_size(device),
            state=state.left,
            save=state.save,
            note=line,
        )
    save_detector(detector, arguments.detector)
    write_json(
        arguments.record,
        {
            "kind": "detector",
            **{key: settings[key] for key in ("experiment", "activation", "seed", "detector")},
            "parameters": sum(one.numel() for one in detector.own_parameters()),
            "train_examples": len(dataset.train_labels),
            "history": history,
            "wall_seconds": time.perf_counter() - clock,
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "environment": records.environment(device),
            "started": started,
            "finished": records.now(),
            **facts,
            "tensors_sha256": sha256(arguments.detector),
        },
    )


if __name__ == "__main__":
    cli.run(main)
