"""Makes a network of this pipeline out of the converted weights of one row of the thesis's table."""

import argparse
from pathlib import Path

import torch
from kafnets import published
from kafnets.models import save_model
from kafnets.models.create import count_parameters
from kafnets.registry import PUBLISHED
from kafnets.runtime import cli, records
from kafnets.runtime.files import sha256, write_json


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON object, or a JSON or YAML file")
    parser.add_argument("--weights", required=True, type=Path, help="the row's converted file (safetensors)")
    parser.add_argument("--model", required=True, type=Path, help="written: the network")
    parser.add_argument("--record", required=True, type=Path, help="written: whose weights they are")
    parser.add_argument("--code", default="", help="its version: a network that it made is not made again")
    arguments = parser.parse_args()

    settings = cli.settings_argument(arguments.settings)
    row = settings["activation"]
    facts = {
        "settings": settings,
        "weights": {"name": PUBLISHED[row], "sha256": published.SHA256[row]},
        "code": arguments.code,
    }
    if records.is_made(arguments.record, facts, {"model_sha256": arguments.model}):
        print(f"{arguments.record}: made already")
        return
    model = published.load_weights(row, arguments.weights, **settings["activation_arguments"])
    save_model(model, arguments.model)
    write_json(
        arguments.record,
        {
            "kind": "published",
            **{name: settings[name] for name in ("experiment", "activation", "seed")},
            **facts,
            "parameters": count_parameters(model),
            "environment": records.environment(torch.device("cpu")),
            "model_sha256": sha256(arguments.model),
        },
    )


if __name__ == "__main__":
    cli.run(main)
