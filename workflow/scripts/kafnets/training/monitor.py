"""Watching a training for catastrophic overfitting."""

import math

import torch

from ..attacks.pgd import pgd
from ..chance import at_most
from ..runtime.units import fraction

# Of the images that withstand one FGSM step, several PGD steps leave more than half where training goes well:
# 0.65 to 1 of them in each of 100 epochs of a ResNet20 on CIFAR-10 at 8/255, 0.46 in a passing epoch of a
# half-trained network on digits at 24/255. The collapses of the literature leave next to none.
COLLAPSE_RATIO = 0.5
# A network near chance level withstands neither: the difference must be an accuracy worth the name.
COLLAPSE_GAP = 0.2
# That chance alone, in so few images, makes a half look like what was found. Small, because every epoch asks.
COLLAPSE_CHANCE = 0.01

CLEAN_IMAGES = 1000  # of the training set, whose clean accuracy is measured
PROBE_SEED = 20200701  # draws the images that are measured


class Monitor:
    """The end-of-epoch measurements on fixed images; they draw nothing from the training's random numbers."""

    def __init__(self, settings, dataset, device):
        options = settings["training"]["monitor"]
        self.every, self.iterations = options["every"], options["iterations"]
        self.epochs = settings["training"]["epochs"] + settings["training"]["tail"]["epochs"]
        self.eps = fraction(options["eps"])
        generator = torch.Generator().manual_seed(PROBE_SEED)
        held_out = torch.randperm(len(dataset.test_labels), generator=generator)[: options["examples"]]
        clean = torch.randperm(len(dataset.train_labels), generator=generator)[:CLEAN_IMAGES]
        self.held_out = (
            _floats(dataset.test_images[held_out], device),
            dataset.test_labels[held_out].to(device),
        )
        self.clean = _floats(dataset.train_images[clean], device), dataset.train_labels[clean].to(device)

    def __call__(self, model, epoch, after_pass):
        """The history's measured columns after `epoch`; the probe's are None in the epochs between.

        `after_pass` is called after every forward pass, and may raise: nothing is changed by then.
        """
        row = {"probe_fgsm_accuracy": None, "probe_pgd_accuracy": None}
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs:
            fgsm, full = probe(model, *self.held_out, self.eps, self.iterations, after_pass)
            row = {"probe_fgsm_accuracy": fgsm, "probe_pgd_accuracy": full}
        return {"clean_accuracy": clean_accuracy(model, *self.clean, after_pass), **row}


def _floats(images, device):
    return images.to(device).float().div_(255)


def probe(model, images, labels, eps, iterations, after_pass=None):
    """FGSM and PGD accuracy of `model` on a fixed batch, both from the same random start.

    Args:
        model (nn.Module): left in the mode it was in.
        images, labels (Tensor): float :math:`(N, C, H, W)` in [0, 1] and int64 :math:`(N)`.
        eps (float): radius, in units of [0, 1].
        iterations (int): PGD steps of eps / 4.
        after_pass (callable, optional): called after every forward pass.

    Returns:
        (float, float): the two accuracies in [0, 1].
    """
    common = {"eps": eps, "early_stop": False, "progress": after_pass}
    fgsm = pgd(model, images, labels, step=1.25 * eps, iterations=1, **common)
    full = pgd(model, images, labels, step=eps / 4, iterations=iterations, **common)
    return fgsm.robust.float().mean().item(), full.robust.float().mean().item()


@torch.no_grad()
def clean_accuracy(model, images, labels, after_pass, batch_size=500):
    """Accuracy in evaluation mode; the model is put back into the mode it was in."""
    training, correct = model.training, 0
    model.eval()
    try:
        for part, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            correct += (model(part).argmax(1) == target).sum().item()
            after_pass()
    finally:
        model.train(training)
    return correct / len(labels)


def catastrophic_overfitting(history, examples, single_step=True):
    """Whether a training against one FGSM step left the network open to several (E. Wong et al., ICLR 2020,
    section 5.4; Andriushchenko & Flammarion, NeurIPS 2020).

    A collapse begins at a probe, be it the first, in which, of `examples` images,

    1. PGD leaves too few: less than half of what FGSM leaves now or PGD left in the best probe so far, the
       larger, and so few that of as many tosses of a coin so few or fewer would show heads with a probability
       of at most 1 % (exact binomial test: it is of the images FGSM leaves that further steps take some);
    2. FGSM leaves more than PGD by over 20 % of the images.

    It ends with a probe in which PGD leaves enough again; that FGSM accuracy is lost as well does not end it.
    With 128 images and FGSM at 50 %, a PGD accuracy of 17.2 % or less is a collapse; with 8 images, of which
    FGSM leaves 7, only 0 is.

    Args:
        history (list of dict): rows with `epoch`, `probe_fgsm_accuracy`, `probe_pgd_accuracy` (None or NaN
            where the probe was not run).
        examples (int): images of the probe.
        single_step (bool): whether the training's perturbations were one step (`Method.single_step`).
            Otherwise, or without any, there is no one step that the network could have overfitted to, and
            nothing is detected.

    Returns:
        dict: `detected`, `first_epoch` (None if not), `at_end` (the last probed epoch is collapsed).
    """
    first, at_end, best = None, False, 0
    for row in history:
        accuracies = row["probe_fgsm_accuracy"], row["probe_pgd_accuracy"]
        if not single_step or any(one is None or math.isnan(one) for one in accuracies):
            continue
        fgsm, full = (round(one * examples) for one in accuracies)
        best = max(best, full)
        are_few = at_most(full, max(best, fgsm), COLLAPSE_RATIO) <= COLLAPSE_CHANCE
        at_end = are_few and (at_end or fgsm - full > COLLAPSE_GAP * examples)
        if at_end and first is None:
            first = row["epoch"]
    return {"detected": first is not None, "first_epoch": first, "at_end": at_end}
