"""The recipes for something new, followed to the tables: in the repository, and in a configuration."""

import csv
import json
import re
import subprocess
import sys

import pytest
import yaml

from tests.repository import ENVIRONMENT, ROOT, copy_repository, planned

TINY = ROOT / "tests" / "workflow" / "tiny.yaml"

# The same code is followed by both recipes: as files of the library, and as files beside a configuration.
ACTIVATIONS = '''"""Two activations."""

import torch
from torch import nn


class Bent(nn.Module):
    """max(x, slope x), without parameters."""

    def __init__(self, slope=0.5):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.maximum(x, self.slope * x)


class Scaled(nn.Module):
    """a_c tanh(x): one factor for each channel."""

    def __init__(self, channels, start=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), start))

    def forward(self, x):
        return self.scale.view(1, -1, *[1] * (x.dim() - 2)) * torch.tanh(x)
'''
NETWORK = '''"""A network."""

from kafnets.activations import layer_factory
from torch import nn


class Small(nn.Sequential):
    def __init__(self, activation, num_classes, activation_arguments=None, image_shape=(3, 32, 32), width=8):
        activate = layer_factory(activation, activation_arguments)
        super().__init__(
            *(nn.Conv2d(image_shape[0], width, 3, stride=2), nn.BatchNorm2d(width), activate(width)),
            *(nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width), activate(width)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)),
        )


def ready(width):
    """A network that is there already, of plain layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)),
    )
'''
ATTACK = '''"""An attack."""

import torch
from kafnets.attacks.base import AttackResult


@torch.no_grad()
def corners(model, images, labels, *, radius, samples=1, batch_size=None, seed=0, progress=None):
    """Random corners of the ball."""
    generator = torch.Generator(device=images.device).manual_seed(seed)
    adversarial = images.clone()
    clean = robust = model(images).argmax(1) == labels
    for _ in range(samples):
        signs = torch.rand(images.shape, generator=generator, device=images.device).sub(0.5).sign()
        tried = (images + radius * signs).clamp(0, 1)
        fooled = model(tried).argmax(1) != labels
        adversarial[fooled] = tried[fooled]
        robust = robust & ~fooled
    return AttackResult(adversarial, robust, clean, queries=len(images) * (samples + 1), gradients=0)
'''
DATA = '''"""A data set."""

import torch
from kafnets.data.dataset import Dataset


def prepare(source=None):
    """Bars of three brightnesses in noise, 16 x 16."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (120, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(120) % 3
    images[:, :, 4:12] += (50 * labels).to(torch.uint8)[:, None, None, None]
    return Dataset("bars", images[:80], labels[:80], images[80:], labels[80:], ("low", "mid", "high"), "here")
'''
METHOD = '''"""A training method."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from .base import Method, Update


@dataclass(frozen=True, kw_only=True)
class Noise(Method):
    """The mean cross-entropy on images with random noise."""

    eps: float

    def update(self, network, images, labels, state):
        noisy = (images + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp(0, 1)
        logits = network(noisy)
        return Update(functional.cross_entropy(logits, labels), logits, noisy)
'''

LABELS = {"bent": "Bent line", "scaled": "Scaled tanh", "torch_prelu": "PReLU (torch)"}
LEARNED = {"scaled": 12, "torch_prelu": 2}  # parameters of the activations


def experiment(adversary, activations, **arguments):
    """An overlay of the tiny configuration that uses the new names."""
    config = yaml.safe_load(TINY.read_text())
    tiny = config["experiments"].pop("tiny_resnet8")
    tiny.update(
        dataset="bars", architecture="small", architecture_arguments={"width": 6}, activations=activations
    )
    tiny.update(title="Mine", activation_arguments={"bent": {"slope": 0.25}, **arguments})
    tiny.update(train_examples=None, test_examples=None)
    tiny["training"]["adversary"] = adversary
    tiny["training"]["tail"]["epochs"] = 0
    config.update(experiments={"mine": tiny}, run=["mine"], seeds=[0], output="results/mine")
    corners = {"method": "corners", "radius": "16/255", "samples": 3}
    config["evaluation"] |= {"run": ["clean", "corners"], "headline": "corners"}
    config["evaluation"]["attacks"]["corners"] = corners
    config["card"]["run"] = config["certification"]["run"] = []
    return config


def snakemake(folder, *arguments, check=True):
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, arguments)],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
    )
    if check:
        assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


