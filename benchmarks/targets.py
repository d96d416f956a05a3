"""What benchmarks.gpu has measured beside what is aimed at, and how long the thesis's grid would take."""

from pathlib import Path
from typing import NamedTuple

from kafnets.config import reading, slices
from kafnets.registry import is_trainable
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json

ROOT = Path(__file__).parents[1]
STEPS = 50_000 / 128  # of an epoch of CIFAR-10 with batches of 128
GRID = ("vgg", "resnet20")
START_SECONDS = 10  # of a job: its Python, its kernels, its CUDA graph; jobs start side by side


class Row(NamedTuple):
    """A line of the table; `limit` None: nothing is aimed at; `most`: whether it is the most or the least."""

    what: str
    value: float | None
    unit: str = ""
    limit: float | None = None
    most: bool = True

    @property
    def met(self):
        if self.value is None or self.limit is None:
            return None
        return self.value <= self.limit if self.most else self.value >= self.limit


def rows(folder):
    """All lines, those that nothing was measured for too."""
    found = Found(folder)
    relu, kaf, swish = (found.step(name) for name in ("kafnets relu", "kafnets kaf", "kafnets swish"))
    peer, beside = found.step("compiled relu", "compiled"), found.step("kafnets relu", "compiled")
    lines = [
        Row("step, relu", value(relu, "step_ms"), "ms", 1.9),
        Row("step, relu: kernels", kernels(relu), "", 350),
        Row("step, kaf over relu", ratio(kaf, relu), "x", 1.1),
        Row("step, swish over relu", ratio(swish, relu), "x"),
        Row("step, kaf: kernels", kernels(kaf)),
        Row("eager loop over ours", ratio(found.step("eager loop relu"), relu), "x"),
        Row("compiled peer over ours", ratio(peer, beside), "x", 1.3, most=False),
        Row("compiled peer: kernels", kernels(peer)),
        Row("compiled peer: compiling", value(peer, "compile_seconds"), "s"),
        Row("ours: ready after", value(relu, "ready_seconds"), "s", 10),
        Row("real epoch over its steps, relu", found.real_epoch(), "x", 1.05),
    ]
    for count, step in found.together().items():
        lines.append(
            Row(f"{count} trainings in one process, a model-step", step, "ms", 0.85 if count == 8 else None)
        )
    for count, seconds in found.processes().items():
        lines.append(Row(f"{count} processes, a model-epoch", seconds, "s", 0.40 if count >= 6 else None))
    for name in ("relu", "kaf", "swish"):
        row = found.attack(name)
        lines.append(Row(f"PGD-50-10, {name}", value(row, "wall_seconds"), "s", 9))
        if row and "stored" in row["versus"]:
            before = row["versus"]["stored"]["correct"]
            lines.append(Row(f"PGD-50-10, {name}: robust", row["correct"], "images", before + 5))
    return [*lines, Row("the thesis's grid, estimated", grid_minutes(found), "min", 15)]


def print_table(folder):
    """The lines as text; what tiny sizes took, or not a GPU, is not judged by the targets."""
    device, judged = where(folder)
    print(f"\n{device:46}{'measured':>14}{'target':>10}")
    for row in rows(folder):
        measured = "-" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
        target = "" if row.limit is None else f"{'<=' if row.most else '>='} {row.limit:g}"
        verdict = {True: "met", False: "missed", None: ""}[row.met if judged else None]
        print(f"{row.what:46}{measured:>14}{target:>10}  {verdict}".rstrip())


def where(folder):
    """The device that the stages in a folder name, and whether what they measured can be judged."""
    found = Found(folder)
    facts = [
        found.read(stage).get("environment", {})
        for stage in ("check", "steps", "together", "compiled", "attack", "kaf", "processes")
    ]
    devices = {one["device"] for one in facts if one}
    tiny = any(row["tiny"] for row in found.read("stages").get("stages", []))
    on_gpu = bool(devices) and all(one.get("cuda") for one in facts if one)
    words = ", ".join(sorted(devices)) or "nothing measured yet"
    return words + ", tiny sizes" * tiny, on_gpu and not tiny


class Found:
    """The figures in a folder, as far as there are any."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def read(self, name):
        try:
            return read_json(self.folder / f"{name}.json")
        except UserError:
            return {}

    def step(self, contestant, stage="steps"):
        return _one(self.read(stage).get("contestants", []), contestant=contestant)

    def real_epoch(self, activation="relu"):
        return value(_one(self.read("steps").get("whole_epochs", []), activation=activation), "times_steps")

    def together(self):
        """How many trainings in one process -> milliseconds of a model's step."""
        return {row["trainings"]: row["model_step_ms"] for row in self.read("together").get("together", [])}

    def processes(self):
        """How many processes -> seconds of a model's epoch."""
        return {
            row["jobs"]: row["seconds_per_model_epoch"] for row in self.read("processes").get("sharing", [])
        }

    def attack(self, activation):
        return _one(self.read("attack").get("rows", []), row=activation)


def _one(rows, **facts):
    return next((row for row in rows if facts.items() <= row.items()), None)


def value(row, key):
    return None if row is None else row.get(key)


def kernels(row):
    return value(value(row, "launched") or {}, "kernels")


def ratio(row, reference):
    if row is None or reference is None:
        return None
    return row["step_ms"] / reference["step_ms"]


def grid_minutes(found, config=None):
    """How long the 15 trainings, their evaluations and tables will take on one GPU, from what was measured.

    Trainings: their epochs times the steps' time, of a KAF's by its ratio, times what a real epoch takes
    beyond its steps, times what trainings side by side save. Attacks: PGD-50-10 and the thesis protocol,
    which has as many iterations and restarts, at the mean of the measured networks; a VGG's by the ratio
    of the steps.

    Args:
        found (Found): the figures.
        config (dict, optional): default: config.yaml.

    Returns:
        float, or None where a figure is missing.
    """
    config = config or reading.read_yaml(ROOT / "config.yaml")
    relu, kaf, vgg = (found.step(name) for name in ("kafnets relu", "kafnets kaf", "kafnets vgg relu"))
    attacks = [row["wall_seconds"] for row in map(found.attack, ("relu", "kaf", "swish")) if row]
    if not (relu and kaf and vgg and attacks):
        return None
    beside = min([relu["step_ms"], *found.together().values()]) / relu["step_ms"]
    overhead = (found.real_epoch() or 1.0) * beside
    seconds = START_SECONDS
    for experiment in GRID:
        size = 1.0 if experiment == "resnet20" else vgg["step_ms"] / relu["step_ms"]
        for activation in config["experiments"][experiment]["activations"]:
            training = slices.training_settings(config, experiment, activation, 0)["training"]
            epochs = training["epochs"] + training["tail"]["epochs"]
            slower = ratio(kaf, relu) if is_trainable(activation) else 1.0
            seconds += epochs * STEPS * relu["step_ms"] / 1000 * size * slower * overhead
            seconds += 2 * size * sum(attacks) / len(attacks)
    return seconds / 60
