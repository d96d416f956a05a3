"""The evaluation of a network: figures, verdict files, the command line and its refusals."""

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
import torch
from kafnets.attacks import pgd
from kafnets.data import Dataset, save
from kafnets.evaluation import judge as evaluation
from kafnets.evaluation.judge import evaluate, vanishing_gradients
from kafnets.models import create_model, save_model
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256, write_json
from safetensors.torch import load_file
from torch import nn

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "evaluate.py"
PGD = {
    "experiment": "small",
    "activation": "relu",
    "seed": 4,
    "attack": "pgd",
    "dataset": "noise",
    "test_examples": None,
    "method": "pgd",
    "eps": "4/255",
    "step": "2/255",
    "iterations": 3,
    "restarts": 2,
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture
def test_set(net):
    images = torch.randint(
        0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    first, second = net(images.float() / 255).topk(2).indices.T
    return images, torch.where(torch.arange(40) % 8 == 0, second, first)


def test_figures_and_verdicts_are_those_of_the_attack(net, test_set):
    images, labels = test_set
    figures, verdicts = evaluate(net, images, labels, PGD, batch_size=16)
    expected = pgd(net, images.float() / 255, labels, eps=4 / 255, step=2 / 255, iterations=3, restarts=2)
    assert torch.equal(verdicts["robust"].bool(), expected.robust)
    assert torch.equal(verdicts["clean"].bool(), expected.clean)
    assert verdicts["robust"].dtype == torch.uint8
    assert figures["correct"] == expected.robust.sum() and figures["examples"] == 40
    assert figures["accuracy"] == pytest.approx(expected.robust.float().mean().item())
    assert figures["clean_accuracy"] == 35 / 40
    assert figures["queries"] == expected.queries and figures["gradients"] == expected.gradients
    assert figures["accuracy_by_iteration"] == expected.accuracy_by_iteration
    assert 0 < figures["accuracy"] < figures["clean_accuracy"]


def test_verdicts_are_the_networks_own_not_the_fast_copys(net, test_set, monkeypatch):
    """A copy that is fooled everywhere decides nothing: the attack runs again on the network."""

    class Fooled(nn.Module):
        def forward(self, x):
            return net(x).roll(1, dims=1)

    monkeypatch.setattr(evaluation, "fast_copy", lambda model, images: (Fooled(), ""))
    _, verdicts = evaluate(net, *test_set, PGD)
    expected = pgd(
        net, test_set[0].float() / 255, test_set[1], eps=4 / 255, step=2 / 255, iterations=3, restarts=2
    )
    assert torch.equal(verdicts["clean"].bool(), expected.clean)
    # the starts of a subset are other ones, so single borderline verdicts may differ
    assert (verdicts["robust"].bool() != expected.robust).sum() <= 2


@pytest.mark.parametrize("disputed", [False, True])
def test_the_search_may_round_the_verdict_may_not(net, test_set, monkeypatch, disputed):
    """What a GPU's convolutions may do while the copy is attacked, and while the network is asked."""
    noted = []

    class Notes(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift = shift

        def forward(self, x):
            noted.append(torch.backends.cudnn.conv.fp32_precision)
            return net(x).roll(self.shift, dims=1)

    # shifted, the copy finds what the network does not confirm: then it is attacked itself
    monkeypatch.setattr(evaluation, "fast_copy", lambda model, images: (Notes(int(disputed)), ""))
    monkeypatch.setattr(evaluation, "check_judgeable", lambda model, images: False)
    evaluate(Notes(0), *test_set, PGD, batch_size=40)
    search, verdict, zero_gradients = ((name, len(list(calls))) for name, calls in groupby(noted))
    assert (search[0], verdict[0], zero_gradients) == ("tf32", "ieee", ("tf32", 1))
    assert verdict[1] > 2 if disputed else verdict[1] == 2
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


def test_clean_and_thesis_figures(net, test_set):
    figures, _ = evaluate(net, *test_set, {"method": "clean"})
    assert figures["accuracy"] == figures["clean_accuracy"] == 35 / 40
    assert figures["queries"] == 40 and figures["accuracy_by_iteration"] is None
    thesis, _ = evaluate(net, *test_set, {**PGD, "method": "thesis_pgd"})
    honest, _ = evaluate(net, *test_set, PGD)
    assert thesis["accuracy"] >= honest["accuracy"]


def test_zero_gradients_are_counted():
    class Saturating(nn.Module):
        """The gradient vanishes where the mean pixel lies above one half."""

        def forward(self, x):
            score = x.flatten(1).mean(1).clamp(max=0.5)
            return torch.stack([score, -score], 1)

    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.2, 0.7, 0.8, 0.9)])
    assert vanishing_gradients(Saturating(), images, torch.zeros(5, dtype=torch.long), 2) == (3 / 5, 0)


