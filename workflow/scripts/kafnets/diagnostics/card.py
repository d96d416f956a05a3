"""The measurements behind an evaluation card, and the tensors of its pictures."""

import math
import time

import torch

from ..activations import is_elementwise
from ..attacks.arguments import as_pixels
from ..attacks.auto_attack import square
from ..attacks.base import default_batch_size, device_of, frozen, is_correct, predict
from ..attacks.black_box import noise, transfer
from ..attacks.pgd import fgsm, pgd
from ..evaluation.inspection import check_judgeable, fast_copy, sample
from ..runtime.errors import UserError
from ..runtime.units import fraction
from . import checks, gradients, layers

# PGD's step over the radii: its iterations can cross the ball and come back a quarter (Madry et al. 2018).
STEP_PER_RADIUS = 2.5
# Of the examples made on other networks (Dong et al. 2018): ten steps of a tenth of the radius.
TRANSFER_ITERATIONS = 10
# The second set of random starts: any number that is not the first set's, which is 0.
OTHER_STARTS = 1


def measure(model, images, labels, settings, sources=(), *, batch_size=None, note=print):
    """All that a card says of one network.

    The attacks run on a faster copy of the network where it is proved to compute the same up to rounding.

    Args:
        model (nn.Module): of :func:`kafnets.create_model`, on the device that shall compute.
        images (Tensor): (N, 3, H, W) uint8.
        labels (Tensor): (N,) int64 true classes.
        settings (dict): the section `card` of the configuration; radii and steps as "n/255".
        sources (list): paths of other networks for the same task, whose adversarial examples are tried.
        batch_size (int, optional): images per forward pass.
        note (callable): told in a line what was measured, as it is.

    Returns:
        (dict, dict): the figures that :func:`kafnets.diagnostics.checks.judge` judges, and the tensors of the
        pictures.

    Raises:
        UserError: when there is no image, or an attack refuses its settings.
    """
    if not len(images):
        raise UserError("the test set is empty")
    device = device_of(model, images)
    size = default_batch_size(device) if batch_size is None else batch_size
    pixels = as_pixels(model, images, device)
    labels = labels.to(device)
    some = sample(pixels)[:size]
    random = check_judgeable(model, some)
    attacked = model if random else fast_copy(model, some)[0]
    bench = _Bench(attacked, pixels, labels, size, note)
    eps, step = fraction(settings["eps"]), fraction(settings["step"])
    with frozen(model):
        logits = predict(model, pixels, size)
    clean = is_correct(logits, labels)

    radii = _over_radii(bench, settings)
    white = _white_box(bench, settings, eps, step)
    blind = _black_box(bench, settings, eps, sources)
    tried = {**white, **blind}
    alone = bench.verdicts["pgd"].clone()
    for name in blind.keys() - {"noise"}:
        alone &= bench.verdicts[name]
    only_black_box = (bench.verdicts["pgd"] & ~alone).double().mean().item()
    weaker = {"pgd": "fgsm", **{name: "noise" for name in checks.BLIND if name in blind}}

    crafted = bench.crafted(eps, step, settings["iterations"])
    gradient, loss = gradients.loss_gradients(model, pixels, labels, size)
    flat = gradient.flatten(1)
    rising = gradients.rising(model, pixels, labels, gradient, loss, step, size)
    alignments = gradients.alignments(model, pixels, size)
    compared = layers.compare(model, pixels, crafted, size)
    figures = {
        "examples": len(images),
        "random": random,
        "clean_accuracy": _share(clean),
        "iterations": settings["iterations"],
        "radii": radii,
        "accuracy_by_iteration": bench.by_iteration,
        "attacks": tried,
        "only_black_box": only_black_box,
        "left_by": {name: bench.left_by(name, other) for name, other in weaker.items()},
        "zero_gradients": _share((flat == 0).all(1)),
        "nonfinite_gradients": _share(~flat.isfinite().all(1)),
        "rising_losses": _share(rising),
        "alignment": alignments.double().mean().item(),
        "layers": [_layer_figures(model, layer) for layer in compared],
    }
    tensors = {
        **_gallery(model, pixels, crafted, labels, logits, settings["pictures"], size),
        **_first(model, pixels, labels, gradient, alignments, eps, settings["pictures"], size),
        "histograms": torch.stack([layer["counts"] for layer in compared]),
        "edges": torch.tensor([layer["edges"] for layer in compared], dtype=torch.float64),
    }
    return figures, {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}


