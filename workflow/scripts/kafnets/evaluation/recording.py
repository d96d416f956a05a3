"""One attack on one network, to files: the record and the verdicts, once, however often it is stopped."""

from safetensors.torch import save

from ..activations import active_backend
from ..runtime import checkpoint, records
from ..runtime.files import alone, atomic_path, sha256, write_json
from ..runtime.graphs import own_stream
from ..runtime.interruption import Interrupted, SignalFlag
from ..runtime.progress import line
from .judge import IDENTITY, RESUMABLE, AttackProgress, Memory, evaluate


def judge_once(load, dataset, settings, facts, record, verdicts, device, *, title="", batch_size=None):
    """Judges and writes down, unless the record proves that it is done.

    Killed at any moment and called again, the `RESUMABLE` attacks go on where they were.

    Args:
        load (callable): takes the device; returns the network, and those that the attack crafts examples on.
            Not called where nothing is to be done.
        dataset (Dataset): its test images are judged.
        settings (dict): as of :func:`.judge.evaluate`.
        facts (callable): takes nothing; returns what the record says of its inputs, a dict, and a record that
            says otherwise is of something else. Among them `settings`, `data_sha256`, `model_sha256` and
            `code`, the version of the code.
        record, verdicts (Path): written.
        device (callable): takes nothing, returns the torch.device that computes.
        title (str): whose progress is shown.
        batch_size (int, optional): images per forward pass.

    Returns:
        int: the exit code: 0, or that of the signal by which it was stopped.
    """
    with alone(record) as waited:
        facts = facts()
        if records.is_made(record, facts, {"verdicts_sha256": verdicts}, waited):
            line("the other process has judged it" if waited else f"{record}: judged already")
            checkpoint.discard(checkpoint.beside(record, "any"))
            return 0
        device = device()
        given = (load, dataset, settings, facts, record, verdicts, device, title, batch_size)
        if settings.get("method") not in RESUMABLE:  # a signal ends these at once
            _judge(*given)
            return 0
        backend = active_backend(settings.get("activation"), device)
        name = checkpoint.fingerprint({**facts, "device": device.type, "kaf_backend": backend})
        path = checkpoint.beside(record, name)
        with SignalFlag() as stop:
            try:
                _judge(*given, Memory(path, name, stop))
            except Interrupted as signal_name:
                line(f"stopped by {signal_name}; the same command goes on from {path}")
                return signal_name.exit_code
        checkpoint.discard(path)
        return 0


def _judge(load, dataset, settings, facts, record, verdicts, device, title, batch_size, memory=None):
    name = settings.get("attack", settings.get("method", "attack"))
    progress = AttackProgress(f"{name} on {title}", memory)
    started = records.now()
    with own_stream(device):
        model, sources = load(device)
        figures, found = evaluate(
            model,
            dataset.test_images,
            dataset.test_labels,
            settings,
            sources=sources,
            batch_size=batch_size or settings.get("batch_size"),
            progress=progress,
            memory=memory,
        )
    progress.close()
    line(
        f"{name}: accuracy {figures['accuracy']:.2%}, clean {figures['clean_accuracy']:.2%}, "
        f"{figures['examples']} images, {figures['wall_seconds']:.1f} s"
    )
    with atomic_path(verdicts) as temporary:
        temporary.write_bytes(save(found))
    write_json(
        record,
        {
            "kind": "evaluation",
            **{key: settings.get(key) for key in IDENTITY},
            **figures,
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "environment": records.environment(device),
            "started": started,
            "finished": records.now(),
            **facts,
            "verdicts_sha256": sha256(verdicts),
        },
    )
