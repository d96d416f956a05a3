"""Names of a user's own: what a configuration may declare, and how they are made."""

import copy
import json
import subprocess
import sys
import warnings

import pytest
import torch
import yaml
from kafnets import create_model, load_model, registry, save_model
from kafnets.activations import layers_of
from kafnets.config.checks import validate
from kafnets.config.slices import training_settings
from kafnets.models.create import count_parameters
from kafnets.pipeline import code
from kafnets.report.plots import style
from kafnets.runtime.errors import UserError
from kafnets.training.training import parameter_groups

from tests.repository import ENVIRONMENT, ROOT

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
MODULE = """
from torch import nn

class Mixed(nn.Module):
    def __init__(self, channels, bias=True):
        super().__init__()
        self.mix = nn.Linear(1, 1, bias=bias)

    def forward(self, x):
        return self.mix(x.unsqueeze(-1)).squeeze(-1).relu()
"""
MIXED = {"target": "own_module:Mixed", "learns": True, "per": "channel", "label": "Mixed"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module; afterwards the registry is as it was."""
    (tmp_path / "own_module.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    registry.adopt({})
    sys.modules.pop("own_module", None)


def with_own(activations, **changes):
    """config.yaml with activations of one's own, which its first experiment runs."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["activations"] = activations
    vgg = config["experiments"]["vgg"]
    vgg.update(activations=["relu", *activations], dataset="digits", reference=None)
    vgg["training"]["learning_rate"]["default"] = [0.01, 0.1]
    vgg.update(changes)
    config["run"] = ["vgg"]
    return config


def check(config, folder, **options):
    validate(config, SCHEMA, folders=[folder], **options)


def test_what_a_configuration_declares_is_known_until_the_next_one(folder):
    names = {"mish": {"target": "torch.nn:Mish"}, "mixed": MIXED}
    config = with_own(names, activation_arguments={"elu": {"alpha": 0.5}})
    check(config, folder)
    assert registry.ACTIVATIONS["mish"].folder == "" and registry.label("mixed") == "Mixed"
    assert style.marker("mixed")["marker"] == "X" and style.marker("mish")["marker"] == "d"
    told = json.loads(json.dumps(registry.own_names()))
    settings = training_settings(config, "vgg", "mixed", 0)
    made = {"target": "own_module:Mixed", "learns": True, "per": "channel"}
    assert settings["own"] == {"activations": {"mixed": made}}
    assert "own" not in training_settings(config, "vgg", "relu", 0)
    registry.adopt({})
    assert "mish" not in registry.ACTIVATIONS
    registry.adopt(told)  # as a job does
    assert registry.ACTIVATIONS["mixed"].load().__name__ == "Mixed"


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("elu", {"target": "torch.nn:Mish"}, '"torch.nn:Mish" has the name of one that comes with'),
        ("mine", {"target": "Mish"}, 'activations.mine.target: "Mish" is not allowed; write module:name, as'),
        (
            "mine",
            {"target": "own_modul:Mixed"},
            "names a module that is neither installed nor in the folders /",
        ),
        ("mine", {"target": "own_module:Mixd"}, "own_module.py; write one of Mixed"),
        ("mine", {"label": "Mine"}, "activations.mine.target: is missing; write module:name"),
        ("mine", {**MIXED, "per": "unit"}, "write one of channel, layer, network"),
        ("mine", {**MIXED, "learn": True}, "is an unknown key; did you mean learns?"),
        ("mine", {**MIXED, "required": ["beta"]}, "mine.settings.beta: is missing; write what it may be"),
        ("mine", {**MIXED, "settings": {"beta": {"kind": "number"}}}, "settings.beta"),
    ],
)
def test_what_is_wrong_with_a_name_of_ones_own(folder, name, facts, expected):
    with pytest.raises(UserError) as caught:
        check(with_own({name: facts}), folder)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mixed": {"beta": 1}}, "mixed.beta: 1 does not belong to mixed; write bias"),
        ({"mixed": {"bias": 1}}, "mixed.bias: 1 has the wrong type; write true or false"),
        ({"elu": {"alpha": -1}}, "elu.alpha: -1 is out of range; write a number at least"),
    ],
)
def test_arguments_are_what_the_entry_declares(folder, given, expected):
    names = {"mixed": {**MIXED, "settings": {"bias": {"type": "boolean"}}}}
    check(with_own(names, activation_arguments={"mixed": {"bias": False}}), folder)
    with pytest.raises(UserError, match=expected):
        check(with_own(names, activation_arguments=given), folder)


