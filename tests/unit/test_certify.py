"""Certifications from the network to the table: interruption, command line, records, figures."""

import csv
import json
import os
import signal

import pytest
import torch
from kafnets import create_activation, registry
from kafnets.attacks import pgd
from kafnets.certification import certify as driver
from kafnets.certification.certify import Memory, certify
from kafnets.certification.entry import ABSTAINED, Certificate, Certified, create_certificate
from kafnets.data import Dataset, save
from kafnets.models import create_model, save_model
from kafnets.report import certificates, certified_table, typesetting
from kafnets.report.plots import certified_accuracy, certified_radii, style
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import sha256, write_json
from kafnets.runtime.interruption import Interrupted, SignalFlag
from torch import nn

from tests import scripts

SETTINGS = {"sigma": 0.25, "samples": 200, "selection_samples": 20}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 10))


def some(model, count=12):
    """Images, and as labels mostly the network's own answers."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = model(images.float() / 255).argmax(1)
    return images, torch.where(torch.arange(count) % 4 == 3, (labels + 1) % 10, labels)


def test_an_interrupted_certification_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    model = network()
    images, labels = some(model)
    _, whole = certify(model, images, labels, "smoothing", SETTINGS)
    asked = []
    own = driver._some

    def stopped(certificate, images, labels, numbers, device):
        asked.extend(numbers)
        if numbers == [5]:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(certificate, images, labels, numbers, device)

    monkeypatch.setattr(driver, "_some", stopped)
    path = tmp_path / "resume-smoothing-0123456789abcdef.ckpt"
    with SignalFlag() as stop, pytest.raises(Interrupted):
        certify(model, images, labels, "smoothing", SETTINGS, memory=Memory(path, "a", stop))
    assert asked == list(range(6)) and path.exists()
    torch.manual_seed(99)
    torch.rand(17)
    with SignalFlag() as stop:
        memory = Memory(path, "a", stop)
        # other batches than before: as after an error for want of memory
        _, resumed = certify(model, images, labels, "smoothing", SETTINGS, batch_size=50, memory=memory)
    assert asked == list(range(12))  # none of them twice
    for name in whole.keys() - {"seconds"}:
        assert torch.equal(whole[name], resumed[name]), name
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        Memory(path, "b", None)


def test_without_enough_memory_batches_become_smaller():
    class Small(nn.Module):
        """Holds four images."""

        def __init__(self):
            super().__init__()
            self.model, self.asked = network(), []

        def forward(self, images):
            self.asked.append(len(images))
            if len(images) > 4:
                raise RuntimeError("CUDA out of memory")
            return self.model(images)

    model = Small()
    images, labels = some(model.model, 3)
    figures, columns = certify(model, images, labels, "smoothing", SETTINGS, batch_size=20)
    _, expected = certify(model.model, images, labels, "smoothing", SETTINGS, batch_size=20)
    assert figures["batch_size"] == 2 and max(model.asked) == 20
    assert torch.equal(columns["hits"], expected["hits"])

    class Never(nn.Module):
        def forward(self, images):
            raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        certify(Never(), images, labels, "smoothing", SETTINGS, batch_size=2)


def test_the_network_is_left_as_it_was():
    model = network().train()
    model[1].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    images, labels = some(model, 2)
    certify(model, images, labels, "smoothing", SETTINGS)
    assert model.training and not model[1].bias.requires_grad and model[1].weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_certificate_may_not_say():
    one, two = torch.zeros(1, dtype=torch.int64), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"radii: expected the shape \(1,\), found \(2,\)"):
        Certified(one, two)
    with pytest.raises(ValueError, match="expected int64 and float64, found"):
        Certified(one, two[:1].float())
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="write 0 where nothing is proved"):
            Certified(one, two[:1] + wrong)
    with pytest.raises(ValueError, match="expected 0 where the certificate abstains"):
        Certified(one + ABSTAINED, two[:1] + 0.1)


def test_what_cannot_be_certified():
    model = network()
    images, labels = some(model, 2)
    with pytest.raises(UserError, match="did you mean smoothing"):
        certify(model, images, labels, "smoothin", SETTINGS)
    with pytest.raises(UserError, match=r"certificate smoothing: .*sigma"):
        certify(model, images, labels, "smoothing", {"samples": 3})
    with pytest.raises(UserError, match="the test set is empty"):
        certify(model, images[:0], labels[:0], "smoothing", SETTINGS)
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        certify(model, images / 255, labels, "smoothing", SETTINGS)


def test_every_line_of_the_registry_is_a_certificate():
    for name, entry in registry.CERTIFICATES.items():
        assert issubclass(entry.load(), Certificate), name
        assert entry.norm in ("l2", "linf") and entry.label and entry.load().__doc__


@pytest.mark.parametrize("method", registry.CERTIFICATES)
def test_an_activation_is_certified_or_refused_before_the_first_image(method):
    """Every one of the registry, by a line that names the layer."""
    needed = {"eps": "1/255", "sigma": 0.25}
    given = {name: needed[name] for name in registry.CERTIFICATES[method].required}
    given |= {"samples": 8, "selection_samples": 4} if method == "smoothing" else {}
    images, refused = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)), set()
    for name in registry.ACTIVATIONS:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(12, 4), create_activation(name, 4), nn.Linear(4, 3)]
        model = nn.Sequential(*layers).eval().requires_grad_(False)
        try:
            certificate = create_certificate(method, model, images.shape[1:], 2, given)
        except UserError as error:
            assert f"certificate {method}: m" in str(error)
            refused.add(name)
            continue
        labels = model(images).argmax(1)  # all are right
        assert len(certificate(images, labels, [0, 1]).radii) == 2
    discontinuous, no_lines = {"kwta"}, {"kwta", "maxmin"}
    assert refused & no_lines == {"ibp": discontinuous, "crown": no_lines}.get(
        method, refused & discontinuous
    )
    assert not refused - no_lines


# Settings that certificates need, at which the network above keeps some of its answers.
NEEDED = {"eps": "1/255"}
DETERMINISTIC = [name for name in registry.CERTIFICATES if name != "smoothing"]


@pytest.mark.parametrize("method", DETERMINISTIC)
def test_no_attack_breaks_what_is_certified(method):
    """PGD within the certified radius, from several starts; smoothing certifies another classifier."""
    model = network().double()
    images, _ = some(network(), 40)
    pixels = images.double() / 255
    labels = model(pixels).argmax(1)
    settings = {name: NEEDED[name] for name in registry.CERTIFICATES[method].required}
    figures, columns = certify(model, images, labels, method, settings)
    certified = columns["radius"] > 0
    assert certified.any()

    def robust(radius, at):
        how = {"step": radius / 4, "iterations": 20, "restarts": 3, "norm": figures["norm"]}
        return pgd(model, pixels[at], labels[at], eps=radius, **how).robust

    radii = columns["radius"][certified].unique().tolist()
    for radius in radii[:5]:
        assert robust(radius, certified & (columns["radius"] >= radius)).all()
    # the attack is one: further away it breaks most of them
    assert robust(20 * radii[-1], certified).double().mean() < 0.5


# -- the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a network and its record, and one certification of it."""
    folder = tmp_path_factory.mktemp("certified")
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(20) % 10
    dataset = Dataset("noise", images, labels, images.clone(), labels.clone(), tuple("0123456789"), "")
    save(dataset, folder / "noise.safetensors", folder / "noise.json")
    torch.manual_seed(0)
    save_model(create_model("resnet8", activation="relu"), folder / "model.safetensors")
    weights = {"model_sha256": sha256(folder / "model.safetensors")}
    write_json(folder / "record.json", weights)
    assert run(folder) == (0, "")
    return folder


