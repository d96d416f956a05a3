"""Which weights of a training are kept: of which epoch, and as they are or averaged.

Never by test images: a part of the training set is held out for that (L. Rice, E. Wong and J. Z. Kolter, ICML
2020, arXiv:2002.11569). Beside it the early stopping of fast adversarial training (E. Wong, L. Rice and J. Z.
Kolter, ICLR 2020), which looks for a collapse.
"""

import contextlib
import dataclasses

import torch

from ..attacks.pgd import pgd
from ..data.dataset import chosen
from ..runtime.units import fraction

HELD_OUT_SEED = 20200226  # draws the images that are held out, the same ones for every seed of a training
BEST, LAST, AVERAGED, RAW = "best", "last", "averaged", "raw"
STOP = {"iterations": 5, "drop": 0.2}  # of the authors' early stopping


def split(dataset, settings):
    """The data set without the training images that `training.validation` holds out, and these.

    Args:
        dataset (kafnets.data.Dataset): uint8 images.
        settings (dict): the run's settings.

    Returns:
        (kafnets.data.Dataset, (Tensor, Tensor) or None): None where none are held out.
    """
    options = settings["training"].get("validation")
    if options is None:
        return dataset, None
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    order = torch.randperm(len(dataset.train_labels), generator=generator)
    held, left = order[: options["examples"]], order[options["examples"] :].sort().values
    images, labels = dataset.train_images, dataset.train_labels
    rest = dataclasses.replace(dataset, train_images=chosen(images, left), train_labels=labels[left])
    return rest, (images[held], labels[held])


class Selection:
    """The end-of-epoch measurements that decide which weights are kept, and those weights.

    Args:
        settings (dict): the run's settings; of `training` `validation`, `early_stopping` and `averaging` are
            read, each of which may be absent.
        dataset (kafnets.data.Dataset): without what is held out.
        held_out (tuple of Tensor or None): of :func:`split`.
        training (Training): of the run.
    """

    def __init__(self, settings, dataset, held_out, training):
        options = settings["training"]
        self.training, self.images, self.labels = training, dataset.train_images, dataset.train_labels
        self.validation, self.held_out = options.get("validation"), held_out
        given = options.get("early_stopping")
        self.stopping = None if given is None else {**STOP, **given}
        keep = options.get("averaging", {}).get("keep", AVERAGED)
        self.averaged = training.averaged is not None and keep == AVERAGED
        self.epochs = options["epochs"] + options["tail"]["epochs"]
        self.position = {"stopped": None, "previous": None, "best": None, "epoch": None, "last": None}
        self.weights = None  # of the epoch `position["epoch"]`, where they are not the last ones

    def measure(self, epoch, after_pass):
        """The history's columns after `epoch`, counted from 0; `after_pass` as of the monitor."""
        row = {}
        if self.validation is not None:
            found = {RAW: (None, None), AVERAGED: (None, None)}
            if (epoch + 1) % self.validation.get("every", 1) == 0 or epoch + 1 == self.epochs:
                found[RAW] = self._accuracies(self.validation, *self.held_out, after_pass)
                if self.training.averaged is not None:
                    with self.training.averaged.installed(self.images):
                        found[AVERAGED] = self._accuracies(self.validation, *self.held_out, after_pass)
            row["validation_accuracy"], row["validation_pgd_accuracy"] = found[RAW]
            if self.training.averaged is not None:
                row["averaged_accuracy"], row["averaged_pgd_accuracy"] = found[AVERAGED]
        if self.stopping is not None:
            batch = self.training.batches.order(epoch)[: self.training.batches.size]
            images, labels = self.images[batch], self.labels[batch]
            row["train_pgd_accuracy"] = self._accuracies(self.stopping, images, labels, after_pass)[1]
        return row

    def _accuracies(self, options, images, labels, after_pass):
        """Accuracy, and that under PGD, from the same random starts in every epoch."""
        device = self.training.device
        result = pgd(
            self.training.model,
            images.to(device).float().div_(255),
            labels.to(device),
            eps=fraction(options["eps"]),
            step=fraction(options["step"]),
            iterations=options["iterations"],
            progress=lambda *_: after_pass(),
        )
        return result.clean.double().mean().item(), result.robust.double().mean().item()

    def note(self, row):
        """Takes note of an epoch by its row of the history; whether the training stops with it."""
        position = self.position
        if self.stopping is not None:
            accuracy, before = row["train_pgd_accuracy"], position["previous"]
            if before is not None and accuracy < before - self.stopping["drop"]:
                position["stopped"] = row["epoch"]
                return True
            position["previous"] = accuracy
        if self.validation is not None:
            self._compare(row)
        elif self.stopping is not None:
            self._keep(row["epoch"])  # the last good state
        return False

    def _compare(self, row):
        """Keeps an epoch if it is the best so far."""
        position, best = self.position, self.validation.get("keep", BEST) == BEST
        column = "averaged_pgd_accuracy" if self.averaged else "validation_pgd_accuracy"
        if row[column] is not None:
            found = {"epoch": row["epoch"], "accuracy": row[column.replace("_pgd", "")]}
            found["pgd_accuracy"] = row[column]
            better = position["best"] is None or row[column] > position["best"]["pgd_accuracy"]
            position["last"] = found
            if better:
                position["best"] = found
            if better and best:
                self._keep(row["epoch"])
        if self.stopping is not None and not best:
            self._keep(row["epoch"])  # the last good state

    def _keep(self, epoch):
        self.position["epoch"] = epoch
        averaged = self.training.averaged
        with averaged.installed(self.images) if self.averaged else contextlib.nullcontext():
            state = self.training.model.state_dict()
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    @property
    def stopped(self):
        return self.position["stopped"] is not None

    def install(self, last_epoch):
        """Gives the network the weights that are kept, when the training is over; what a record says of it.

        Returns:
            (dict or None, dict or None): the facts, and the last epoch's own weights where the network has
            others now; None where nothing was to be chosen.
        """
        chosen = self.validation or self.stopping or self.training.averaged is not None
        if not chosen:
            return None, None
        model = self.training.model
        last = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
        epoch = self.position["epoch"] or last_epoch
        if self.weights is not None and (epoch != last_epoch or self.averaged):
            model.load_state_dict(self.weights)
        elif self.averaged:
            self.training.averaged.install(self.images)
        facts = {"epoch": epoch, "weights": AVERAGED if self.averaged else RAW}
        if self.validation is not None:
            facts |= {name: self.position[name] for name in (BEST, LAST)}
        if self.stopping is not None:
            facts["stopped_at"] = self.position["stopped"]
        others = epoch != last_epoch or self.averaged
        return facts, last if others else None

    def state(self):
        return {"position": dict(self.position), "weights": self.weights}

    def restore(self, state):
        self.position, self.weights = dict(state["position"]), state["weights"]
