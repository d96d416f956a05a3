"""Draws a network's learned activation functions and their slopes before and after training."""

import argparse

import torch
from kafnets.config.slices import USUAL_SHAPE
from kafnets.models import load_model
from kafnets.report.plots import kafs, style
from kafnets.runtime import cli, records
from kafnets.training.training import initial_model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the trained weights (safetensors)")
    parser.add_argument("--record", required=True, help="the record of their training")
    parser.add_argument("--pdf", required=True)
    parser.add_argument("--png", required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # sums in one order, so that a rerun gives the same bytes
    record = records.of_weights(arguments.record, arguments.model)
    model = load_model(arguments.model)
    shape = model.specification.get("image_shape", USUAL_SHAPE)
    layers = kafs.shapes(initial_model(record["settings"]), model, shape)
    style.save(kafs.draw(layers, record["activation"]), arguments.pdf, arguments.png)


if __name__ == "__main__":
    cli.run(main)
