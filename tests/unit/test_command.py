"""`python -m kafnets`: networks of one's own judged, records verified, tables, lists, downloads, exports."""

import csv
import json
import re
import shlex
import subprocess
import sys
from importlib import metadata

import numpy
import pytest
import torch
from kafnets import command, create_model, registry, save_model
from kafnets.command import repeating, verifying
from kafnets.data.dataset import Dataset, save
from kafnets.evaluation.judge import evaluate
from kafnets.models.own import load, own_entry
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json, write_json
from safetensors.numpy import load_file, save_file
from torch import nn

from tests.repository import ENVIRONMENT, ROOT
from tests.unit.data_files import array_set

MODULE = """
import torch
from torch import nn

def build(width=4, classes=3, channels=1):
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)),
    )

class Pair(nn.Module):
    def forward(self, x):
        return x.flatten(1), x

number = 3
def failing(missing): ...
def no_module(): return 7
def seven(source): return 7
def data(source=None):
    from kafnets.data.dataset import Dataset
    images = (torch.arange(12 * 36).view(12, 1, 6, 6) * 7 % 256).to(torch.uint8)
    labels = torch.arange(12) % 3
    return Dataset("made", images, labels, images, labels, ("a", "b", "c"), "here")
"""
PGD = {"method": "pgd", "eps": "35/255", "step": "20/255", "iterations": 4, "restarts": 2}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of one's own: a module, weights as people have them, a data set of images 1 x 6 x 6."""
    (tmp_path / "foreign.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    noise = numpy.random.RandomState(0).randint(0, 64, (30, 1, 6, 6)).astype("uint8")
    labels = torch.arange(30) % 3
    images = torch.from_numpy(noise) + (70 * labels).to(torch.uint8)[:, None, None, None]
    dataset = Dataset("bars", images, labels, images.clone(), labels.clone(), ("low", "mid", "high"), "here")
    save(dataset, tmp_path / "bars.safetensors", tmp_path / "bars.json")
    network = made()
    recognising(network, images.float() / 255)
    weights = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "mine.pt")
    yield tmp_path, network, dataset
    for name in ("foreign", "my_module"):
        sys.modules.pop(name, None)


def made(**arguments):
    width, classes, channels = (
        arguments.get(name, n) for name, n in (("width", 4), ("classes", 3), ("channels", 1))
    )
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)),
    )


@torch.no_grad()
def recognising(network, images):
    """Weights that tell three classes apart by an image's mean brightness, of (x - 0.4) / 0.2."""
    for parameter in network.eval().parameters():
        parameter.zero_()
    network[0].weight[0] = 1 / 9
    network[0].bias[0] = 5.0  # above the ReLU's kink
    network[1].weight.fill_(1.0)
    features = network[:5]((images - 0.4) / 0.2)[:, 0]
    centres = torch.stack([features[label::3].mean() for label in range(3)])
    network[5].weight[:, 0] = 2 * centres
    network[5].bias.copy_(-(centres**2))


def kafnets(*arguments):
    return command.main([str(one) for one in arguments])


def judge(*more, model="foreign:build", weights=("--weights", "mine.pt"), settings=PGD, output="out"):
    given = ("--model", model, *weights, "--data", "bars.safetensors", "--settings", json.dumps(settings))
    return kafnets("evaluate", *given, "--output", output, "--device", "cpu", *more)


# -- evaluate