class _Bench:
    """The attacks of a card, each noted with its accuracy and its cost."""

    def __init__(self, model, images, labels, batch_size, note):
        self.model, self.images, self.labels = model, images, labels
        self.batch_size, self.note = batch_size, note
        self.verdicts, self.by_iteration = {}, None

    def run(self, name, attack, rows=None, **arguments):
        """The attack on all images, or on those of `rows`: its result and the figures."""
        rows = slice(None) if rows is None else rows
        started = time.perf_counter()
        try:
            result = attack(
                self.model, self.images[rows], self.labels[rows], batch_size=self.batch_size, **arguments
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"card, {name}: {error}") from error
        seconds = time.perf_counter() - started  # the verdicts below came from the device: it is done
        verdicts = torch.zeros_like(self.labels, dtype=torch.bool)
        verdicts[rows] = result.robust
        self.verdicts[name] = verdicts
        accuracy = _share(verdicts)
        self.note(f"{name}: accuracy {accuracy:.2%}, {result.queries} queries, {seconds:.1f} s")
        return result, {"accuracy": accuracy, "queries": result.queries, "wall_seconds": seconds}

    def left_by(self, name, other):
        """Images that stay right under one attack and are fooled by another."""
        return int((self.verdicts[name] & ~self.verdicts[other]).sum())

    def crafted(self, eps, step, iterations):
        """Every image as PGD leaves it after all its steps, also those that were wrong from the start."""
        ball = {"eps": eps, "step": step, "iterations": iterations, "early_stop": False}
        return pgd(self.model, self.images, self.labels, batch_size=self.batch_size, **ball).adversarial


def _share(verdicts):
    return verdicts.double().mean().item()


def _over_radii(bench, settings):
    """PGD from one random start at each radius, every one anew: the curve may rise if the attack is weak."""
    iterations, found, names = settings["radius_iterations"], [], []
    for text in settings["radii"]:
        eps = fraction(text)
        step = STEP_PER_RADIUS * eps / iterations
        names.append(f"eps {text}")
        result, figures = bench.run(names[-1], pgd, eps=eps, step=step, iterations=iterations)
        regained = bench.left_by(names[-1], names[-2]) if found else 0  # fooled at the radius before
        found.append({"eps": text, "correct": int(result.robust.sum()), "regained": regained, **figures})
    return found


def _white_box(bench, settings, eps, step):
    """The attacks along the gradient."""
    ball = {"eps": eps, "step": step}
    iterations, restarts = settings["iterations"], settings["restarts"]
    found = {}
    _, found["fgsm"] = bench.run("fgsm", fgsm, eps=eps)
    _, found["pgd"] = bench.run("pgd", pgd, iterations=iterations, restarts=restarts, **ball)
    rows = bench.verdicts["pgd"].nonzero()[:, 0]
    _, found["pgd_twice"] = bench.run(
        "pgd_twice", pgd, rows, iterations=iterations, restarts=restarts, seed=OTHER_STARTS, **ball
    )
    longer, found["pgd_long"] = bench.run("pgd_long", pgd, iterations=settings["most_iterations"], **ball)
    bench.by_iteration = longer.accuracy_by_iteration
    return found


def _black_box(bench, settings, eps, sources):
    """The attacks that do not look at this network's gradient."""
    found = {}
    _, found["noise"] = bench.run("noise", noise, eps=eps, samples=settings["samples"])
    _, found["square"] = bench.run("square", square, eps=eps, queries=settings["queries"])
    if sources:
        crafting = {"step": eps / TRANSFER_ITERATIONS, "iterations": TRANSFER_ITERATIONS}
        _, found["transfer"] = bench.run("transfer", transfer, sources=sources, eps=eps, **crafting)
    return found


def _layer_figures(model, layer):
    module = model.get_submodule(layer["name"])
    slope = curvature = math.nan  # of what is no function of one number there are none
    if is_elementwise(module):
        slope, curvature = layers.steepness(module, layer["low"], layer["high"])
    return {
        "name": layer["name"],
        "lowest_input": layer["low"].min().item(),
        "highest_input": layer["high"].max().item(),
        "steepest": slope if math.isfinite(slope) else None,  # JSON has no infinity
        "most_curved": curvature if math.isfinite(curvature) else None,
        "chi": layers.growth(module, layer["mean"], layer["std"]),
        "distance": layer["distance"],
        "relative_distance": layer["relative_distance"],
        "distribution_distance": (layer["counts"][1] - layer["counts"][0]).norm().item(),
    }


def _gallery(model, pixels, crafted, labels, logits, count, batch_size):
    """Images that were right and are fooled, as many as there are up to `count`; then others."""
    with frozen(model):
        attacked = predict(model, crafted, batch_size)
    right, still = is_correct(logits, labels), is_correct(attacked, labels)
    # 0: right and then fooled, 1: wrong from the start, 2: right to the end
    kind = torch.where(right & ~still, 0, torch.where(~right, 1, 2))
    chosen = kind.argsort(stable=True)[:count]
    tensors = {"gallery_images": pixels[chosen], "gallery_attacked": crafted[chosen]}
    tensors["gallery_labels"] = labels[chosen]
    for name, outputs in (("clean", logits), ("attacked", attacked)):
        confidence, answer = outputs[chosen].softmax(1).max(1)
        tensors |= {f"gallery_{name}_answer": answer, f"gallery_{name}_confidence": confidence}
    return tensors


def _first(model, pixels, labels, gradient, alignments, eps, count, batch_size):
    """What is shown of the same first images for every network."""
    chosen = slice(count)
    return {
        "first_images": pixels[chosen],
        "first_labels": labels[chosen],
        "first_gradients": gradient[chosen],
        "first_alignments": alignments[chosen],
        "landscapes": gradients.landscape(
            model, pixels[chosen], labels[chosen], gradient[chosen], eps, batch_size
        ),
    }
