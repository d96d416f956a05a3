"""No attack: the floor that every other verdict is compared with."""

from .arguments import prepare


def clean(model, images, labels, *, batch_size=None, seed=0, progress=None):
    """Leaves the images as they are.

    Args:
        model: classifier of images in [0, 1].
        images: (N, ...) floats in [0, 1].
        labels: (N,) true classes, integers of any type.
        batch_size: images per forward pass.
        seed, progress: not used; every attack takes them.

    Returns:
        AttackResult: `robust` equals `clean`.
    """
    task = prepare(model, images, labels, batch_size)
    _, right = task.answers()
    return task.result(task.images.clone(), right, right.clone(), len(images), 0)
