"""Evaluation cards with their tensors, as `card.py` writes them, for the tests of what reads them."""

import numpy
from kafnets.diagnostics.checks import judge
from kafnets.runtime.files import sha256, write_json
from safetensors.numpy import save_file

EXAMPLES, PICTURES, LAYERS, BINS = 50, 3, 7, 60
CARD = {
    "pictures": PICTURES,
    "eps": "8/255",
    "step": "2/255",
    "iterations": 20,
    "most_iterations": 150,
    "restarts": 2,
    "radii": [f"{n}/255" for n in (0, 1, 2, 4, 8, 16, 64, 128)],
}
CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def measured(robust=0.4, clean=0.8, examples=EXAMPLES):
    """Figures that pass every check."""
    left = [clean, 0.78, 0.7, 0.6, robust, 0.1, 0.0, 0.0]
    attack = {"queries": 1000, "wall_seconds": 1.5}
    accuracies = {
        "fgsm": robust + 0.1,
        "pgd": robust,
        "pgd_twice": robust,
        "pgd_long": robust,
        "noise": clean,
        "square": robust + 0.2,
        "transfer": robust + 0.3,
    }
    layers = [
        {
            "name": f"layer{number}.act",
            "lowest_input": -3.0,
            "highest_input": 3.0,
            "steepest": 1.0 + number,
            "most_curved": 0.5 * number,
            "chi": 1.1 + 0.1 * number,
            "distance": 0.2 * number,
            "relative_distance": 0.05 * number,
            "distribution_distance": 0.01 * number,
        }
        for number in range(LAYERS)
    ]
    return {
        "examples": examples,
        "clean_accuracy": clean,
        "iterations": CARD["iterations"],
        "radii": [
            {"eps": eps, "accuracy": accuracy, "regained": 0, **attack}
            for eps, accuracy in zip(CARD["radii"], left, strict=True)
        ],
        "accuracy_by_iteration": [robust + (clean - robust) * 0.7**k for k in range(151)],
        "attacks": {name: {"accuracy": accuracy, **attack} for name, accuracy in accuracies.items()},
        "only_black_box": 0.0,
        "left_by": {"pgd": 0, "square": 0, "transfer": 0},
        "zero_gradients": 0.0,
        "nonfinite_gradients": 0.0,
        "rising_losses": 1.0,
        "alignment": 1.25,
        "layers": layers,
    }


def write_card(folder, activation="kaf", *, experiment="vgg", seed=0, training="fbf", images=0, **changes):
    """Writes a card whose figures are those of `measured` but for `changes`; returns the path of its record.

    Args:
        images: seed of the test images; networks that were judged on the same ones share it.
    """
    figures = {**measured(), **changes}
    path = folder / experiment / activation / f"seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = path.with_suffix(".safetensors")
    save_file(_tensors(numpy.random.default_rng(images), numpy.random.default_rng(seed)), tensors)
    write_json(
        path,
        {
            "kind": "card",
            "experiment": experiment,
            "activation": activation,
            "seed": seed,
            "training": training,
            "classes": CLASSES,
            "settings": {"card": CARD},
            "figures": figures,
            "checks": judge(figures),
            "tensors_sha256": sha256(tensors),
        },
    )
    return path


def _tensors(of_images, generator):
    shape = (PICTURES, 3, 32, 32)
    images = of_images.random(shape, dtype=numpy.float32)
    offsets = generator.uniform(-8 / 255, 8 / 255, shape).astype(numpy.float32)
    ticks = numpy.linspace(-1, 1, 15, dtype=numpy.float32)
    histograms = generator.random((LAYERS, 2, BINS))
    return {
        "gallery_images": images,
        "gallery_attacked": (images + offsets).clip(0, 1),
        "gallery_labels": numpy.arange(PICTURES),
        "gallery_clean_answer": numpy.arange(PICTURES),
        "gallery_clean_confidence": numpy.full(PICTURES, 0.876, numpy.float32),
        "gallery_attacked_answer": numpy.arange(PICTURES) + 1,
        "gallery_attacked_confidence": numpy.full(PICTURES, 0.432, numpy.float32),
        "first_images": images,
        "first_labels": numpy.arange(PICTURES),
        "first_gradients": generator.normal(0, 0.01, shape).astype(numpy.float32),
        "first_alignments": numpy.array([0.5, 1.0, 1.5], numpy.float32),
        "landscapes": numpy.exp(ticks[None, None] * numpy.array([0.5, 1, 2], numpy.float32)[:, None, None])
        * numpy.ones((1, 15, 1), numpy.float32),
        "histograms": histograms / histograms.sum(2, keepdims=True),
        "edges": numpy.tile([-1.0, 3.0], (LAYERS, 1)),
    }