def test_a_network_of_ones_own_is_judged_as_by_the_library(place):
    """The verdicts are those of `evaluate` on the same network, its normalisation written out by hand."""
    folder, network, dataset = place

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner((x - 0.4) / 0.2)

    assert judge("--mean", 0.4, "--std", 0.2) == 0
    record, verdicts = read_json(folder / "out/pgd.json"), load_file(folder / "out/pgd.safetensors")
    expected, by_hand = evaluate(Normalised().eval(), dataset.test_images, dataset.test_labels, PGD)
    assert numpy.array_equal(verdicts["robust"], by_hand["robust"].numpy())
    assert numpy.array_equal(verdicts["clean"], by_hand["clean"].numpy())
    assert 0 < record["accuracy"] < record["clean_accuracy"] and record["accuracy"] == expected["accuracy"]
    assert record["network"] == {"model": "foreign:build", "weights": "mine.pt", "mean": [0.4], "std": [0.2]}
    packages = record["environment"]["packages"]  # whose versions may decide a verdict
    assert packages.keys() == {"foolbox", "pyautoattack", "triton", "scipy"}
    assert packages["scipy"] == metadata.version("scipy")
    # without the normalisation it is another network
    assert judge(output="plain") == 0
    assert read_json(folder / "plain/pgd.json")["clean_accuracy"] != record["clean_accuracy"]


def test_what_is_made_already_is_not_made_again(place, monkeypatch):
    """By the same code, of the same network and data; else it stays until the new one is there."""
    folder, *_ = place
    files = [folder / f"out/pgd.{end}" for end in ("json", "safetensors")]

    def times():
        return [path.stat().st_ino for path in files]

    judge()
    first = times()
    assert judge() == 0 and times() == first
    with pytest.raises(UserError, match="foreign:build: has 4 outputs"):
        judge("--arguments", '{"classes": 4}')
    assert times() == first
    for change in (
        lambda: monkeypatch.setattr(repeating, "code_checksum", lambda: "another"),
        lambda: (folder / "foreign.py").write_text(MODULE + "# edited\n"),
        lambda: files[1].write_bytes(b"damaged"),
        lambda: torch.save(made().state_dict(), folder / "mine.pt"),
    ):
        change()
        before = times()
        judge()
        assert all(now != then for now, then in zip(times(), before, strict=True))
        assert judge() == 0


def test_several_attacks_a_subset_and_a_data_set_of_ones_own(place):
    folder, *_ = place
    given = ("--model", "foreign:build", "--weights", "mine.pt", "--data", "foreign:data", "--examples", 6)
    assert (
        kafnets("evaluate", *given, "--attack", "clean", "thesis_pgd", "--eps", "4/255", "--output", "out")
        == 0
    )
    clean, thesis = (read_json(folder / f"out/{name}.json") for name in ("clean", "thesis_pgd"))
    assert clean["examples"] == thesis["examples"] == 6 and "eps" not in clean["settings"]
    expected = {"eps": "4/255", "step": "2/255", "iterations": 50, "restarts": 10}
    assert expected.items() <= thesis["settings"].items()


