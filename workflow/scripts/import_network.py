"""Makes a network of this pipeline out of a user's own: what its factory makes, filled with its weights."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from kafnets.models import create_model, save_model
from kafnets.models.create import count_parameters
from kafnets.models.own import fill
from kafnets.registry import ARCHITECTURES, lookup
from kafnets.runtime import cli, records
from kafnets.runtime.files import sha256, write_json


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--weights", required=True, type=Path, help="a file of torch.save, or safetensors")
    parser.add_argument("--model", required=True, type=Path, help="written: the network")
    parser.add_argument("--record", required=True, type=Path, help="written: whose weights they are")
    parser.add_argument("--code", default="", help="its version: a network that it made is not made again")
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    facts = {
        "settings": settings,
        "weights": {"name": arguments.weights.name, "sha256": sha256(arguments.weights)},
        "code": arguments.code,
    }
    if records.is_made(arguments.record, facts, {"model_sha256": arguments.model}):
        print(f"{arguments.record}: made already")
        return
    entry = lookup(ARCHITECTURES, settings["architecture"], "network")
    shape = {key: settings[key] for key in ("image_shape",) if key in settings}
    # nothing looks its activation up: a network of the user's own has what its code says
    model = create_model(settings["architecture"], settings["activation"], settings["num_classes"], **shape)
    fill(model, replace(entry, weights=str(arguments.weights)))
    save_model(model, arguments.model)
    write_json(
        arguments.record,
        {
            "kind": "network",
            **{name: settings[name] for name in ("experiment", "activation", "seed")},
            **facts,
            "parameters": count_parameters(model),
            "environment": records.environment(torch.device("cpu")),
            "model_sha256": sha256(arguments.model),
        },
    )


if __name__ == "__main__":
    cli.run(main)
