"""A record made once: by one process at a time, and not again where it proves that it is there."""

from ..activations import active_backend
from ..runtime import checkpoint, records
from ..runtime.files import alone
from ..runtime.interruption import Interrupted, SignalFlag
from ..runtime.progress import line


def once(record, facts, written, device, compute, memory=None, made="made"):
    """Computes and writes, unless the record proves that it is done.

    Args:
        record (Path): written by `compute`, with what else is `written`.
        facts (callable): takes nothing; returns what the record says of its inputs, a dict, and a record that
            says otherwise is of something else. Among them `settings`, `data_sha256`, `model_sha256` and
            `code`, the version of the code.
        written (dict): key of the record to file: the key holds its checksum.
        device (callable): takes nothing, returns the torch.device that computes.
        compute (callable): takes the facts, the device and the memory, or None.
        memory (callable, optional): takes a path, a name and a SignalFlag; returns where `compute` goes on
            after an interruption. Without one a signal ends it at once.
        made (str): what is done with it, for the log.

    Returns:
        int: the exit code: 0, or that of the signal by which it was stopped.
    """
    with alone(record) as waited:
        facts = facts()
        if records.is_made(record, facts, written, waited):
            line(f"the other process has {made} it" if waited else f"{record}: {made} already")
            checkpoint.discard(checkpoint.beside(record, "any"))
            return 0
        device = device()
        if memory is None:
            compute(facts, device, None)
            return 0
        backend = active_backend(facts["settings"].get("activation"), device)
        name = checkpoint.fingerprint({**facts, "device": device.type, "kaf_backend": backend})
        path = checkpoint.beside(record, name)
        with SignalFlag() as stop:
            try:
                compute(facts, device, memory(path, name, stop))
            except Interrupted as signal_name:
                line(f"stopped by {signal_name}; the same command goes on from {path}")
                return signal_name.exit_code
        checkpoint.discard(path)
        return 0
