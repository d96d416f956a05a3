"""One certificate of one network, to files: the record, and a row an image."""

import csv

from ..attacks.base import default_batch_size
from ..certification.certify import Memory, Progress, certify
from ..runtime import records
from ..runtime.files import atomic_path, sha256, write_json
from ..runtime.progress import line
from .once import once

# Of the settings, what says which cell of the grid it is.
IDENTITY = ("experiment", "activation", "seed", "certificate", "method")


def certify_once(load, dataset, settings, facts, record, images, device, *, title="", batch_size=None):
    """Certifies and writes down, unless the record proves that it is done.

    Killed at any moment and called again, it goes on with the image where it was.

    Args:
        load (callable): takes the device; returns the network. Not called where nothing is to be done.
        dataset (Dataset): its test images are certified.
        settings (dict): `method`, a name of `kafnets.registry.CERTIFICATES`, its `arguments`, and what says
            which cell of the grid it is.
        facts (callable): see :func:`.once.once`.
        record, images (Path): written: the record, and the CSV file with a row an image.
        device (callable): takes nothing, returns the torch.device that computes.
        title (str): whose progress is shown.
        batch_size (int, optional): images per forward pass.

    Returns:
        int: the exit code: 0, or that of the signal by which it was stopped.
    """
    name = settings.get("certificate", settings.get("method", "certificate"))

    def compute(facts, device, memory):
        progress = Progress(f"{name} of {title}", memory.first)
        model, started = load(device), records.now()
        figures, columns = certify(
            model,
            dataset.test_images,
            dataset.test_labels,
            settings.get("method"),
            settings.get("arguments", {}),
            batch_size=batch_size or default_batch_size(device),
            progress=progress,
            memory=memory,
        )
        progress.close()
        line(
            f"{name}: right at {figures['accuracy']:.2%} of {figures['examples']} images, average radius "
            f"{figures['average_radius']:.4f} ({figures['norm']}), abstained from {figures['abstained']}, "
            f"{figures['seconds_per_image']:.2f} s an image"
        )
        write_images(images, dataset.test_labels, columns)
        write_json(
            record,
            {
                "kind": "certification",
                **{key: settings.get(key) for key in IDENTITY},
                **figures,
                "peak_memory_bytes": records.peak_memory_bytes(device),
                "environment": records.environment(device),
                "started": started,
                "finished": records.now(),
                **facts,
                "csv_sha256": sha256(images),
            },
        )

    return once(record, facts, {"csv_sha256": images}, device, compute, Memory)


def write_images(path, labels, columns):
    """A row an image: its number, its label, and what :func:`kafnets.certification.certify.certify` says."""
    rows = zip(*(values.tolist() for values in (labels, *columns.values())), strict=True)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", *columns])
        writer.writerows([number, *row] for number, row in enumerate(rows))
