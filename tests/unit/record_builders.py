"""Records, verdicts and manifests in the format of the pipeline, for the tests of what reads them."""

import csv
import json

import numpy
from kafnets.runtime.files import sha256, write_json, write_sealed
from safetensors.numpy import save_file

EXAMPLES = 200
ATTACKS = {
    "clean": {"method": "clean"},
    "pgd": {"method": "pgd", "eps": "8/255", "step": "2/255", "iterations": 50, "restarts": 10},
    "thesis_pgd": {"method": "thesis_pgd", "eps": "8/255", "step": "2/255", "iterations": 50, "restarts": 10},
}
HISTORY = [
    "epoch",
    "phase",
    "learning_rate",
    "loss",
    "fgsm_accuracy",
    "clean_accuracy",
    "probe_fgsm_accuracy",
    "probe_pgd_accuracy",
    "gradient_norm",
    "seconds",
]


class Results:
    """A folder of results that grows by `add` and lists what was added in its manifest.

    `correct` maps an attack to how many of EXAMPLES images stay correct; that of "clean" is always needed.
    """

    def __init__(self, folder):
        self.folder = folder
        self.lines = []

    def add(
        self, activation, correct, *, experiment="vgg", seed=0, overfitting=None, epochs=6, published=False
    ):
        name = f"{experiment}/{activation}/seed{seed}"
        run = {"experiment": experiment, "activation": activation, "seed": seed}
        models = self.folder / "models" / name
        settings = {
            "architecture": "vgg",
            "activation": activation,
            "seed": seed,
            "training": {"adversary": {"name": "fbf", "eps": "8/255"}, "epochs": epochs, "batch_size": 128},
        }
        if published:
            del settings["training"]
            settings["weights"] = "published"
        collapse = {
            "detected": overfitting is not None,
            "first_epoch": None,
            "at_end": overfitting == "at_end",
        }
        write_history(models / "history.csv", epochs, start=2.3 + 0.05 * len(self.lines))
        trained = {
            "wall_seconds": 12.5,
            "final": {"epoch": epochs},
            "catastrophic_overfitting": collapse,
            "history_sha256": sha256(models / "history.csv"),
        }
        write_json(
            models / "record.json",
            {
                "kind": "published" if published else "training",
                **run,
                "settings": settings,
                "parameters": {"trainable": 551_000, "activation": 0},
                **({} if published else trained),
                "model_sha256": f"sha of {name}",
            },
        )
        line = {
            **run,
            "architecture": "vgg",
            "dataset": "cifar10",
            "training_record": str(models / "record.json"),
            "history": None if published else str(models / "history.csv"),
            "training_settings": settings,
            "evaluations": {
                attack: self._evaluation(run, name, attack, count, correct["clean"])
                for attack, count in correct.items()
            },
        }
        self.lines.append(line)
        return line

    def _evaluation(self, run, name, attack, correct, clean):
        folder = self.folder / "evaluations" / name
        folder.mkdir(parents=True, exist_ok=True)
        verdicts = folder / f"{attack}.safetensors"
        save_file({"robust": first(correct), "clean": first(clean)}, verdicts)
        iterations = ATTACKS[attack].get("iterations")
        write_json(
            folder / f"{attack}.json",
            {
                "kind": "evaluation",
                **run,
                "attack": attack,
                "settings": ATTACKS[attack],
                "examples": EXAMPLES,
                "correct": correct,
                "accuracy": correct / EXAMPLES,
                "clean_accuracy": clean / EXAMPLES,
                "queries": 1000,
                "gradients": 900,
                "zero_gradient_fraction": 0.0,
                "random": False,
                "accuracy_by_iteration": iterations and falling(clean, correct, iterations),
                "wall_seconds": 3.25,
                "model_sha256": f"sha of {name}",
                "verdicts_sha256": sha256(verdicts),
            },
        )
        return {
            "record": str(folder / f"{attack}.json"),
            "verdicts": str(verdicts),
            "settings": ATTACKS[attack],
        }

    def manifest(self):
        path = self.folder / "manifest.jsonl"
        write_sealed(path, "".join(json.dumps(line) + "\n" for line in self.lines))
        return path


def first(count):
    """Verdicts of which the first `count` are 1."""
    return (numpy.arange(EXAMPLES) < count).astype(numpy.uint8)


def falling(clean, robust, iterations):
    """Accuracies of k = 0..iterations steps that fall from the clean one to the robust one."""
    decay = numpy.exp(-0.3 * numpy.arange(iterations + 1))
    return [float(a) for a in (robust + (clean - robust) * decay) / EXAMPLES]


def write_history(path, epochs, start):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HISTORY)
        for epoch in range(1, epochs + 1):
            phase = "cycle" if epoch <= epochs - 2 else "tail"
            accuracy = 1 - 0.9 * 0.9**epoch
            accuracies = [round(accuracy * part, 4) for part in (0.5, 0.9, 0.55, 0.48)]
            writer.writerow([epoch, phase, 0.1, start * 0.95**epoch, *accuracies, 1 + 0.1 * epoch, 4.2])


def edit_json(path, **changes):
    """Changes keys of a JSON file in place; a key given as None is removed."""
    with open(path, encoding="utf-8") as file:
        value = json.load(file)
    for key, change in changes.items():
        value.pop(key, None)
        if change is not None:
            value[key] = change
    write_json(path, value)