def test_a_file_of_arrays_is_a_data_set(place):
    numpy.savez("set.npz", **array_set(shape=(6, 6)))
    given = ("--model", "foreign:build", "--weights", "mine.pt", "--data", "set.npz", "--output", "out")
    assert kafnets("evaluate", *given, "--attack", "clean") == 0
    record = read_json(place[0] / "out/clean.json")
    assert (record["settings"]["dataset"], record["examples"]) == ("set", 4)
    numpy.savez("set.npz", **array_set(shape=(6, 6), test=5))  # another one: prepared again
    assert kafnets("evaluate", *given[:-1], "again", "--attack", "clean") == 0
    assert read_json(place[0] / "again/clean.json")["examples"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "foreign:absent"}, "foreign:absent: cannot be loaded"),
        ({"model": "nowhere_at_all:build"}, "nowhere_at_all:build: cannot be loaded"),
        (
            {"model": "foreign:failing"},
            r"cannot be called with the arguments none \(.*\); it takes \(missing\)",
        ),
        ({"model": "foreign:no_module"}, "returns a int, not a torch.nn.Module"),
        ({"model": "foreign:number"}, "foreign:number: is no class and no function, but a int"),
        ({"model": "foreign:Pair", "weights": ()}, "returns tuple for 2 images; wrap it"),
        ({"weights": ("--weights", "none.pt")}, "--weights: none.pt: no such file"),
        (
            {"weights": ("--weights", "mine.pt", "--arguments", '{"classes": 4}')},
            "foreign:build: has 4 outputs, the data set 3 classes; give its factory",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--arguments", '{"channels": 3}')},
            r"does not take images of 1 x 6 x 6 pixels \(its first convolution takes 3 channels, they",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--arguments", '{"width": 5}')},
            r"mine.pt: tensor 0.bias has shape \(4,\), the network needs \(5,\)",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--arguments", "[1]")},
            "--arguments: found .* write a JSON object",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--mean", "1")},
            "std: one number must be given, found nothing",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--mean", "1", "2", "--std", "1")},
            "mean: one number must be given",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--mean", "0", "--std", "0")},
            "std: the numbers must be positive",
        ),
        (
            {"weights": ("--weights", "mine.pt", "--key", "ema")},
            "no weights under 'ema'; there are some under 'state_",
        ),
        (
            {"model": "published/relu"},
            "--weights: is for a network of yours, and --model published/relu is none",
        ),
        (
            {"model": "publised/relu", "weights": ()},
            "'publised/relu' is not known; did you mean published/relu?",
        ),
        (
            {"model": "foreign", "weights": ()},
            "^--model: 'foreign' is not known; choose .*, or module:name of what makes a network of yours$",
        ),
        ({"model": "none.safetensors", "weights": ()}, "none.safetensors: no such file"),
        ({"settings": {**PGD, "method": "pdg"}}, "method: 'pdg' is not known; did you mean pgd"),
        ({"settings": {**PGD, "method": "transfer"}}, "transfer crafts its examples on other networks"),
        ({"settings": {**PGD, "stepp": 1}}, "attack pgd: .*stepp"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(place, options, message):
    with pytest.raises(UserError, match=message) as caught:
        judge(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "--data: 'digit' is not known; write one of cifar10, cifar100"),
        ("none.safetensors", "--data: none.safetensors: no such file"),
        ("foreign:seven", "foreign:seven returns a int; let it return a kafnets.data.Dataset"),
    ],
)
def test_what_is_no_data_set(place, data, message):
    with pytest.raises(UserError, match=message):
        kafnets("evaluate", "--model", "foreign:build", "--data", data, "--output", "out")


def test_the_source_of_a_data_set_is_an_option_here(place, monkeypatch):
    """The advice is the command's, not the configuration's."""
    advice = "; let --source name a copy of the official archive, or its unpacked folder$"
    with pytest.raises(UserError, match=f"^nowhere: no such file or folder{advice}"):
        kafnets("download", "cifar10", "--source", "nowhere")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=f"the connection failed.*{advice}"):
        kafnets("download", "cifar10")


def test_a_networks_own_classes_and_pixels_are_checked_without_weights(place):
    """Of a network of this library too: the images' shape and the number of classes."""
    folder, *_ = place
    torch.manual_seed(0)
    save_model(create_model("resnet8", num_classes=3, image_shape=(1, 6, 6)), folder / "ours.safetensors")
    assert judge(model="ours.safetensors", weights=(), settings={"method": "clean"}) == 0
    save_model(create_model("resnet8", num_classes=3), folder / "colour.safetensors")
    with pytest.raises(UserError, match=r"colour\.safetensors: does not take images of 1 x 6 x 6 pixels"):
        judge(model="colour.safetensors", weights=(), settings={"method": "clean"})


def test_the_modes_of_a_checked_network_come_back(place):
    network = load(own_entry("foreign:build", folders=["."]), num_classes=3, image_shape=(1, 6, 6))
    assert not network.training
    from kafnets.models.own import check_fits

    network.train()
    network[1].eval()
    check_fits(network, "it", 3, (1, 6, 6))
    assert network.training and network[0].training and not network[1].training


OWN = ("--model", "foreign:build", "--weights", "mine.pt", "--data", "bars.safetensors", "--output", "out")


