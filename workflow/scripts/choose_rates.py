"""Chooses each activation's learning rates: those that made it most robust on held-out training images."""

import argparse
from pathlib import Path

from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import atomic_path, read_json


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", required=True, nargs="+", help="of trainings with validation")
    parser.add_argument(
        "--output", required=True, type=Path, help="written: YAML, the learning_rate of a training"
    )
    arguments = parser.parse_args()
    found = tried([read_json(path) for path in arguments.records])
    with atomic_path(arguments.output) as temporary:
        temporary.write_text(text(found), encoding="utf-8")


def tried(records):
    """(method, activation) -> [(range, accuracy under PGD on the held-out images at the end)], by its max.

    Raises:
        UserError: when a record is of a training that held nothing out, or a range was tried twice.
    """
    found = {}
    for record in records:
        settings, last = record["settings"], record.get("selection", {}).get("last")
        where = f"{record['experiment']}/{record['activation']}/seed{record['seed']}"
        if last is None:
            raise UserError(
                f"{where}: held no training images out; give it training.validation and train again"
            )
        rates = tuple(settings["training"]["learning_rate"])
        method = settings["training"]["adversary"]["name"]
        of_activation = found.setdefault((method, record["activation"]), {})
        if rates in of_activation:
            raise UserError(f"{where}: its range {list(rates)} was tried before; write another learning_rate")
        of_activation[rates] = last["pgd_accuracy"]
    return {key: sorted(of.items(), key=lambda one: one[0][1]) for key, of in found.items()}


def chosen(candidates):
    """Of (range, accuracy): the range of the highest accuracy, of equal ones the smallest rate."""
    return max(candidates, key=lambda one: (one[1], -one[0][1]))[0]


def text(found):
    """The YAML file: a learning_rate for each method; beside each range what every one of them came to."""
    lines = ["# [min, max] of each activation; behind it the percent robust on the held-out images, by max"]
    for method in dict.fromkeys(method for method, _ in found):
        lines.append(f"{method}:")
        for (of_method, activation), candidates in found.items():
            if of_method == method:
                low, high = chosen(candidates)
                seen = ", ".join(f"{rates[1]:g}: {100 * accuracy:.1f}" for rates, accuracy in candidates)
                lines.append(f"  {activation}: [{low:g}, {high:g}]  # {seen}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    cli.run(main)