@pytest.mark.parametrize(
    "change, names",
    [
        ({"method": "pdg"}, "did you mean pgd"),
        ({"eps": 8}, "eps"),
        ({"eps": "8/256"}, "8/256"),
        ({"iterations": -1}, "iterations"),
        ({"restart": 3}, "restart"),
    ],
)
def test_wrong_settings_are_the_users_errors(net, test_set, change, names):
    with pytest.raises(UserError, match=names):
        evaluate(net, *test_set, {**PGD, **change})


@pytest.fixture
def files(tmp_path, test_set):
    """A saved network and a prepared data set with their records."""
    torch.manual_seed(0)
    model = create_model("resnet8", activation="relu")
    save_model(model, tmp_path / "model.safetensors")
    write_json(tmp_path / "record.json", {"model_sha256": sha256(tmp_path / "model.safetensors")})
    images, labels = test_set
    dataset = Dataset(
        "noise", images[:8].clone(), labels[:8].clone(), images, labels, tuple("0123456789"), "made here"
    )
    save(dataset, tmp_path / "noise.safetensors", tmp_path / "noise.json")
    return tmp_path


def run(files, settings=None, *more):
    arguments = {
        "--model": "model.safetensors",
        "--model-record": "record.json",
        "--data": "noise.safetensors",
        "--record": "out/pgd.json",
        "--verdicts": "out/pgd.safetensors",
        "--device": "cpu",
    }
    command = [sys.executable, str(SCRIPT), "--settings", json.dumps(settings or PGD)]
    for pair in arguments.items():
        command += pair
    return subprocess.run([*command, *more], cwd=files, capture_output=True, text=True)


def test_command_line(files):
    done = run(files)
    assert done.returncode == 0, done.stderr
    record = json.loads((files / "out/pgd.json").read_text())
    verdicts = load_file(files / "out/pgd.safetensors")
    assert set(verdicts) == {"robust", "clean"}
    assert {key: record[key] for key in ("kind", "experiment", "activation", "seed", "attack")} == {
        "kind": "evaluation",
        "experiment": "small",
        "activation": "relu",
        "seed": 4,
        "attack": "pgd",
    }
    assert record["settings"] == PGD
    assert record["correct"] == int(verdicts["robust"].sum())
    assert record["verdicts_sha256"] == sha256(files / "out/pgd.safetensors")
    assert record["model_sha256"] == sha256(files / "model.safetensors")
    assert record["wall_seconds"] > 0 and record["peak_memory_bytes"] > 0 and record["environment"]["torch"]
    assert "accuracy" in done.stderr


@pytest.mark.parametrize(
    "settings, more, said",
    [
        ({**PGD, "eps": "300/255"}, (), "300/255"),
        ({**PGD, "method": "nothing"}, (), "nothing"),
        (None, ("--model", "absent.safetensors"), "absent.safetensors"),
        (None, ("--data", "absent.safetensors"), "absent"),
        (None, ("--settings", "absent.json"), "absent.json"),
        ({**PGD, "test_examples": 41}, (), "41"),
    ],
)
def test_command_line_refuses_in_one_line(files, settings, more, said):
    done = run(files, settings, *more)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr
    assert not list(files.glob("out/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(files):
    done = run(files, None, "--device", "cuda")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cuda" in done.stderr


def test_other_weights_than_the_records_are_refused(files):
    write_json(files / "record.json", {"model_sha256": "0" * 64})
    done = run(files)
    assert done.returncode == 2 and "model.safetensors" in done.stderr and done.stderr.count("\n") == 1
