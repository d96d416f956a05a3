"""PGD-50-10 on the thesis's own networks: seconds, and how many images stay robust, beside an earlier run's.

    python -m benchmarks.published --weights FOLDER --data cifar10.safetensors [--device cuda] [--seconds 90]

It is the pipeline's evaluation, verdicts on the network itself included. FOLDER holds the converted files
(kafnets.published). The earlier run is results/reference/h200-2026-11-27, compared image by image.
"""

import argparse
import time
from pathlib import Path

import numpy
import torch
from kafnets import published
from kafnets.data import load
from kafnets.evaluation.judge import evaluate, synchronize
from kafnets.models import create_model
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve

from .contestants import random_images
from .measuring import Figures

REFERENCE = Path(__file__).parents[1] / "results" / "reference" / "h200-2026-11-27" / "published"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="folder; default: a ResNet8 that is not trained")
    parser.add_argument("--data", type=Path, help="prepared CIFAR-10; default: random images")
    parser.add_argument("--activations", nargs="+", default=["relu", "kaf", "swish"])
    parser.add_argument("--images", type=int, help="default: all")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--batch-size", type=int, help="default: the device's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, help="no network is begun later than this after the start")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/published.json"))
    arguments = parser.parse_args()
    if (arguments.weights is None) != (arguments.data is None):
        parser.error("--weights and --data go together")
    device = resolve(arguments.device)
    settings = {
        "method": "pgd",
        "eps": "8/255",
        "step": "2/255",
        "iterations": arguments.iterations,
        "restarts": arguments.restarts,
    }
    facts = {"environment": records.environment(device), "settings": settings}
    figures = Figures(arguments.output, "published", facts, ["networks"], arguments.seconds)
    if arguments.data:
        dataset = load(arguments.data, test_examples=arguments.images)
        images, labels = dataset.test_images, dataset.test_labels
    else:
        images, labels = (tensor[: arguments.images or 128] for tensor in untrained_data())
    longest = 0.0
    for activation in arguments.activations:
        if figures.allows(activation, longest):
            model = network(activation, arguments.weights).to(device)
            row, verdicts = judge(model, images.to(device), labels.to(device), settings, arguments.batch_size)
            longest = max(longest, row["seconds"])
            if arguments.weights and arguments.images is None and is_same_attack(settings):
                row |= compared(activation, verdicts)
            figures.add("networks", {"activation": activation, **row})
            print(
                f"{activation}: {row['seconds']:.1f} s, {row['robust']} of {row['images']} robust", flush=True
            )
    figures.finish()


def untrained_data():
    dataset = random_images(128)
    return dataset.test_images, dataset.test_labels


def network(activation, weights):
    if weights is None:
        torch.manual_seed(0)
        return create_model("resnet8", activation).eval()
    return published.load(activation, weights)


def judge(model, images, labels, settings, batch_size):
    synchronize(images.device)
    started = time.perf_counter()
    found, verdicts = evaluate(model, images, labels, settings, batch_size=batch_size)
    synchronize(images.device)
    row = {
        "seconds": time.perf_counter() - started,
        "images": found["examples"],
        "robust": found["correct"],
        "clean": int(verdicts["clean"].sum()),
        **{name: found[name] for name in ("queries", "gradients", "batch_size")},
    }
    return row, verdicts


def is_same_attack(settings):
    return (settings["iterations"], settings["restarts"]) == (50, 10)


def compared(activation, verdicts):
    """How the verdicts differ from those of the earlier run, image by image; nothing where it judged none."""
    path = REFERENCE / f"published_pgd_{activation}.json"
    if not path.is_file():
        return {}
    with numpy.load(path.with_suffix(".npz")) as file:
        before = torch.from_numpy(file["robust"]).bool()
    now = verdicts["robust"].cpu().bool()
    return {
        "robust_then": int(before.sum()),
        "robust_then_not_now": int((before & ~now).sum()),
        "robust_now_not_then": int((now & ~before).sum()),
    }


if __name__ == "__main__":
    cli.run(main)
