"""No attack: the floor that every other verdict is compared with."""

from .common import (
    AttackResult,
    check_classes,
    check_images,
    check_integer,
    default_batch_size,
    device_of,
    frozen,
    is_correct,
    predict,
)


def clean(model, images, labels, *, batch_size=None, seed=0, progress=None):
    """Leaves the images as they are.

    Args:
        model: classifier of images in [0, 1].
        images: (N, ...) floats in [0, 1].
        labels: (N,) true classes.
        batch_size: images per forward pass.
        seed, progress: not used; every attack takes them.

    Returns:
        AttackResult: `robust` equals `clean`.
    """
    check_images(model, images, labels)
    device = device_of(model, images)
    batch_size = default_batch_size(device) if batch_size is None else batch_size
    check_integer("batch_size", batch_size, 1)
    if not len(images):
        right = labels == labels
        return AttackResult(images.clone(), right, right.clone(), 0, 0)
    with frozen(model):
        logits = predict(model, images.to(device), batch_size)
    check_classes(labels, logits.shape[1])
    right = is_correct(logits, labels.to(device)).to(images.device)
    return AttackResult(images.clone(), right, right.clone(), len(images), 0)
