"""A bit flipped or a tail lost in any file of a finished run: refused by who reads it, never used."""

import dataclasses
import json
import random
import shutil

import pytest
from kafnets.data import load
from kafnets.report import cards, manifest, summary
from kafnets.runtime import records
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json, sha256

from tests.scripts import call, complete, evaluation_arguments, sources

FLIPS = 25


def weights_are_those_of_the_record(folder):
    records.checksum_of_weights(folder / "model.safetensors", folder / "record.json")


def card_tensors(path):
    return {name: array.tolist() for name, array in cards.tensors(cards.read(path)).items()}


def lr_range(folder):
    import plot_lr_range

    return plot_lr_range.read(folder / "lr_range.csv", folder / "lr_range.json")


READERS = {
    "model.safetensors": lambda folder, run, data: weights_are_those_of_the_record(folder),
    "record.json": lambda folder, run, data: summary.summarize([run]).to_csv(),
    "history.csv": lambda folder, run, data: manifest.read_history(run).to_csv(),
    "pgd.json": lambda folder, run, data: summary.summarize([run]).to_csv(),
    "pgd.safetensors": lambda folder, run, data: summary.summarize([run]).to_csv(),
    "manifest.jsonl": lambda folder, run, data: [
        dataclasses.asdict(one) for one in manifest.read_manifest(folder / "manifest.jsonl")
    ],
    "summary.csv": lambda folder, run, data: summary.read_rows(folder / "summary.csv").to_csv(),
    "card.json": lambda folder, run, data: dataclasses.asdict(cards.read(folder / "card.json")),
    "card.safetensors": lambda folder, run, data: card_tensors(folder / "card.json"),
    "lr_range.json": lambda folder, run, data: lr_range(folder),
    "lr_range.csv": lambda folder, run, data: lr_range(folder),
    "digits.safetensors": lambda folder, run, data: load(data),
    "digits.json": lambda folder, run, data: load(data),
}


@pytest.mark.parametrize("name", READERS)
def test_damage_is_seen(finished, data, tally, name):
    folder, run = finished
    path = (
        (data if name == "digits.safetensors" else data.with_suffix(".json"))
        if "digits" in name
        else folder / name
    )
    read = READERS[name]
    content = path.read_bytes()
    draw = random.Random(name)
    damaged = [content[:length] for length in (0, 1, len(content) // 2, len(content) - 1)]
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    before = read(folder, run, data)
    try:
        for one in damaged:
            tally.tried("damaged data, weights, records, histories, verdicts")
            path.write_bytes(one)
            try:
                after = read(folder, run, data)
            except UserError as error:
                assert ("\n" not in str(error) and str(folder) in str(error)) or str(data.parent) in str(
                    error
                )
            else:
                # white space at the end, or in a record: nothing that is read changed
                assert name.endswith(".json") and same(before, after)
            tally.held("damaged data, weights, records, histories, verdicts")
    finally:
        path.write_bytes(content)
    assert same(before, read(folder, run, data))


def same(one, other):
    if hasattr(one, "sha256"):
        return one.sha256 == other.sha256 and one.classes == other.classes and one.name == other.name
    return json.dumps(one) == json.dumps(other)


def test_weights_are_not_exchanged_for_others(finished, tmp_path):
    """Whole and readable, but not those of the record."""
    folder, _ = finished
    other = tmp_path / "model.safetensors"
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    assert sha256(other) != read_json(folder / "record.json")["model_sha256"]
    with pytest.raises(UserError, match="not the weights"):
        records.checksum_of_weights(other, folder / "record.json")


@pytest.mark.parametrize("name", ["model.safetensors", "record.json"])
def test_a_damaged_source_of_an_attack_is_refused(context, data, finished, tmp_path, tally, name):
    """Adversarial examples crafted on other weights than those of the record would be a wrong number."""
    folder, _ = finished
    source, target = tmp_path / "relu", tmp_path / "target"
    source.mkdir()
    complete(context, source, data, "relu")
    transfer = {"method": "transfer", "eps": "16/255", "step": "8/255", "iterations": 1}
    arguments = evaluation_arguments(folder, data, "kaf", "transfer", target, {"transfer": transfer})
    content = (source / name).read_bytes()
    for damage in (content[:-1], content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]):
        tally.tried("damaged data, weights, records, histories, verdicts")
        (source / name).write_bytes(damage)
        code, words = call(
            context, "evaluate.py", [*arguments, *sources(source)], tmp_path / f"{len(damage)}"
        )
        if damage == content[:-1] and name == "record.json":
            assert code == 0  # a line's end less
        else:
            errors = [line for line in words.splitlines() if line.startswith("error: ")]
            assert code == 2 and len(errors) == 1 and str(source) in errors[0], words
            assert "Traceback" not in words and not list(target.iterdir())
        tally.held("damaged data, weights, records, histories, verdicts")
        shutil.rmtree(target, ignore_errors=True)