def test_a_network_is_certified(place):
    """Of each image the class and the radius that the certificate's own function gives."""
    from kafnets.certification.certify import certify

    folder, network, dataset = place
    settings = {"method": "smoothing", "sigma": 0.1, "samples": 200, "selection_samples": 20}
    assert kafnets("certify", *OWN, "--settings", json.dumps(settings), "--device", "cpu") == 0
    record = read_json(folder / "out/smoothing.json")
    of_it = {key: value for key, value in settings.items() if key != "method"}
    figures, columns = certify(network, dataset.test_images, dataset.test_labels, "smoothing", of_it)
    assert (record["accuracy"], record["average_radius"]) == (figures["accuracy"], figures["average_radius"])
    with open(folder / "out/smoothing.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["radius"]) for row in rows] == columns["radius"].tolist()
    assert record["average_radius"] > 0
    before = (folder / "out/smoothing.json").stat().st_ino
    assert kafnets("certify", *OWN, "--settings", json.dumps(settings), "--device", "cpu") == 0
    assert (folder / "out/smoothing.json").stat().st_ino == before  # made already


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigma", -1), ("sigma", "x"), ("alpha", 1), ("samples", 0), ("selection_samples", 1.5)],
)
def test_settings_that_no_certificate_has_are_said_in_one_line(place, name, value):
    settings = json.dumps({"method": "smoothing", "sigma": 0.1, name: value})
    with pytest.raises(UserError, match=f"^certificate smoothing: ({name}: {value!r} is not|'>' not)"):
        kafnets("certify", *OWN, "--settings", settings, "--device", "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "smoothing", "arguments": {"sgma": 0.1}}, "'sgma' is not known; it takes sigma, sele"),
        ({"method": "smoothing", "sgma": 0.1}, "'sgma' is not known; it takes sigma, selection_samples"),
        ({"method": "smoothing", "arguments": {}}, "sigma is missing; it takes sigma, selection_samples"),
        ({"method": "smoothing"}, "sigma is missing; it takes sigma, selection_samples"),
        ({"method": "smoothing", "sigma": 1, "arguments": {}}, "'sigma' stands beside arguments; write \"ar"),
        ({"method": "smoothing", "arguments": 3}, "3 is no mapping for arguments; write"),
    ],
)
def test_names_that_no_certificate_has(place, settings, message):
    given = ("--model", "foreign:build", "--weights", "mine.pt", "--data", "bars.safetensors")
    with pytest.raises(UserError, match=f"^certificate smoothing: {message}"):
        kafnets("certify", *given, "--output", "out", "--settings", json.dumps(settings), "--device", "cpu")


def certified(output="out", **settings):
    given = ("--model", "foreign:build", "--weights", "mine.pt", "--data", "bars.safetensors")
    settings = json.dumps(settings)
    return kafnets("certify", *given, "--output", output, "--settings", settings, "--device", "cpu")


def test_settings_of_a_record_are_settings_too(place):
    folder, *_ = place
    own = {"sigma": 0.1, "samples": 50, "selection_samples": 10}
    assert certified("flat", method="smoothing", **own) == 0
    assert certified("again", **read_json(folder / "flat/smoothing.json")["settings"]) == 0
    one, two = ((folder / name / "smoothing.csv").read_text() for name in ("flat", "again"))

    def without_time(rows):
        return [line.rpartition(",")[0] for line in rows.splitlines()]

    assert without_time(one) == without_time(two)
    assert read_json(folder / "again/smoothing.json")["settings"]["arguments"] == own


# -- verify


def test_a_record_is_verified_verdict_by_verdict(place, capsys):
    folder, *_ = place
    judge()
    assert kafnets("verify", "out/pgd.json") == 0
    said = capsys.readouterr().out
    assert "robust: 30 verdicts, 0 differ" in said and "out/pgd.json: verified" in said
    # a record whose verdicts say otherwise: two images turned, record and file agree with each other
    turned(folder / "out/pgd.json", [3, 17])
    assert kafnets("verify", "out/pgd.json") == 1
    assert "robust: 30 verdicts, 2 differ" in (said := capsys.readouterr().out) and "images 3, 17\n" in said


