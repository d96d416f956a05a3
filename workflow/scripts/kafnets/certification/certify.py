"""One network under one certificate: what is proved of every image, and what it cost."""

import time

import torch

from ..attacks.arguments import as_pixels
from ..attacks.base import device_of, frozen, predict
from ..registry import CERTIFICATES, lookup
from ..runtime import checkpoint, turns
from ..runtime.device import exact_convolutions
from ..runtime.errors import UserError, is_out_of_memory
from ..runtime.progress import bar, duration, line
from .entry import ABSTAINED, create_certificate

CHECKPOINT_SECONDS = 60
_SECONDS_BETWEEN_LINES = 20


def certify(network, images, labels, method, settings, *, batch_size=128, progress=None, memory=None):
    """Certifies a network at every image.

    What is proved is proved of the network itself, which runs in float32 without TF32 on a GPU; what of the
    rounding there is covered says each certificate.

    Args:
        network (nn.Module): classifier of images in [0, 1], on the device that shall compute.
        images (Tensor): (N, C, H, W) uint8.
        labels (Tensor): (N,) int64, the true classes.
        method (str): a key of :data:`kafnets.registry.CERTIFICATES`.
        settings (dict): the certificate's own, as config.yaml has them.
        batch_size (int): images per forward pass, at most; halved as often as the device's memory asks for.
        progress (callable, optional): called after some images with how many are done, how many are left, and
            the share of those done that are certified at any radius as their label.
        memory (Memory, optional): where to go on after an interruption. An image that was certified before is
            not certified again, and the result is the one of an uninterrupted run, bit by bit.

    Returns:
        (dict, dict): the record's figures, and of every image, in (N,) tensors on the CPU, `answer` (the
        network's own), `prediction` and `radius` (of :class:`.entry.Certified`), what the certificate says
        beside them, and `seconds`.

    Raises:
        UserError: for an unknown method, wrong settings, or a network that cannot be certified by it.
        Interrupted: by `memory`, after a signal.
    """
    if images.dtype is not torch.uint8:
        raise ValueError(f"images: expected uint8 pixels, found {images.dtype}")
    if not len(images):
        raise UserError("the test set is empty")
    entry = lookup(CERTIFICATES, method, "method")
    device = device_of(network, images)
    parts = [] if memory is None else memory.recall()
    first = sum(_length(part) for part in parts)
    right = sum(_certified(part, labels) for part in parts)
    with frozen(network), torch.no_grad(), exact_convolutions():
        started = time.perf_counter()
        certificate = create_certificate(method, network, images.shape[1:], batch_size, settings)
        preparation = _seconds_since(started, device)
        while first < len(images):
            step = certificate.images_per_call or certificate.batch_size
            numbers = list(range(first, min(first + step, len(images))))
            part = _in_memory(certificate, images, labels, numbers, device)
            if part is None:
                continue
            parts.append(part)
            first, right = numbers[-1] + 1, right + _certified(parts[-1], labels)
            if progress is not None:
                progress(first, len(images) - first, right / first)
            if memory is not None:
                memory.note(parts)
    columns = _joined(parts)["columns"]
    figures = {
        "norm": settings.get("norm", entry.norm),
        **_figures(columns, labels.cpu()),
        "facts": certificate.facts,
        "batch_size": certificate.batch_size,
        "preparation_seconds": preparation,
        "seconds_per_image": float(columns["seconds"].mean()),
    }
    return figures, columns


