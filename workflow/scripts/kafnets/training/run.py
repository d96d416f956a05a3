"""A whole training: from its settings, or a checkpoint, to the trained network and its history."""

import time

import torch

from ..activations import active_backend
from ..runtime import checkpoint, progress, turns
from ..runtime.errors import UserError, is_out_of_memory
from ..runtime.graphs import computing_on, wait_for
from ..runtime.interruption import Interrupted, SignalFlag
from .monitor import Monitor
from .schedule import learning_rates
from .selection import Selection, split
from .training import Training

CHECKPOINT_SECONDS = 60.0
# On a GPU the host asks only now and then whether all was finite: each question waits for the queue to empty.
CHECK_STEPS = 100


def run_fingerprint(settings, dataset, device, code=""):
    """A short name of all that decides a run's weights: settings, data, code, and how a KAF is computed."""
    backend = active_backend(settings["activation"], device)
    facts = {"settings": settings, "data": dataset.sha256, "kaf_backend": backend}
    return checkpoint.fingerprint({**facts, "code": code})


def train(
    settings,
    dataset,
    device,
    checkpoint_path,
    checkpoint_seconds=CHECKPOINT_SECONDS,
    deferred=None,
    streamed=None,
    code="",
):
    """Trains one network from its settings, or from where an interrupted run of the same settings stopped.

    On the CPU a run interrupted at any moment and resumed ends with the weights of an uninterrupted one,
    bit for bit (with the same number of threads). Trainings in one process give way to each other after
    every step, and every pass of the measurements: see :func:`kafnets.runtime.side_by_side.side_by_side`.

    Args:
        settings (dict): one cell of the grid.
        dataset (kafnets.data.Dataset): the data the settings name.
        device (torch.device): where to compute.
        checkpoint_path (Path): the state of the unfinished run, written at the end of every epoch, every
            `checkpoint_seconds` within one and on SIGTERM or SIGINT. It is the caller's to delete at the end.
        checkpoint_seconds (float): seconds between two checkpoints within an epoch.
        deferred, streamed (bool, optional): see :class:`.training.Training`; `streamed` changes no bit.
        code (str): names the code that trains; a checkpoint of other code is another run's.

    Returns:
        (nn.Module, list of dict, dict): the trained network, one row an epoch, and `parameters`,
        `kaf_backend`, `seconds`, `probe_examples` (images of a probe, see :mod:`.monitor`), `single_step` of
        the method, and `selection` and `last` of :meth:`.selection.Selection.install`.

    Raises:
        UserError: when the loss or a gradient is not finite, the checkpoint is another run's, or the device's
            memory does not hold a step; the batch size that fits is named then.
        Interrupted: after a signal, with the state saved.
    """
    with computing_on(device):
        name = run_fingerprint(settings, dataset, device, code)
        dataset, held_out = split(dataset, settings)
        training = Training(settings, dataset, device, deferred, streamed)
        selection = Selection(settings, dataset, held_out, training)
        return _train(training, selection, settings, dataset, checkpoint_path, checkpoint_seconds, name)


