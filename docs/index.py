"""Writes the index of networks that are known by name, kafnets/model_zoo/index.json, from results/reference.

PYTHONPATH=workflow/scripts python docs/index.py [--check]

A network is one of the thesis's own, or a training that is kept in results/reference. Its numbers are those
of records and tables there, checked against their verdicts where these are kept.
"""

import argparse
import csv
import json
from pathlib import Path

import yaml
from kafnets.registry import PUBLISHED
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import read_json, sha256

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
INDEX = ROOT / "workflow" / "scripts" / "kafnets" / "model_zoo" / "index.json"
ON_CPU, ON_GPU = REFERENCE / "cpu-2026-11-24", REFERENCE / "h200-2026-11-27"


def index():
    return {**dict(map(published, PUBLISHED)), **dict(kept())}


def published(row):
    """The entry of one of the thesis's networks."""
    data = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["data"]["published"]
    archive = data["archives"][row]
    return f"published/{row}", {
        "architecture": "resnet20",
        "activation": row,
        "dataset": "cifar10",
        "training": "fast adversarial training (FBF), F. Peconi 2020",
        "row": row,
        "url": f"{data['url']}/{PUBLISHED[row]}.zip",
        "bytes": archive["bytes"],
        "sha256": archive["sha256"],
        "evaluations": [*_pgd_of(row), _worst_case_of(row)],
    }


def _pgd_of(row):
    path = ON_GPU / "published" / f"published_pgd_{row}.json"
    if path.is_file():
        yield _evaluation(read_json(path), path)


def _worst_case_of(row):
    with open(ON_CPU / "published_attacks.csv", encoding="utf-8") as file:
        rows = {one["attack"]: one for one in csv.DictReader(file)}
    worst = rows["worst_case"]
    merged = [
        one
        for one in rows.values()
        if one["eps"] == worst["eps"] and one["method"] not in ("thesis_pgd", "worst_case")
    ]
    return {
        "attack": f"worst case of {len(merged)} attacks",
        "eps": worst["eps"],
        "examples": int(worst["examples"]),
        "clean": _share(rows["clean"][row]),
        "robust": _share(worst[row]),
        "source": ON_CPU.relative_to(ROOT).as_posix(),
    }


def _share(percent):
    return round(float(percent) / 100, 6)


def kept():
    """The entries of the networks that were trained by this pipeline and are kept."""
    for path in sorted(REFERENCE.glob("*/*/models/*/*/seed*/record.json")):
        record = read_json(path)
        weights = path.with_name("model.safetensors")
        if record["model_sha256"] != sha256(weights):
            raise UserError(f"{weights}: not the weights that {path} tells of; restore the file")
        settings = record["settings"]
        training = settings["training"]
        epochs = training["epochs"] + training["tail"]["epochs"]
        run = path.relative_to(REFERENCE).parts[0]
        seed = "" if record["seed"] == 0 else f"/seed{record['seed']}"
        yield (
            f"{record['experiment']}/{record['activation']}/{run}{seed}",
            {
                "architecture": settings["architecture"],
                "activation": record["activation"],
                "dataset": settings["dataset"],
                "training": f"{training['adversary']['name']}, {epochs} epochs",
                "path": weights.relative_to(ROOT).as_posix(),
                "url": None,
                "bytes": weights.stat().st_size,
                "sha256": record["model_sha256"],
                "evaluations": [*_evaluations_of(path, record)],
            },
        )


def _evaluations_of(path, record):
    parts = list(path.parent.parts)
    parts[parts.index("models", len(REFERENCE.parts))] = "evaluations"
    for file in sorted(Path(*parts).glob("*.json")):
        found = read_json(file)
        if found["model_sha256"] != record["model_sha256"]:
            raise UserError(f"{file}: of another network than {path}; restore the file")
        if found["verdicts_sha256"] != sha256(file.with_suffix(".safetensors")):
            raise UserError(f"{file}: its verdicts are others; restore the files")
        if found["settings"]["method"] != "clean":
            yield _evaluation(found, file)


def _evaluation(record, path):
    settings = record["settings"]
    iterated = [str(settings[key]) for key in ("iterations", "restarts") if key in settings]
    return {
        "attack": "-".join([settings["method"].upper(), *iterated]),
        "eps": settings["eps"],
        "examples": record["examples"],
        "clean": record["clean_accuracy"],
        "robust": record["accuracy"],
        "source": path.relative_to(ROOT).as_posix(),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; an error where the index differs"
    )
    text = json.dumps(index(), indent=1) + "\n"
    if not parser.parse_args().check:
        INDEX.write_text(text, encoding="utf-8")
    elif INDEX.read_text(encoding="utf-8") != text:
        raise UserError(f"{INDEX.relative_to(ROOT)}: not what results/reference says; write it again")


if __name__ == "__main__":
    cli.run(main)