def test_a_module_may_be_installed_elsewhere(folder):
    check(with_own({"mine": {"target": "nowhere_here:Mine"}}), folder, elsewhere=True)
    with pytest.raises(UserError, match="nowhere_here:Mine: cannot be loaded"):
        create_model("vgg", "mine")


def test_a_module_that_another_hides_is_refused(folder):
    (folder / "yaml.py").write_text("def Mine(): ...\n")
    check(with_own({"mine": {"target": "yaml:Mine"}}), folder)
    with pytest.raises(UserError, match="cannot be loaded"):
        registry.ACTIVATIONS["mine"].load()


def test_the_code_of_a_cell_has_the_users_module(folder):
    check(with_own({"mixed": MIXED}), folder)

    def of(name):
        for cached in (code._of_step, code.files, code._file_of, code._source):
            cached.cache_clear()
        return code.of_step("train.py", [registry.ACTIVATIONS[name]])

    before = of("mixed"), of("relu")
    (folder / "own_module.py").write_text(MODULE.replace("relu()", "tanh()"))
    after = of("mixed"), of("relu")
    assert before[0] != after[0] and before[1] == after[1]
    (folder / "own_module.py").write_text(MODULE.replace("relu()", "tanh()  # no relu"))
    assert of("mixed") == after[0]


def test_nothing_of_an_activation_is_penalised(folder):
    check(with_own({"mixed": MIXED}), folder)
    model = create_model("resnet8", "mixed")
    assert len(layers_of(model)) == 7
    penalised = [group for group in parameter_groups(model, {"conv": 1, "dense": 1}) if group["weight_decay"]]
    kernels = {name for name, one in model.named_parameters() if one.dim() > 1 and "mix" not in name}
    assert sum(len(group["params"]) for group in penalised) == len(kernels)
    assert count_parameters(model)["activation"] == 14


def test_one_for_the_network_is_shared_and_stays_so(folder):
    check(with_own({"shared": {"target": "torch.nn:PReLU", "learns": True, "per": "network"}}), folder)
    model = create_model("vgg", "shared")
    sites = [layer for layer in model.modules() if isinstance(layer, torch.nn.PReLU)]
    assert len(sites) == 1 and count_parameters(model)["activation"] == 1
    with torch.no_grad():
        sites[0].weight.fill_(0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_model(model, folder / "model.safetensors")
    loaded = load_model(folder / "model.safetensors")
    assert count_parameters(loaded)["activation"] == 1
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), copy.deepcopy(model).eval()(images))


def test_a_data_set_is_what_its_entry_says(folder):
    (folder / "own_data.py").write_text(
        "import torch\nfrom kafnets.data.dataset import Dataset\n\n\ndef prepare(source):\n"
        "    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2\n"
        "    return Dataset('own', images, labels, images.clone(), labels.clone(), ('a', 'b'), 'here')\n"
    )
    facts = {"target": "own_data:prepare", "examples": [4, 4], "classes": 2, "channels": 1, "size": 9}
    registry.adopt({"datasets": {"own": facts}}, [folder])
    files = ["--output", folder / "own.safetensors", "--record", folder / "own.json"]
    command = [sys.executable, ROOT / "workflow/scripts/prepare_data.py", "--dataset", "own", *files]

    def prepare():
        told = {**ENVIRONMENT, registry.OWN: json.dumps(registry.own_names())}
        return subprocess.run(command, env=told, capture_output=True, text=True)

    said = "own: has 2 classes and images of 1 x 8 x 8, its entry says 2 classes and images of 1 x 9 x 9"
    assert said in prepare().stderr
    registry.adopt({"datasets": {"own": {**facts, "size": 8}}}, [folder])
    assert prepare().returncode == 0


@pytest.mark.parametrize("architecture", ["vgg", "resnet8"])
def test_images_of_another_shape(architecture, tmp_path):
    model = create_model(architecture, num_classes=3, image_shape=(1, 24, 16)).eval()
    images = torch.rand(2, 1, 24, 16)
    assert model(images).shape == (2, 3)
    save_model(model, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path / "model.safetensors")(images), model(images))