def check_results(out, activations):
    with open(out / "summary.csv", encoding="utf-8") as file:
        rows = [
            (row["activation"], row["attack"]) for row in csv.DictReader(file) if row["experiment"] == "mine"
        ]
    assert sorted(rows) == sorted((name, attack) for name in activations for attack in ("clean", "corners"))
    written = (out / "tables/mine.md").read_text()
    for name in activations:
        assert f"| {LABELS[name]}" in written
        drawn = out / f"plots/mine/kafs_{name}_seed0.pdf"
        assert drawn.exists() == (name in LEARNED)
        record = json.loads((out / f"models/mine/{name}/seed0/record.json").read_text())
        assert record["parameters"]["activation"] == LEARNED.get(name, 0)
        assert (record["settings"]["num_classes"], record["settings"]["image_shape"]) == (3, [3, 16, 16])


REGISTRY = {
    "ACTIVATIONS": (
        '"bent": Entry("kafnets.activations.mine:Bent", label="Bent line",'
        ' settings={"slope": {"type": "number"}}),'
        '"scaled": Entry("kafnets.activations.mine:Scaled", label="Scaled tanh", learns=True, per="channel"),'
        '"torch_prelu": Entry("torch.nn:PReLU", label="PReLU (torch)", learns=True,'
        ' settings={"init": {"type": "number"}}),'
    ),
    "ARCHITECTURES": '"small": Entry("kafnets.models.mine:Small", settings={"width": {"type": "integer"}}),',
    "ADVERSARIES": '"noise": Entry("kafnets.training.methods.mine:Noise", required=("eps",)),',
    "ATTACKS": (
        '"corners": Entry("kafnets.attacks.mine:corners", label="corners", required=("radius",),'
        ' optional=("samples",), settings={"radius": "fraction"}),'
    ),
    "DATASETS": '"bars": Entry("kafnets.data.mine:prepare", examples=(80, 40), classes=3, size=16),',
}


# Where a line of these stands; of the others in registry.py.
FILES = {"ADVERSARIES": "entries/training", "ATTACKS": "entries/attacks"}


def test_in_the_repository(tmp_path):
    """A file and a line for each."""
    folder = copy_repository(tmp_path / "repository")
    library = folder / "workflow/scripts/kafnets"
    rooms = {"activations": ACTIVATIONS, "models": NETWORK, "attacks": ATTACK, "data": DATA}
    for room, text in (*rooms.items(), ("training/methods", METHOD)):
        (library / room / "mine.py").write_text(text)
    for table, line in REGISTRY.items():
        file = library / f"{FILES.get(table, 'registry')}.py"
        tables = file.read_text()
        assert f"\n{table} = {{\n" in tables
        file.write_text(tables.replace(f"\n{table} = {{\n", f"\n{table} = {{\n    {line}\n"))
    overlay = tmp_path / "overlay.yaml"
    activations = ["bent", "scaled", "torch_prelu"]
    config = experiment({"name": "noise", "eps": "8/255"}, activations, torch_prelu={"init": 0.1})
    config["card"].update(run=["mine"], examples=10)
    overlay.write_text(yaml.safe_dump(config))
    snakemake(folder, "--configfile", overlay)
    check_results(folder / "results/mine", activations)
    with open(folder / "results/mine/cards/mine.csv", encoding="utf-8") as file:
        assert [row["activation"] for row in csv.DictReader(file)] == activations


