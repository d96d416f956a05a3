"""The batches of a training: which images, in which order, augmented, on the device.

A training set lies on the device as a whole (:class:`Resident`), or in the host's memory, from where its
batches are sent one ahead (:class:`Streamed`). Both give the same batches, bit for bit.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..runtime.errors import UserError
from .augmentation import AUGMENTATIONS

# A training set that takes a larger share of a GPU's memory than this is streamed.
RESIDENT_SHARE = 0.25


def create_batches(settings, dataset, device, streamed=None):
    """The batches of a run.

    Args:
        settings (dict): the run's settings; `seed`, and `batch_size` and `augmentation` under `training`.
        dataset (kafnets.data.Dataset): uint8 images in the host's memory.
        device (torch.device): where the batches are needed.
        streamed (bool, optional): send batch by batch; default: where the images would take too much of a
            GPU's memory.

    Raises:
        UserError: when a batch would hold more images than there are.
    """
    if streamed is None:
        streamed = device.type == "cuda" and not _fits(dataset.train_images, device)
    return (Streamed if streamed else Resident)(settings, dataset, device)


def _fits(images, device):
    memory = torch.cuda.get_device_properties(device).total_memory
    return images.numel() * images.element_size() <= RESIDENT_SHARE * memory


class Batches:
    """What both kinds share. A batch is given as the numbers of the rows of `images` where it lies.

    So the tensors that a step reads keep their place, as a CUDA graph asks for.

    Args:
        settings, dataset, device: see :func:`create_batches`.
    """

    images: torch.Tensor  # uint8, (rows, C, H, W), on the device
    labels: torch.Tensor  # int64, (rows,)

    def __init__(self, settings, dataset, device):
        options = settings["training"]
        self.seed, self.size, self.device = settings["seed"], options["batch_size"], device
        self.augment = AUGMENTATIONS[options["augmentation"]]
        self.examples = len(dataset.train_labels)
        if self.size > self.examples:
            raise UserError(
                f"training.batch_size: {self.size} is more than the {self.examples} training images; "
                "write at most as many"
            )
        self.steps_per_epoch = -(-self.examples // self.size)

    def order(self, epoch):
        """The training images' numbers in the order of an epoch: a function of the seed and the epoch."""
        # hashed together, because torch's generator on the CPU reads no more than 32 bits of a seed
        seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        return torch.randperm(self.examples, generator=torch.Generator().manual_seed(seed))

    def epoch(self, number, first_step=0):
        """The batches of an epoch from a step on, one after the other.

        Yields:
            Tensor: int64 rows of `images` and `labels`, on the device; they hold the batch until the next one
            is asked for. The last batch may be smaller than the others.
        """
        raise NotImplementedError

    def take(self, rows):
        """The batch in `rows`: augmented images, float in [0, 1], channels last in memory, and labels."""
        return _pixels(self.augment(self.images, rows)), self.labels[rows]

    def untouched(self, rows):
        """As :meth:`take`, without the augmentation; it draws no random number."""
        return _pixels(self.images[rows]), self.labels[rows]


def _pixels(images):
    return (images / 255).contiguous(memory_format=torch.channels_last)


class Resident(Batches):
    """The whole training set is on the device."""

    def __init__(self, settings, dataset, device):
        super().__init__(settings, dataset, device)
        self.images, self.labels = dataset.train_images.to(device), dataset.train_labels.to(device)

    def epoch(self, number, first_step=0):
        order = self.order(number).to(self.device)
        for step in range(first_step, self.steps_per_epoch):
            yield order[step * self.size : (step + 1) * self.size]


class Streamed(Batches):
    """The training set is in the host's memory; two batches are on the device.

    While the device computes on one of them, a thread gathers the next in pinned memory, from where it is
    copied into the place of the other.
    """

    def __init__(self, settings, dataset, device):
        super().__init__(settings, dataset, device)
        self.source = dataset.train_images, dataset.train_labels
        on_gpu = device.type == "cuda"
        self.staged = [self._two_batches(tensor, pin_memory=on_gpu) for tensor in self.source]
        self.images, self.labels = (self._two_batches(tensor, device=device) for tensor in self.source)
        self.rows = torch.arange(2 * self.size, device=device)
        self.transfer = _GpuTransfer(device) if on_gpu else _Transfer()

    def _two_batches(self, like, **where):
        return torch.zeros(2 * self.size, *like.shape[1:], dtype=like.dtype, **where)

    def epoch(self, number, first_step=0):
        parts = self.order(number).split(self.size)[first_step:]
        places = [
            slice(step % 2 * self.size, step % 2 * self.size + len(part)) for step, part in enumerate(parts)
        ]
        with ThreadPoolExecutor(1) as reader:

            def read(step):
                self.transfer.wait(step % 2)
                return reader.submit(self._gather, parts[step], places[step])

            reading = read(0) if parts else None
            for step, place in enumerate(places):
                reading.result()
                with self.transfer.copying(step % 2):
                    for staged, tensor in zip(self.staged, (self.images, self.labels), strict=True):
                        tensor[place].copy_(staged[place], non_blocking=True)
                if step + 1 < len(parts):
                    reading = read(step + 1)
                yield self.rows[place]
                self.transfer.launched(step % 2)

    def _gather(self, numbers, place):
        """Runs in the thread; calls nothing of CUDA, which would end a capture in the other thread."""
        for tensor, staged in zip(self.source, self.staged, strict=True):
            torch.index_select(tensor, 0, numbers, out=staged[place])


class _Transfer:
    """The order of copying and computing, for each of the two batches; on the CPU both happen at once."""

    def copying(self, which):
        """A context for the copies of a batch to the device; what is computed afterwards waits for them."""
        return contextlib.nullcontext()

    def launched(self, which):
        """Says that all that reads the batch on the device has been launched."""

    def wait(self, which):
        """Returns when the last copy of the batch has left the host's memory."""


class _GpuTransfer(_Transfer):
    """On a GPU copies have a stream of their own, so that they run beside the computing."""

    def __init__(self, device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))  # on which the memory was made
        self.copied, self.computed = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))

    @contextlib.contextmanager
    def copying(self, which):
        self.stream.wait_event(self.computed[which])
        with torch.cuda.stream(self.stream):
            yield
        self.copied[which].record(self.stream)
        torch.cuda.current_stream(self.device).wait_event(self.copied[which])

    def launched(self, which):
        self.computed[which].record(torch.cuda.current_stream(self.device))

    def wait(self, which):
        self.copied[which].synchronize()
