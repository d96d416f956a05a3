"""AutoAttack, the field's standard ensemble, and its parts, as the package pyautoattack provides them.

The package is the reference implementation; here it is given only the images that still stand, in full
batches, and what it finds is verified: a verdict "not robust" always comes with a valid image.
"""

import torch

from ..errors import optional
from .common import (
    NORMS,
    AttackResult,
    Counted,
    check_classes,
    check_images,
    check_integer,
    check_real,
    default_batch_size,
    device_of,
    frozen,
    into_ball,
    is_correct,
    predict,
    seeded,
)

PARTS = ("apgd_ce", "apgd_t", "fab_t", "square")


def autoattack(model, images, labels, *, eps, norm="linf", batch_size=None, seed=0, progress=None):
    """APGD on the cross-entropy, targeted APGD on the DLR loss, targeted FAB and Square, one after another.

    Each attacks what withstood the ones before, with the parameters of the standard version.

    Args:
        model: classifier of images in [0, 1] with at least four classes.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) true classes.
        eps: radius of the ball, in pixel units of [0, 1].
        norm: of the ball: "linf" or "l2".
        batch_size: images per forward pass. The package draws its random numbers batch by batch.
        seed: of those random numbers.
        progress: as in :func:`kafnets.attacks.pgd`.

    Returns:
        AttackResult: an image is robust when it is rightly classified unperturbed and withstands all four.

    Raises:
        UserError: when the package is not installed.
        TypeError, ValueError: naming the argument that is wrong.

    Source: Croce & Hein 2020, arXiv:2003.01690.
    """
    return _attack(model, images, labels, PARTS, eps, norm, batch_size, seed, progress, {})


def apgd_ce(model, images, labels, *, eps, norm="linf", iterations=100, restarts=1, batch_size=None, seed=0,
            progress=None):  # fmt: skip
    """Auto-PGD on the cross-entropy, which needs no step size. Arguments: :func:`autoattack`."""
    parameters = {"n_iter": iterations, "n_restarts": restarts}
    return _attack(model, images, labels, ("apgd_ce",), eps, norm, batch_size, seed, progress, parameters)


def apgd_t(model, images, labels, *, eps, norm="linf", iterations=100, restarts=1, batch_size=None, seed=0,
           progress=None):  # fmt: skip
    """Auto-PGD on the DLR loss towards each other class, at most nine. Arguments: :func:`autoattack`."""
    parameters = {"n_iter": iterations, "n_restarts": restarts}
    return _attack(model, images, labels, ("apgd_t",), eps, norm, batch_size, seed, progress, parameters)


def fab_t(model, images, labels, *, eps, norm="linf", iterations=100, restarts=1, batch_size=None, seed=0,
          progress=None):  # fmt: skip
    """The targeted fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044)."""
    parameters = {"n_iter": iterations, "n_restarts": restarts}
    return _attack(model, images, labels, ("fab_t",), eps, norm, batch_size, seed, progress, parameters)


def square(model, images, labels, *, eps, norm="linf", queries=5000, restarts=1, batch_size=None, seed=0,
           progress=None):  # fmt: skip
    """The Square attack, which only asks for outputs (Andriushchenko et al. 2020, arXiv:1912.00049)."""
    parameters = {"n_queries": queries, "n_restarts": restarts}
    return _attack(model, images, labels, ("square",), eps, norm, batch_size, seed, progress, parameters)


def _attack(model, images, labels, parts, eps, norm, batch_size, seed, progress, parameters):
    check_images(model, images, labels)
    if images.dim() != 4 or images.dtype is not torch.float32:
        raise ValueError(
            f"images: expected (N, C, H, W) float32, found {images.dtype}, {tuple(images.shape)}"
        )
    check_real("eps", eps, 0, 1 if norm == "linf" else float("inf"))
    if norm not in NORMS:
        raise ValueError(f"norm: {norm!r} is not known; choose one of {', '.join(NORMS)}")
    check_integer("seed", seed, 0)
    for name, value in parameters.items():
        check_integer(
            {"n_iter": "iterations", "n_restarts": "restarts", "n_queries": "queries"}[name], value, 1
        )
    device = device_of(model, images)
    batch_size = default_batch_size(device) if batch_size is None else batch_size
    check_integer("batch_size", batch_size, 1)
    package = optional("pyautoattack", "attacks")
    counted, classes = Counted(model), labels.to(device)
    pixels = images.to(device).contiguous()  # the package reads no other order
    adversarial = pixels.clone()
    with frozen(counted), seeded(seed, device):
        if not len(images):
            return AttackResult(images.clone(), labels == labels, labels == labels, 0, 0)
        logits = predict(counted, pixels, batch_size)
        check_classes(labels, logits.shape[1])
        clean = is_correct(logits, classes)
        robust = clean.clone()
        rivals = min(9, logits.shape[1] - 1)
        if rivals < 3 and "apgd_t" in parts:
            raise ValueError(f"model: the DLR loss needs at least four classes, found {logits.shape[1]}")
        done = 0
        for number, part in enumerate(parts):
            run = _build(package, counted, part, eps, norm, seed, rivals, device, parameters)
            for rows in robust.nonzero()[:, 0].split(batch_size):
                found = into_ball(run(pixels[rows], classes[rows]).detach(), pixels[rows], eps, norm)
                fooled = ~is_correct(predict(counted, found, batch_size), classes[rows])
                adversarial[rows[fooled]] = found[fooled]
                robust[rows[fooled]] = False
                done += len(rows)
                if progress is not None:
                    progress(
                        done, int(robust.sum()) * (len(parts) - 1 - number), robust.double().mean().item()
                    )
    return AttackResult(
        adversarial=adversarial.to(images.device),
        robust=robust.to(images.device),
        clean=clean.to(images.device),
        queries=counted.queries,
        gradients=counted.gradients,
    )


def _build(package, model, part, eps, norm, seed, rivals, device, parameters):
    """One part as a function of images and labels; what `parameters` leaves open is the standard version."""
    shared = {
        "norm": {"linf": "Linf", "l2": "L2"}[norm],
        "eps": eps,
        "seed": seed,
        "device": device,
        "verbose": False,
        "n_restarts": 1,
        **parameters,
    }
    if part == "apgd_ce":
        attack = package.autopgd_base.APGDAttack(model, loss="ce", **shared)
    elif part == "apgd_t":
        attack = package.autopgd_base.APGDAttack_targeted(model, n_target_classes=rivals, **shared)
    elif part == "fab_t":
        attack = package.fab_pt.FABAttack_PT(model, targeted=True, n_target_classes=rivals, **shared)
    else:
        attack = package.square.SquareAttack(model, p_init=0.8, resc_schedule=False, **shared)
    return attack.perturb