def test_the_example_of_ones_own_networks(plan, tmp_path):
    """docs/library.md, as it stands there: what snakemake would do."""
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    (example,) = re.findall("^```yaml\n(# judged.yaml.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "judged.yaml").write_text(example)
    (tmp_path / "my_module.py").write_text("def build(width=4): ...\n")
    for name in ("mine.pt", "wide.pt"):
        (tmp_path / name).write_bytes(b"weights")
    jobs = planned(plan(tmp_path, "--configfile", tmp_path / "judged.yaml", "-n"))
    assert (jobs["import_network"], jobs["evaluate"]) == (2, 6) and "train" not in jobs


def test_the_example_of_the_page(plan, tmp_path):
    """docs/recipes.md, as it stands there: what snakemake would do."""
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    (example,) = re.findall("^```yaml\n(# mine.yaml.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    (tmp_path / "my_module.py").write_text("from torch import nn\n\n\nclass Mine(nn.PReLU): ...\n")
    assert planned(plan(tmp_path, "--configfile", tmp_path / "mine.yaml", "-n"))["train"] == 3


OWN = {
    "activations": {
        "bent": {
            "target": "my_activations:Bent",
            "label": "Bent line",
            "settings": {"slope": {"type": "number", "minimum": 0}},
        },
        "scaled": {
            "target": "my_scaled:Scaled",
            "label": "Scaled tanh",
            "learns": True,
            "per": "channel",
            "colour": "#882255",
            "marker": "o",
        },
    },
    "architectures": {
        "small": {"target": "my_network:Small", "settings": {"width": {"type": "integer", "minimum": 1}}}
    },
    "attack_methods": {
        "corners": {
            "target": "my_attack:corners",
            "required": ["radius"],
            "settings": {"radius": "fraction", "samples": {"type": "integer", "minimum": 1}},
        }
    },
    "datasets": {"bars": {"target": "my_data:prepare", "examples": [80, 40], "classes": 3, "size": 16}},
    "networks": {
        "ready": {
            "target": "my_network:ready",
            "weights": "ready.pt",
            "arguments": {"width": 5},
            "mean": [0.4, 0.4, 0.4],
            "std": [0.3],
            "label": "Ready made",
        }
    },
}
# weights as people have them
WEIGHTS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from my_network import ready
state = {f"module.{name}": tensor for name, tensor in ready(5).state_dict().items()}
torch.save({"state_dict": state, "epoch": 1}, sys.argv[1] + "/ready.pt")
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a configuration of names of one's own and their modules, run to the tables elsewhere."""
    beside = tmp_path_factory.mktemp("beside")
    files = {"my_activations": ACTIVATIONS, "my_network": NETWORK, "my_attack": ATTACK, "my_data": DATA}
    for name, text in (*files.items(), ("my_scaled", ACTIVATIONS)):
        (beside / f"{name}.py").write_text(text)
    config = experiment({"name": "fbf", "eps": "16/255", "step": "20/255"}, ["bent", "scaled"])
    judged = {"title": "Given", "dataset": "bars", "test_examples": None, "reference": None}
    config["experiments"]["judged"] = {**judged, "networks": ["ready"]}
    config["run"].append("judged")
    (beside / "overlay.yaml").write_text(yaml.safe_dump({**config, **OWN}))
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow/scripts")}
    subprocess.run([sys.executable, "-c", WEIGHTS, beside], env=environment, check=True)
    work = tmp_path_factory.mktemp("work")
    snakemake(work, "--snakefile", ROOT / "Snakefile", "--configfile", beside / "overlay.yaml")
    return work, beside


def test_names_of_ones_own(own, plan):
    work, beside = own
    check_results(work / "results/mine", ["bent", "scaled"])
    written = (work / "results/mine/tables/judged.md").read_text()
    assert "| Network " in written and "| Ready made" in written
    record = json.loads((work / "results/mine/models/judged/ready/seed0/record.json").read_text())
    assert (record["kind"], record["weights"]["name"]) == ("network", "ready.pt")
    assert "Nothing to be done" in plan(work, "--configfile", beside / "overlay.yaml", "-n")


@pytest.mark.parametrize(
    ("name", "change", "jobs"),
    [
        ("my_scaled", ("torch.tanh(x)", "torch.sin(x)"), {"train": 1, "evaluate": 2}),
        ("my_attack", ("sub(0.5)", "sub(0.4)"), {"evaluate": 3}),
        ("my_data", ("manual_seed(0)", "manual_seed(1)"), {"prepare_data": 1}),
        ("my_network", ('"""A network."""', "# a comment"), {}),
        ("ready.pt", (b"", b" "), {"import_network": 1}),
    ],
)
def test_an_edit_of_ones_own_file_plans_its_cells(own, plan, name, change, jobs):
    work, beside = own
    file = beside / (name if name.endswith(".pt") else f"{name}.py")
    content = file.read_bytes()
    old, new = (part if isinstance(part, bytes) else part.encode() for part in change)
    try:
        file.write_bytes(content.replace(old, new, 1))
        found = planned(plan(work, "--configfile", beside / "overlay.yaml", "-n"))
    finally:
        file.write_bytes(content)
    kinds = ("prepare_data", "train", "evaluate", "import_network")
    kinds = ("prepare_data",) if "prepare_data" in jobs else kinds
    kinds = ("import_network", "train") if "import_network" in jobs else kinds
    assert {kind: found[kind] for kind in kinds if found.get(kind)} == jobs


def test_a_script_by_hand_finds_them(own, tmp_path):
    work, beside = own
    model = work / "results/mine/models/mine/scaled/seed0/model.safetensors"
    code = f"from kafnets.models import load_model; print(type(load_model({str(model)!r})).__name__)"

    def load(**variables):
        environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow/scripts"), **variables}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "KAFNETS_OWN" in load().stderr
    assert load(KAFNETS_OWN=str(beside / "overlay.yaml")).stdout == "Small\n"
