"""One attack on one network, to files: the record and the verdicts."""

from safetensors.torch import save

from ..evaluation.judge import IDENTITY, RESUMABLE, AttackProgress, Memory, evaluate
from ..runtime import records
from ..runtime.files import atomic_path, sha256, write_json
from ..runtime.graphs import own_stream
from ..runtime.progress import line
from .once import once


def judge_once(load, dataset, settings, facts, record, verdicts, device, *, title="", batch_size=None):
    """Judges and writes down, unless the record proves that it is done.

    Killed at any moment and called again, the `RESUMABLE` attacks go on where they were.

    Args:
        load (callable): takes the device; returns the network, and those that the attack crafts examples on.
            Not called where nothing is to be done.
        dataset (Dataset): its test images are judged.
        settings (dict): as of :func:`kafnets.evaluation.judge.evaluate`.
        facts (callable): see :func:`.once.once`.
        record, verdicts (Path): written.
        device (callable): takes nothing, returns the torch.device that computes.
        title (str): whose progress is shown.
        batch_size (int, optional): images per forward pass.

    Returns:
        int: the exit code: 0, or that of the signal by which it was stopped.
    """
    name = settings.get("attack", settings.get("method", "attack"))

    def compute(facts, device, memory):
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

    memory = Memory if settings.get("method") in RESUMABLE else None  # a signal ends the others at once
    return once(record, facts, {"verdicts_sha256": verdicts}, device, compute, memory, "judged")
