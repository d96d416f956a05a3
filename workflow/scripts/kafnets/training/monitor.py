"""Watching a training for catastrophic overfitting."""

import torch

from ..attacks.pgd import pgd

# Half of the best PGD accuracy gone while one FGSM step still fails against 20 points more images than PGD:
# far outside the noise of 128 images, and met within an epoch by every collapse the literature describes.
COLLAPSE_RATIO = 0.5
COLLAPSE_GAP = 0.2


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


def catastrophic_overfitting(history):
    """Whether PGD accuracy collapsed under a soaring FGSM accuracy (E. Wong et al., ICLR 2020, section 5.4).

    Args:
        history (list of dict): rows with `epoch`, `probe_fgsm_accuracy`, `probe_pgd_accuracy` (None where the
            probe was not run).

    Returns:
        dict: `detected`, `first_epoch` (None if not), `at_end` (the last probed epoch is collapsed).
    """
    first, at_end, best = None, False, 0.0
    for row in history:
        fgsm, full = row["probe_fgsm_accuracy"], row["probe_pgd_accuracy"]
        if full is None:
            continue
        best = max(best, full)
        at_end = full < COLLAPSE_RATIO * best and fgsm - full > COLLAPSE_GAP
        if at_end and first is None:
            first = row["epoch"]
    return {"detected": first is not None, "first_epoch": first, "at_end": at_end}
