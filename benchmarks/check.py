"""Do a device's kernels agree with the formula, and do graphs, fused layers and the float16 copy work?

    python -m benchmarks.check [--device cuda] [--seconds 60] [--output check.json]

The answers are written as they come. On the CPU its own kernels are compared, and there are no graphs.
"""

import argparse
import sys
from pathlib import Path

import torch
from kafnets import KAF
from kafnets.activations.kaf.functional import active_backend, kaf
from kafnets.attacks import pgd
from kafnets.evaluation.half import half_copy
from kafnets.evaluation.inspection import fast_copy
from kafnets.evaluation.pointwise import Pointwise
from kafnets.models import create_model
from kafnets.models.fused import operators
from kafnets.runtime import cli, records
from kafnets.runtime.device import resolve
from kafnets.runtime.graphs import WARM_UP, StepWithGraph, computing_on
from kafnets.training.training import Training

from .contestants import BATCH, RATE, random_images, settings
from .measuring import Figures

DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("contiguous_format", "channels_last")
# of the largest value: rounding of the result's own type, of float32 sums for the coefficients' gradient
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=64, help="images for the kernels")
    parser.add_argument("--seconds", type=float, help="nothing is begun later than this after the start")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/check.json"))
    arguments = parser.parse_args()
    device = resolve(arguments.device)
    backend = active_backend(device.type)
    facts = {"environment": records.environment(device), "kaf_backend": backend}
    figures = Figures(arguments.output, "check", facts, ["kernels", "graphs", "copies"], arguments.seconds)
    for dtype in DTYPES if device.type == "cuda" else DTYPES[:1]:
        for layout in LAYOUTS:
            if figures.allows(f"kernels, {dtype} {layout}"):
                errors = kernel_errors(device, backend, dtype, layout, arguments.batch)
                right = max(errors) < TOLERANCE[dtype]
                figures.add("kernels", {"dtype": dtype, "layout": layout, "errors": errors, "agrees": right})
    if device.type == "cuda":
        for precision in DTYPES:
            if figures.allows(f"graph of a training step, {precision}"):
                figures.add("graphs", {"of": f"training, {precision}", **training_graph(device, precision)})
        if figures.allows("graph of a PGD step"):
            figures.add("graphs", {"of": "PGD", "works": pgd_graph(device)})
    for activation in ("relu", "kaf_elu"):
        if figures.allows(f"float16 copy, {activation}"):
            figures.add("copies", float16_copy(device, activation, arguments.batch))
    figures.finish()
    wrong = [f"{row['dtype']} {row['layout']}" for row in figures.content["kernels"] if not row["agrees"]]
    wrong += [f"no graph: {row['of']}" for row in figures.content["graphs"] if not row["works"]]
    wrong += [f"not fused: {row['of']}" for row in figures.content["graphs"] if not row.get("fused", True)]
    for row in figures.content["copies"]:
        if row["why_not"] or not row["pointwise"]:
            wrong.append(f"float16 copy, {row['of']}: {row['why_not'] or 'not fused'}")
    if device.type == "cuda" and backend != "triton":
        wrong.append(f"the KAF runs in {backend} code")
    if wrong:
        sys.exit(f"wrong: {'; '.join(wrong)}")
    print("every kernel agrees with the formula" + (", every graph works" * (device.type == "cuda")))


def kernel_errors(device, backend, dtype, layout, batch):
    """The largest error of y, and of the gradients of x and alpha, over the largest value of each."""
    torch.manual_seed(0)
    layer = KAF(16, std=1.0, device=device)
    x, grad = (
        torch.randn(batch, 16, 32, 32, device=device)
        .mul(2)
        .to(getattr(torch, dtype))
        .contiguous(memory_format=getattr(torch, layout))
        for _ in range(2)
    )

    def computed(backend, dtype=None):
        given = [t.detach().to(dtype or t.dtype).requires_grad_() for t in (x, layer.alpha)]
        fixed = [t.to(dtype or t.dtype) for t in (layer.dictionary, layer.bandwidth)]
        y = kaf(*given, *fixed, backend=backend)
        return [y, *torch.autograd.grad(y, given, grad.to(y.dtype))]

    pairs = zip(computed(backend), computed("portable", torch.float64), strict=True)
    return [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs]


def training_graph(device, precision):
    """Whether a training step is captured and its layers are fused, and both pass their trials."""
    with computing_on(device):
        one = Training(settings("kaf", precision), random_images(BATCH * (WARM_UP + 2)), device)
        for rows in one.batches.epoch(0):
            one.step(rows, RATE)
        one.check()
    fused = one.network.passes is not one.model and all(operators._found.values())
    return {"works": one.replayed.graph is not None, "fused": fused}


def float16_copy(device, activation, batch):
    """Whether there is a float16 copy of a network for PGD to follow, and how many operators it has fused."""
    torch.manual_seed(0)
    model = create_model("resnet20", activation).to(device).eval()
    images = random_images(batch).train_images.to(device).float() / 255
    half, why = half_copy(fast_copy(model, images)[0], images)
    pointwise = 0 if half is None else sum(isinstance(layer, Pointwise) for layer in half.modules())
    return {"of": activation, "why_not": why, "pointwise": pointwise}


def pgd_graph(device):
    """Whether a PGD step is captured and passes its trial."""
    tried, capture = [], StepWithGraph._is_captured

    def noting(step, *inputs):
        tried.append(capture(step, *inputs))
        return tried[-1]

    StepWithGraph._is_captured = noting
    try:
        model = create_model("resnet20", "kaf").to(device).eval()
        images = random_images(256).train_images.to(device).float() / 255
        with torch.no_grad():
            labels = model(images).argmax(1)
        pgd(model, images, labels, eps=1e-6, step=1e-7, iterations=40, restarts=2, batch_size=256)
    finally:
        StepWithGraph._is_captured = capture
    return any(tried)


if __name__ == "__main__":
    cli.run(main)