def turned(path, images):
    from kafnets.runtime.files import sha256

    verdicts = load_file(path.with_suffix(".safetensors"))
    verdicts["robust"][images] ^= 1
    save_file(verdicts, path.with_suffix(".safetensors"))
    record = read_json(path)
    record.pop("checksum")
    write_json(path, {**record, "verdicts_sha256": sha256(path.with_suffix(".safetensors"))})


def test_what_is_another_now_is_told():
    """Of the packages those that a record tells of: older records tell of none."""
    now = {"torch": "2.11", "threads": 1, "packages": {"foolbox": None, "scipy": "1.17.1"}}
    then = {"torch": "2.11", "threads": 2, "packages": {"foolbox": "3.3.4", "scipy": "1.17.1"}}
    assert verifying.otherwise(then, now) == ["threads 2, now 1", "foolbox 3.3.4, now None"]
    assert verifying.otherwise({"torch": "2.10", "threads": 1}, now) == ["torch 2.10, now 2.11"]


def test_other_files_than_the_records_are_refused(place):
    folder, network, _ = place
    judge()
    with torch.no_grad():
        network[-1].bias[0] += 1
    torch.save(network.state_dict(), folder / "mine.pt")
    with pytest.raises(UserError, match="--model: another than the record tells of"):
        kafnets("verify", "out/pgd.json")
    (folder / "out/pgd.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"not the verdicts that out/pgd\.json tells of"):
        kafnets("verify", "out/pgd.json")
    write_json(folder / "other.json", {"kind": "training", "settings": {}})
    with pytest.raises(UserError, match="not the record of an evaluation, but of a training"):
        kafnets("verify", "other.json")


def test_a_record_of_the_pipeline_finds_its_files(place, capsys):
    """Where the pipeline has them; an attack that uses other networks finds these too."""
    folder, _, dataset = place
    cell = "tiny/{}/seed0"
    for name in ("relu", "elu"):
        torch.manual_seed(0)
        model = create_model("resnet8", name, num_classes=3, image_shape=(1, 6, 6))
        (target := folder / "results/models" / cell.format(name)).mkdir(parents=True)
        save_model(model, target / "model.safetensors")
    save(dataset, folder / "results/data/bars.safetensors", folder / "results/data/bars.json")
    settings = {
        "experiment": "tiny",
        "activation": "relu",
        "seed": 0,
        "attack": "transfer",
        "dataset": "bars",
    }
    settings |= {"method": "transfer", "eps": "8/255", "step": "4/255", "iterations": 1, "sources": ["elu"]}
    out = folder / "results/evaluations" / cell.format("relu")
    files = [folder / "results/models" / cell.format(name) / "model.safetensors" for name in ("relu", "elu")]
    command = [
        sys.executable,
        ROOT / "workflow/scripts/evaluate.py",
        "--model",
        files[0],
        "--sources",
        files[1],
    ]
    command += ["--data", folder / "results/data/bars.safetensors", "--settings", json.dumps(settings)]
    command += [
        "--record",
        out / "transfer.json",
        "--verdicts",
        out / "transfer.safetensors",
        "--device",
        "cpu",
    ]
    subprocess.run(list(map(str, command)), check=True, env=ENVIRONMENT)
    assert kafnets("verify", out / "transfer.json") == 0
    assert "transfer.json: verified" in capsys.readouterr().out
    (folder / "elsewhere").mkdir()
    for end in ("json", "safetensors"):
        (out / f"transfer.{end}").rename(folder / f"elsewhere/transfer.{end}")
    with pytest.raises(UserError, match="--model: is needed, for the record says nothing of it"):
        kafnets("verify", "elsewhere/transfer.json")


def test_the_commands_of_the_page(place, capsys):
    """docs/library.md, as they stand there, on another data set."""
    folder, *_ = place
    (folder / "my_module.py").write_text(MODULE)
    section = (ROOT / "docs/library.md").read_text(encoding="utf-8").partition("## Judging a network")[2]
    (block,) = re.findall(r"^```bash\n(kafnets .*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line.replace("cifar10", "bars.safetensors")) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["kafnets", name] for name in ("evaluate", "table", "verify")]
    assert [kafnets(*line[1:]) or 0 for line in lines] == [0, 0, 0]
    said = capsys.readouterr().out
    assert "| my_module:build mine.pt | pgd" in said and "results/mine/pgd.json: verified" in said


def test_a_certificate_is_not_verified_and_the_line_says_what_does(place):
    certified(method="smoothing", sigma=0.1, samples=50, selection_samples=10)
    with pytest.raises(UserError, match=r"verify runs attacks alone; .* with out/smoothing\.csv"):
        kafnets("verify", "out/smoothing.json")


@pytest.mark.parametrize("name", ["table", "verify"])
def test_an_absent_record_is_said_in_the_commands_own_words(place, name):
    with pytest.raises(UserError, match=r"^none\.json: no such record; `kafnets evaluate` and") as raised:
        kafnets(name, "none.json")
    assert "snakemake" not in str(raised.value)


def test_what_cannot_be_loaded_is_said_first(place, capsys):
    with pytest.raises(UserError, match=r"^no:such: cannot be loaded"):
        judge(model="no:such", weights=())
    assert "judged" not in "".join(capsys.readouterr())


def test_judging_from_python_as_on_the_page(place, capsys):
    """docs/library.md, the lines as they stand there, with fewer iterations and queries."""
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8").partition("## Judging from Python")[2]
    (block,) = re.findall(r"^```python\n(.*?)^```", page.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    block = block.replace('"iterations": 50, "restarts": 10', '"iterations": 2, "restarts": 1')
    block = block.replace('"method": "square", ', '"method": "square", "queries": 5, ')
    torch.manual_seed(0)
    images, model = torch.rand(6, 3, 32, 32), create_model("resnet8")
    pixels = (255 * images).to(torch.uint8)
    labels = model.eval()(pixels / 255).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    known = {"torch": torch, "images": images, "labels": labels, "model": model}
    exec(block, known)
    robust = [verdicts["robust"].tolist() for _, verdicts in known["found"].values()]
    assert known["worst"].tolist() == [all(one) for one in zip(*robust, strict=True)]
    assert not known["worst"][0] and "of the images withstand all attacks" in capsys.readouterr().out
    kafnets("table", "pgd.json", "margin.json", "square.json")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["pgd", "margin", "square"]


def test_attacks_leave_the_mode_as_it_was_and_take_lengths(place):
    """What docs/library.md says of them, its L2 call as it stands there."""
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    (call,) = re.findall(r"^(kafnets\.attacks\.pgd\(.*norm=\"l2\".*\))$", page, re.MULTILINE)
    import kafnets as library

    torch.manual_seed(0)
    model, images = create_model("resnet8").train(), torch.rand(3, 3, 8, 8)
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    labels = torch.tensor([0, 1, 2])
    call = call.replace("iterations=50", "iterations=2")
    result = eval(call, {"kafnets": library, "model": model, "images": images, "labels": labels})
    assert (result.adversarial - images).flatten(1).norm(dim=1).max() <= 128 / 255 + 1e-5
    assert [module.training for module in model.modules()] == modes


# -- table, list, export


def test_a_folder_of_mixed_records_as_tables(place, capsys):
    folder, *_ = place
    judge()
    certified(method="smoothing", sigma=0.1, samples=50, selection_samples=10)
    certified(method="ibp", eps="1/255", steps=0)
    (folder / "out/notes.json").write_text("[]")
    capsys.readouterr()
    kafnets("table", "out")
    attacked, proved, rest = capsys.readouterr().out.split("\n\n")
    assert attacked.splitlines()[0].split("|")[2].strip() == "attack" and "35/255" in attacked
    head, _, ibp, smoothing = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in proved.splitlines()
    )
    assert rest == "Neither of an evaluation nor of a certificate: notes.json\n"
    rows = {name: dict(zip(head, row, strict=True)) for name, row in (("ibp", ibp), ("l2", smoothing))}
    for name, file in (("ibp", "ibp"), ("l2", "smoothing")):
        record = read_json(folder / f"out/{file}.json")
        assert rows[name]["certificate"] == file and rows[name]["network"] == "foreign:build mine.pt"
        assert rows[name]["right"] == f"{record['accuracy']:.2%}"
        assert rows[name]["mean radius"] == f"{record['average_radius']:.4f}"
    with open(folder / "out/smoothing.csv", encoding="utf-8") as file:
        images = list(csv.DictReader(file))
    sure = sum(one["prediction"] == one["label"] and float(one["radius"]) >= 0.25 for one in images)
    assert rows["l2"]["L2 0.25"] == f"{sure / len(images):.2%}" and rows["l2"]["at eps"] == ""
    assert rows["ibp"]["at eps"].endswith("% (1/255)") and rows["ibp"]["L2 0.25"] == ""
    (folder / "out/smoothing.csv").write_text("")
    with pytest.raises(UserError, match="its checksum is not the one in"):
        kafnets("table", "out/smoothing.json")


def test_records_as_a_table(place, capsys):
    judge()
    capsys.readouterr()
    kafnets("table", "out/pgd.json")
    head, _, row = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")][1:4] == ["network", "attack", "eps"]
    record = read_json(place[0] / "out/pgd.json")
    cells = [cell.strip() for cell in row.split("|")][1:-1]
    assert cells[:4] == ["foreign:build mine.pt", "pgd", "35/255", "30"]
    assert cells[4:6] == [f"{record['clean_accuracy']:.2%}", f"{record['accuracy']:.2%}"]
    low, high = (float(end.rstrip("%")) / 100 for end in cells[6].split(" to "))
    assert low < record["accuracy"] < high
    with pytest.raises(UserError, match="out: is no record"):
        kafnets("table", "out", "out/pgd.json")
    (place[0] / "empty").mkdir()
    with pytest.raises(UserError, match="empty/tables: no table yet"):
        kafnets("table", "empty")


@pytest.mark.parametrize(
    "what", ["attacks", "certificates", "methods", "activations", "architectures", "datasets", "penalties"]
)
def test_lists_name_what_the_registry_has(capsys, what):
    kafnets("list", what)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    table = {"methods": "ADVERSARIES"}.get(what, what.upper())
    assert names == list(getattr(registry, table))


def test_an_exported_network_of_ones_own_computes_the_same(place):
    folder, network, _ = place
    given = (
        "--model",
        "foreign:build",
        "--weights",
        "mine.pt",
        "--image-shape",
        1,
        6,
        6,
        "--mean",
        0.4,
        "--std",
        0.2,
    )
    kafnets("export", *given, "--output", "mine.pt2")
    program = torch.export.load(folder / "mine.pt2").module()
    images = torch.rand(7, 1, 6, 6)
    assert torch.allclose(program(images), network((images - 0.4) / 0.2), atol=1e-5)
    with pytest.raises(UserError, match=r"let it end with \.onnx or \.pt2"):
        kafnets("export", *given, "--output", "mine.pth")


# -- the process


def test_as_a_process(place):
    """Errors in one line with exit code 2; what it can do, without torch."""
    folder, *_ = place
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow/scripts")}

    def call(*arguments):
        command = [sys.executable, "-m", "kafnets", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    wrong = call("verify", "none.json")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: none.json: no such record")
    assert wrong.stderr.count("\n") == 1
    helped = call("--help")
    assert helped.returncode == 0 and all(name in helped.stdout for name in command.COMMANDS)
    code = "import sys, kafnets.command as c\nc.main(['list', 'models'])\nassert 'torch' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert "published/kaf_elu" in listed.stdout