def _train(training, selection, settings, dataset, checkpoint_path, checkpoint_seconds, name):
    device = training.device
    measure = Monitor(settings, dataset, device)
    rates = learning_rates(training.options, training.steps_per_epoch)
    position = {
        "epoch": 0,
        "step": 0,
        "sums": torch.zeros(4, dtype=torch.float64),
        "history": [],
        "seconds": 0.0,
    }
    saved = checkpoint.read(checkpoint_path, name)
    if saved is not None:
        training.restore(saved["training"])
        selection.restore(saved["selection"])
        position = saved["position"]
        progress.line(f"resuming at epoch {position['epoch'] + 1}, step {position['step'] + 1}")
    clock = _Clock(position["seconds"])

    def check():
        wait_for(device)
        training.check()

    def save(epoch, step, sums, history):
        check()
        position = {"epoch": epoch, "step": step, "sums": sums.cpu(), "history": history}
        position["seconds"] = clock.total()
        state = {"training": training.state(), "selection": selection.state(), "position": position}
        checkpoint.write(checkpoint_path, {"fingerprint": name, **state})

    epochs = len(rates) // training.steps_per_epoch
    history, first_step, sums = position["history"], position["step"], position["sums"].to(device)
    with SignalFlag() as stop, progress.bar(len(rates), _label(settings)) as bar:
        bar.update(position["epoch"] * training.steps_per_epoch + first_step)
        last_save = time.monotonic()

        def after_pass(*_):
            stop.check()
            turns.give_way()

        for epoch in range(position["epoch"], epochs):
            if selection.stopped:
                break
            training.begin_epoch(epoch)
            for step, rows in enumerate(training.batches.epoch(epoch, first_step), first_step):
                rate = rates[epoch * training.steps_per_epoch + step]
                sums += _step_in_memory(training, epoch, step, rows, rate)
                bar.update()
                if training.deferred and (step + 1) % CHECK_STEPS == 0:
                    check()
                if stop.received or time.monotonic() - last_save > checkpoint_seconds:
                    save(epoch, step + 1, sums, history)
                    last_save = time.monotonic()
                stop.check()
                turns.give_way()
            check()
            rate = rates[(epoch + 1) * training.steps_per_epoch - 1]
            try:
                chosen_by = selection.measure(epoch, after_pass)
                row = _row(training, epoch, rate, sums, measure, clock, history, after_pass)
            except Interrupted:  # the measurements may take minutes on a CPU: they are made again
                save(epoch, training.steps_per_epoch, sums, history)
                raise
            row |= chosen_by
            history.append(row)
            if selection.note(row):
                progress.line(f"stopped after epoch {epoch + 1}: the accuracy under PGD collapsed")
            first_step, sums = 0, torch.zeros_like(sums)
            save(epoch + 1, 0, sums, history)
            last_save = time.monotonic()
            progress.line(_describe(settings, row, epochs))
            stop.check()
    selected, last = selection.install(history[-1]["epoch"])
    return (
        training.model,
        history,
        {
            "parameters": training.parameters,
            "kaf_backend": active_backend(settings["activation"], device),
            "seconds": clock.total(),
            "probe_examples": len(measure.held_out[1]),
            "single_step": training.method.single_step,
            "selection": selected,
            "last": last,
        },
    )


def _step_in_memory(training, epoch, step, rows, rate):
    """One step of an epoch; when it does not fit an error, for a smaller batch is another training."""
    try:
        return training.step(rows, rate)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # out of the handler: its traceback holds the tensors of the failed pass
    size = training.batches.size
    fitting = fitting_batch_size(training, rows)
    found = f"{fitting} would fit (a step was tried)" if fitting else "2 do not fit either"
    raise UserError(
        f"training stopped at {training.where(epoch, step)}: out of memory on {training.device} with a "
        f"batch_size of {size}; {found}. Write a smaller one under training, or run fewer jobs on the device "
        "at a time"
    )


def fitting_batch_size(training, rows):
    """The largest of 1/2, 1/4, ... of the batch size with which a whole step fits; None when not even 2 do.

    The steps are really taken, outside any CUDA graph, so `training` is not to be used any more.

    Args:
        training (Training): with the batch size that does not fit.
        rows (Tensor): of any batch; a smaller one's images are taken several times.
    """
    size = training.batches.size // 2
    while size >= 2:  # a normalisation cannot train on one image
        torch.cuda.empty_cache()
        training.optimizer.zero_grad(set_to_none=True)
        try:
            training.update(*training.batches.take(rows.repeat(size)[:size]))
            return size
        except UserError:  # not finite, but computed
            return size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
    return None


class _Clock:
    """Seconds of computing, over interruptions."""

    def __init__(self, before):
        self.before, self.start = before, time.monotonic()

    def total(self):
        return self.before + time.monotonic() - self.start


def _row(training, epoch, rate, sums, measure, clock, history, after_pass):
    seen, loss, correct, norm = sums.tolist()
    measured = measure(training.model, epoch, after_pass)
    return {
        "epoch": epoch + 1,
        "phase": "cycle" if epoch < training.options["epochs"] else "tail",
        "learning_rate": rate,
        "loss": loss / seen,
        "fgsm_accuracy": correct / seen,
        **measured,
        "gradient_norm": norm / seen,
        "seconds": clock.total() - sum(earlier["seconds"] for earlier in history),
    }


def _label(settings):
    return f"{settings['experiment']}/{settings['activation']}/seed{settings['seed']}"


def _describe(settings, row, epochs):
    left = (epochs - row["epoch"]) * row["seconds"]
    robust = row["probe_pgd_accuracy"]
    held_out = "" if robust is None else f"  held-out PGD {robust:.3f}"
    return (
        f"{_label(settings)}  epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  "
        f"train {row['fgsm_accuracy']:.3f}  clean {row['clean_accuracy']:.3f}{held_out}  "
        f"{row['seconds']:.1f} s  left {progress.duration(left)}"
    )