def _in_memory(certificate, images, labels, numbers, device):
    """What :func:`_some` returns; None where the memory did not hold it: batches are half as large then."""
    try:
        return _some(certificate, images, labels, numbers, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or certificate.batch_size == 1:
            raise
    # out of the handler: its traceback holds the tensors of the failed pass
    certificate.batch_size //= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()
    line(f"out of memory: once more with {certificate.batch_size} images at a time")
    return None


def _some(certificate, images, labels, numbers, device):
    """What is proved of the images with these numbers, as plain tensors for a checkpoint."""
    pixels = as_pixels(certificate.network, images[numbers], device)
    logits = predict(certificate.network, pixels, certificate.batch_size)
    answer = torch.where(logits.isfinite().all(1), logits.argmax(1), ABSTAINED)
    started = time.perf_counter()
    found = certificate(pixels, labels[numbers].to(device), numbers)
    if len(found.predictions) != len(numbers):
        raise ValueError(f"the certificate spoke of {len(found.predictions)} images of {len(numbers)}")
    seconds = _seconds_since(started, device) / len(numbers)
    columns = {
        "answer": answer.cpu(),
        "prediction": found.predictions,
        "radius": found.radii,
        **found.extra,
        "seconds": torch.full((len(numbers),), seconds, dtype=torch.float64),
    }
    return {"first": numbers[0], "columns": columns}


def _length(part):
    return len(part["columns"]["seconds"])


def _seconds_since(started, device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _certified(part, labels):
    """How many of some images are certified, at whatever radius, as what they are."""
    true = labels[part["first"] : part["first"] + _length(part)].cpu()
    return int(((part["columns"]["prediction"] == true) & (part["columns"]["radius"] > 0)).sum())


def _joined(parts):
    """The parts of consecutive images as one."""
    names = parts[0]["columns"]
    columns = {name: torch.cat([part["columns"][name] for part in parts]) for name in names}
    return {"first": parts[0]["first"], "columns": columns}


def _figures(columns, labels):
    right = columns["prediction"] == labels
    radii = torch.where(right, columns["radius"], 0.0)
    return {
        "examples": len(right),
        "clean_accuracy": float((columns["answer"] == labels).double().mean()),
        "accuracy": float(right.double().mean()),
        "certified": float((radii > 0).double().mean()),
        "abstained": int((columns["prediction"] == ABSTAINED).sum()),
        # the average certified radius: 0 counts for what is misclassified or abstained from
        "average_radius": float(radii.mean()),
    }


class Memory:
    """The images that are done, on disk, for the same certification to go on from after an interruption.

    Args:
        path (Path): the file; it is the caller's to delete at the end.
        name (str): of all that decides the result (:func:`kafnets.runtime.checkpoint.fingerprint`).
        stop (SignalFlag): asked after every call of the certificate; when there was a signal, what is done is
            saved first.
        seconds (float): between two saves.

    Raises:
        UserError: when the file cannot be read, or belongs to another certification.
    """

    def __init__(self, path, name, stop, seconds=CHECKPOINT_SECONDS):
        self.path, self.name, self.stop, self.seconds = path, name, stop, seconds
        self.saved = time.monotonic()
        left = checkpoint.read(path, name)
        self.parts = [] if left is None else [left["done"]]
        self.first = sum(map(_length, self.parts))

    def recall(self):
        """What an earlier process, or an earlier call of this one, has done: a list to go on with."""
        if self.parts:
            line(f"going on after {self.first} images")
        return self.parts

    def note(self, parts):
        """Saves what is done when it is time to.

        Raises:
            Interrupted: when there was a signal.
        """
        now = time.monotonic()
        if self.stop.received or now - self.saved > self.seconds:
            done = _joined(parts)
            # `step`: how far it is, see kafnets.pipeline.precedence
            checkpoint.write(self.path, {"fingerprint": self.name, "step": _length(done), "done": done})
            self.saved = time.monotonic()
        self.stop.check()


class Progress:
    """Shows how far a certification has come: a bar on a terminal, else a line to the log now and then.

    Args:
        name (str): what the line begins with.
        first (int): images that earlier processes have done.
    """

    def __init__(self, name, first=0):
        self.name, self.first, self.started = name, first, time.perf_counter()
        self.written = self.started
        self.bar = bar(None, name)

    def __call__(self, done, left, certified):
        turns.give_way()
        now = time.perf_counter()
        gone = now - self.started
        remaining = gone * left / (done - self.first)
        self.bar.total = done + left
        self.bar.set_postfix_str(f"certified {certified:.2%}", refresh=False)
        self.bar.update(done - self.bar.n)
        if self.bar.disable and (now - self.written > _SECONDS_BETWEEN_LINES or not left):
            self.written = now
            line(
                f"{self.name}: {done} of {done + left} images, certified {certified:.2%} so far, "
                f"{duration(gone)} gone, {duration(remaining)} left"
            )

    def close(self):
        self.bar.close()