def settings(**arguments):
    return {
        **{"experiment": "test", "activation": "relu", "seed": 0, "certificate": "smooth"},
        **{"dataset": "noise", "examples": 10, "method": "smoothing"},
        "arguments": {**SETTINGS, "samples": 30, **arguments},
    }


def run(folder, *options, **arguments):
    code, words = scripts.here(
        *("certify.py", "--model", folder / "model.safetensors", "--model-record", folder / "record.json"),
        *("--data", folder / "noise.safetensors", "--settings", json.dumps(settings(**arguments))),
        *("--record", folder / "smooth.json", "--csv", folder / "smooth.csv", "--device", "cpu"),
        *("--code", "1", "--batch-size", "64", *options),
    )
    return code, words if code or "already" in words else ""


def test_the_script_writes_what_was_found(place):
    record = json.loads((place / "smooth.json").read_text())
    with open(place / "smooth.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert record["kind"] == "certification" and record["examples"] == len(rows) == 10
    assert record["settings"] == settings() and record["certificate"] == "smooth"
    right = [row for row in rows if row["prediction"] == row["label"]]
    assert record["accuracy"] == len(right) / 10
    assert record["average_radius"] == pytest.approx(sum(float(row["radius"]) for row in right) / 10)
    assert record["abstained"] == sum(row["prediction"] == str(ABSTAINED) for row in rows)
    for row in rows:
        assert int(row["hits"]) <= 30 and float(row["seconds"]) > 0
        assert (float(row["lower_bound"]) > 0.5) == (float(row["radius"]) > 0)
    assert record["csv_sha256"] == sha256(place / "smooth.csv")
    assert not list(place.glob("resume-*"))


def test_what_is_made_is_not_made_again(place):
    before = (place / "smooth.csv").stat().st_mtime_ns
    code, words = run(place)
    assert code == 0 and "made already" in words
    assert (place / "smooth.csv").stat().st_mtime_ns == before


def test_a_wrong_call_is_told_in_a_line(place, tmp_path):
    code, words = run(place, "--record", tmp_path / "other.json", sigm=1)
    assert code == 2 and words.startswith("error: certificate smoothing: ") and words.count("\n") == 1
    (tmp_path / "other.safetensors").write_bytes(b"")
    code, words = run(place, "--model", tmp_path / "other.safetensors", "--record", tmp_path / "other.json")
    assert code == 2 and "not the weights that" in words
    gone = ("--model", place / "none.safetensors", "--record", tmp_path / "other.json")
    code, words = run(place, *gone)
    assert code == 2 and "none.safetensors: no such file of weights; snakemake makes it" in words


def test_a_missing_model_without_a_record_is_named(place, tmp_path):
    call = ["--model", place / "none.safetensors", "--data", place / "noise.safetensors"]
    call += [
        "--settings",
        json.dumps(settings()),
        "--record",
        tmp_path / "a.json",
        "--csv",
        tmp_path / "a.csv",
    ]
    code, words = scripts.here("certify.py", *call, "--device", "cpu")
    assert code == 2 and "none.safetensors: no such file of weights" in words and "Errno" not in words


@pytest.mark.parametrize("option", ["--batch-size", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x"])
def test_what_must_be_a_positive_number(place, option, value):
    code, words = scripts.here("certify.py", option, value)
    assert code == 2 and f"argument {option}: '{value}' is not allowed; write a whole number" in words


# -- records, table and figures


def written(folder, activation, certificate, radii, right, norm="l2", clean=0.8, seed=0, **arguments):
    """The record and the images of a certification that found these radii."""
    folder = folder / activation / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{certificate}.csv"
    lines = ["image,label,answer,prediction,radius,seconds"]
    pairs = list(zip(radii, right, strict=True))
    lines += [f"{i},3,3,{3 if ok else 5},{radius},0.5" for i, (radius, ok) in enumerate(pairs)]
    path.write_text("\n".join(lines) + "\n")
    count = len(radii)
    record = {
        "kind": "certification",
        **{"experiment": "test", "activation": activation, "seed": seed, "certificate": certificate},
        **{"norm": norm, "examples": count, "clean_accuracy": clean, "accuracy": sum(right) / count},
        "average_radius": sum(radius for radius, ok in pairs if ok) / count,
        **{"abstained": 1, "seconds_per_image": 0.5, "settings": {"arguments": arguments}},
        "csv_sha256": sha256(path),
    }
    write_json(path.with_suffix(".json"), record)
    return path.with_suffix(".json")


SHOWN = {
    "title": "Test",
    "activations": ["relu", "kaf"],
    "headline": "pgd",
    "worst_case": [],
    "attacks": {"pgd": {"method": "pgd", "eps": "8/255"}},
    "balls": {"pgd": ["linf", 8 / 255], "round": ["l2", 0.5]},
    "certificates": {
        "smooth": {"method": "smoothing", "norm": "l2", "arguments": {"sigma": 0.25, "samples": 1000}},
        "box": {"method": "boxes", "norm": "linf", "arguments": {"eps": "2/255"}},
    },
}


@pytest.fixture
def found(tmp_path):
    paths = [
        written(tmp_path, "relu", "smooth", [0.0, 0.25, 0.6, 1.5], [True, True, True, False]),
        written(tmp_path, "kaf", "smooth", [0.1, 0.3, 0.3, 0.9], [True] * 4, clean=1.0),
        written(tmp_path, "relu", "box", [0.0, 2 / 255], [True, True], norm="linf", eps="2/255"),
    ]
    return [certificates.read(path) for path in paths]


def test_the_table_counts_the_images(found):
    table = certified_table.build(found, "test", SHOWN)
    relu, kaf, box = table.records
    names = ("l2_0", "l2_0.25", "l2_0.5", "l2_0.75", "l2_1", "l2_1.5")
    # at 0 the accuracy; what is misclassified counts nowhere, whatever its radius
    assert [float(relu[name]) for name in names] == [75, 50, 25, 0, 0, 0]
    assert [float(kaf[name]) for name in names] == [100, 75, 25, 25, 0, 0]
    assert float(relu["acr"]) == pytest.approx((0.25 + 0.6) / 4, abs=1e-4)
    assert float(box["linf_eps"]) == 50 and box["radius"] == "2/255" and box["acr"] == ""
    assert relu["linf_eps"] == "" and relu["examples"] == 4 and box["examples"] == 2
    text = " ".join(typesetting.to_markdown(table).split())
    assert "**100.0**" in text and "**75.0**" in text and "randomised smoothing, L2, sigma 0.25" in text
    assert text.count("| kaf") == 0 and "| KAF " in text
    typeset = typesetting.to_tex(table)
    assert typeset.isascii() and r"\label{tab:test_certificates}" in typeset


def test_where_no_eps_is_tried_there_is_no_share_at_it(tmp_path, found):
    """Of a Lipschitz constant's L-infinity radii: not the plain accuracy in its place."""
    path = written(tmp_path, "relu", "margin", [0.001, 0.01], [True, True], norm="linf")
    margin = {"method": "lipschitz", "norm": "linf", "arguments": {"norm": "linf"}}
    shown = {**SHOWN, "certificates": {**SHOWN["certificates"], "margin": margin}}
    table = certified_table.build([*found, certificates.read(path)], "test", shown)
    place = [column.head for column in table.columns].index("At ε")
    assert [row[place].text for row in table.rows[-2:]] == ["50.0", typesetting.NOT_RUN]
    assert table.records[-1]["linf_eps"] == "" and table.records[-1]["radius"] == ""
    alone = certified_table.build([certificates.read(path)], "test", shown)
    assert "At ε" not in [column.head for column in alone.columns] and "At ε" not in alone.caption


def test_several_seeds_are_averaged(tmp_path):
    paths = [
        written(tmp_path, "relu", "smooth", [0.3, 0.3], [True, share], seed=seed)
        for seed, share in enumerate((True, False))
    ]
    table = certified_table.build([certificates.read(path) for path in paths], "test", SHOWN)
    assert float(table.records[0]["l2_0.25"]) == 75 and table.records[0]["seeds"] == 2
    assert float(table.records[0]["l2_0.25_std"]) == pytest.approx(35.3553, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda record: record.update(kind="card"), "not a certification"),
        (lambda record: record.pop("norm"), "lacks norm"),
        (lambda record: record.update(accuracy=0.5), "does not say what its images say"),
        (lambda record: record.update(csv_sha256="0"), "its checksum is not the one in"),
    ],
)
def test_records_that_cannot_be(tmp_path, change, problem):
    path = written(tmp_path, "relu", "smooth", [0.1], [True])
    record = json.loads(path.read_text())
    del record["checksum"]
    change(record)
    write_json(path, record)
    with pytest.raises(UserError, match=problem):
        certificates.read(path)


def test_a_certificate_is_shown_beside_an_attack_of_its_norm():
    smooth, box = SHOWN["certificates"].values()
    # the certificate tries no radius above its eps
    assert certificates.compared(box, SHOWN) == (
        *("pgd", 2 / 255),
        "pgd (L∞ 8/255), certified at L∞ 2/255",
    )
    larger = {**box, "arguments": {"eps": "16/255"}}
    assert certificates.compared(larger, SHOWN)[1:] == (8 / 255, "pgd (L∞ 8/255), certified at L∞ 8/255")
    small = {**SHOWN, "balls": {**SHOWN["balls"], "small": ["linf", 2 / 255]}}
    assert certificates.compared(box, small)[2] == "small (L∞ 2/255), certified at L∞ 2/255"
    assert certificates.compared(smooth, SHOWN) == ("round", 0.5, "round (L2 0.5), certified at L2 0.5")
    only = {**SHOWN, "balls": {"pgd": ["linf", 8 / 255]}}
    assert certificates.compared(smooth, only) == (
        *("pgd", 0.25),
        "pgd (L∞ 8/255), certified at L2 0.25",
    )
    merged = {**only, "headline": "worst_case", "worst_case": ["pgd", "other"]}
    assert certificates.compared(box, merged)[0] == "worst_case"
    nothing = {**SHOWN, "balls": {}, "headline": "clean"}
    assert certificates.compared(box, nothing)[:2] == ("clean", 2 / 255)


def test_the_curve_steps_down_behind_each_radius(found):
    drawn = certified_radii.draw(found, SHOWN)
    smooth, box = drawn.axes[:2]
    curve = smooth.lines[0]
    assert curve.get_drawstyle() == "steps-pre"
    assert curve.get_xdata().tolist() == pytest.approx([0, 0.25, 0.6, 0.6])
    assert curve.get_ydata().tolist() == pytest.approx([75, 50, 25, 0])
    assert box.lines[0].get_xdata().tolist() == pytest.approx([0, 2, 2])
    style.pyplot.close(drawn)


def test_clean_attacked_and_certified_stand_in_a_line(found):
    import pandas

    columns = {"activation": ["relu", "kaf"], "accuracy": [0.3, 0.5], "examples": 100}
    rows = pandas.DataFrame({"attack": "pgd", "seed": 0, **columns})
    drawn = certified_accuracy.draw(found, rows, {**SHOWN, "balls": {"pgd": ["linf", 8 / 255]}})
    shown = {}
    for line in drawn.axes[0].lines:
        if line.get_marker() not in ("None", "", None):
            key = (line.get_marker(), line.get_ydata()[0])
            shown[key] = line.get_xdata()[0]
    expected = {("o", 0): 80, ("|", 0): 30, ("D", 0): 50, ("o", 1): 100, ("|", 1): 50, ("D", 1): 75}
    assert shown == pytest.approx(expected)
    style.pyplot.close(drawn)


def test_create_certificate_takes_radii_as_floats(monkeypatch):
    class Box(Certificate):
        def __init__(self, network, image_shape, batch_size, eps):
            super().__init__(network, image_shape, batch_size)
            self.eps = eps

    entry = registry.CERTIFICATES["smoothing"].__class__("test_certify:Box", required=("eps",))
    monkeypatch.setitem(registry.CERTIFICATES, "box", entry)
    monkeypatch.setattr(type(entry), "load", lambda self: Box)
    certificate = create_certificate("box", network(), (3, 8, 8), 10, {"eps": "51/255"})
    assert certificate.eps == 0.2 and certificate.facts == {}
