"""What is wrong with the section `detection` of the configuration, beyond its shape."""

from ..registry import DATASETS, DETECTION_ATTACKS, DETECTORS
from ..runtime.errors import UserError
from .detection import blind, section
from .reading import dotted, error_at
from .shape import check_settings, choose
from .slices import test_images


def check(config, schema):
    """Checks the section, whose shape is right already.

    Args:
        config (dict): the whole configuration.
        schema (dict): its schema.

    Raises:
        UserError: one line that names the key, its value and what to write.
    """
    found = section(config)
    choose(("detection", "run"), found["run"], config["experiments"])
    for kind, table in (("detectors", DETECTORS), ("attacks", DETECTION_ATTACKS)):
        choose(("detection", f"run_{kind}"), found[f"run_{kind}"], found[kind])
        for name, settings in found[kind].items():
            path, method = ("detection", kind, name), settings["method"]
            choose((*path, "method"), method, table)
            check_settings(path, settings, method, table[method], schema, "method")
    if not found["run"]:
        return
    for kind in ("detectors", "attacks"):
        if not found[f"run_{kind}"]:
            where = dotted(("detection", f"run_{kind}"))
            raise UserError(f"{where}: is empty; write names of detection.{kind}, or detection.run: []")
    attacks, ignorant = found["run_attacks"], blind(found)
    if not ignorant or len(ignorant) == len(attacks):
        problem = f"lacks an attack that {'knows' if ignorant else 'does not know'} the detector"
        allowed = f"write {'orthogonal_pgd' if ignorant else 'pgd'} too, or another such attack"
        raise error_at(("detection", "run_attacks"), attacks, problem, allowed)
    for name in found["run"]:
        _check_images(found, name, config["experiments"][name])


def _check_images(found, name, experiment):
    train, test = DATASETS[experiment["dataset"]].examples
    wanted = found["train_examples"]
    if wanted is not None and wanted > train:
        allowed = f"write at most {train}, or null for all"
        raise error_at(("detection", "train_examples"), wanted, f"is more than {name} has", allowed)
    taken = test_images(experiment, found["examples"])
    if taken + found["held_out"] > test:
        problem = f"and the {taken} attacked images of {name} are more than its {test} test images"
        allowed = f"write less than {test - taken}, or less detection.examples"
        raise error_at(("detection", "held_out"), found["held_out"], problem, allowed)
