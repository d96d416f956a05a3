"""Draws a network's kernel activation functions and their slopes before and after training."""

import argparse

import torch
from kafnets import cli
from kafnets.errors import UserError
from kafnets.files import read_json, sha256
from kafnets.models import load_model
from kafnets.plots import kafs, style
from kafnets.training import initial_model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the trained weights (safetensors)")
    parser.add_argument("--record", required=True, help="the record of their training")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # sums in one order, so that a rerun gives the same bytes
    record = read_json(arguments.record)
    if record.get("model_sha256") != sha256(arguments.model):
        raise UserError(f"{arguments.model}: not the weights that {arguments.record} tells of; train again")
    layers = kafs.shapes(initial_model(record["settings"]), load_model(arguments.model))
    style.save(kafs.draw(layers, record["activation"]), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
