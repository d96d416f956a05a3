"""The whole configuration, checked before anything runs.

Every error is one line: the key (dotted), its value, what is wrong, what to write. Imports nothing but the
standard library, jsonschema and PyYAML, which Snakemake's own environment has.
"""

import json
import os

from .. import registry
from ..registry import ACTIVATIONS, ADVERSARIES, ARCHITECTURES, ATTACKS, DATASETS, PENALTIES, PUBLISHED
from ..runtime.errors import UserError
from ..runtime.units import fraction
from . import certification, detection_checks, own
from .reading import check_size, dotted, error_at, read_yaml
from .shape import Reader, check_radius, check_settings, check_shape, choice, choose
from .slices import WORST_CASE, expanded, rates, source_activations, worst_case_attacks


def validate(config, schema_path, published_path=None, folders=(), elsewhere=False):
    """Checks the whole configuration.

    Args:
        config (dict): as Snakemake parsed and merged it.
        schema_path (Path): of config.schema.yaml.
        published_path (Path, optional): of thesis_results.yaml, whose row sets `reference` may name.
        folders (iterable of Path): where the modules of the user's own names may lie. These names are added
            to the registry (:func:`kafnets.registry.adopt`).
        elsewhere (bool): the jobs run in environments of their own, which may have other modules.

    Raises:
        UserError: one line that names the key, its value and what to write.
    """
    schema = read_yaml(schema_path)
    check_size(config)
    config = expanded(Reader(schema).read(config))
    check_shape(config, schema)
    own.check(config, folders, elsewhere)
    registry.adopt(config, folders)
    _check_evaluation(config["evaluation"], schema)
    choose(("run",), config["run"], config["experiments"])
    _check_card(config["card"], config["experiments"])
    certification.check(config, schema)
    published = None if published_path is None else read_yaml(published_path)
    for name, experiment in config["experiments"].items():
        _check_experiment(("experiments", name), experiment, published, schema)
        if "beside" in experiment:
            choose(("experiments", name, "beside"), experiment["beside"], config["experiments"])
    _check_study(config["study"], config["experiments"])
    detection_checks.check(config, schema)
    for name in config["run"]:
        experiment = config["experiments"][name]
        for table in ("attacks", "differences"):
            if f"{name}_{table}" in config["run"]:
                problem = f"has the name of a table of {name}"
                raise error_at(("run",), f"{name}_{table}", problem, "write another name for the experiment")
        _check_sources_of_attacks(config, name)
        _check_classes(config, name)
        _check_source(config, experiment["dataset"])
        if "weights" in experiment:
            _check_source(config, experiment["weights"])
            _check_archives(config["data"][experiment["weights"]], experiment["activations"])
    low, high = config["lr_range"]["min"], config["lr_range"]["max"]
    if low >= high:
        raise error_at(("lr_range",), {"min": low, "max": high}, "is no range", "write min less than max")


def _check_evaluation(evaluation, schema):
    attacks = evaluation["attacks"]
    choose(("evaluation", "run"), evaluation["run"], attacks)
    if "clean" not in evaluation["run"]:
        raise error_at(
            ("evaluation", "run"), evaluation["run"], "lacks clean", "write clean too: tables need it"
        )
    if WORST_CASE in attacks:
        problem = "is not the name of an attack"
        raise error_at(
            ("evaluation", "attacks", WORST_CASE), attacks[WORST_CASE], problem, "write another name"
        )
    for name, attack in attacks.items():
        path = ("evaluation", "attacks", name)
        choose((*path, "method"), attack["method"], ATTACKS)
        check_settings(path, attack, attack["method"], ATTACKS[attack["method"]], schema, "method")
    _check_headline(evaluation)
    method = attacks["clean"]["method"]
    if method != "clean":
        raise error_at(("evaluation", "attacks", "clean", "method"), method, "is an attack", "write clean")


def _check_headline(evaluation):
    headline = evaluation["headline"]
    if headline != WORST_CASE:
        choose(("evaluation", "headline"), headline, evaluation["run"])
    elif not worst_case_attacks({"evaluation": evaluation}):
        problem = "needs two attacks of the same norm and eps in evaluation.run"
        raise error_at(("evaluation", "headline"), headline, problem, "write one attack, or run another")


def _check_sources_of_attacks(config, experiment):
    """Attacks that craft examples on the models of other activations need these activations."""
    activations = config["experiments"][experiment]["activations"]
    for attack in config["evaluation"]["run"]:
        settings = config["evaluation"]["attacks"][attack]
        for index, name in enumerate(settings.get("sources", [])):
            if name not in activations:
                path = ("evaluation", "attacks", attack, "sources", index)
                raise error_at(path, name, f"is no activation of {experiment}", choice(name, activations))
        if ATTACKS[settings["method"]].sources != "needed":
            continue
        for activation in activations:
            if not source_activations(config, experiment, activation, attack):
                problem = f"leave {attack} no other model to attack {activation} from"
                allowed = f"write another activation too, or leave {attack} out of evaluation.run"
                raise error_at(("experiments", experiment, "activations"), activations, problem, allowed)


def _check_classes(config, experiment):
    """Attacks that aim at other classes need as many."""
    dataset = config["experiments"][experiment]["dataset"]
    classes = DATASETS[dataset].classes
    for attack in config["evaluation"]["run"]:
        settings = config["evaluation"]["attacks"][attack]
        needed = _classes_for(settings)
        if classes < needed:
            problem = f"needs {needed} classes, and {dataset} of {experiment} has {classes}"
            allowed = f"write another attack, or leave {attack} out of evaluation.run"
            raise error_at(("evaluation", "attacks", attack, "method"), settings["method"], problem, allowed)


def _classes_for(settings):
    """How many classes an attack needs: its targets and the true one; for a DLR loss three, or four."""
    targets = settings.get("targets", 0)
    if settings["method"] in ("autoattack", "apgd_t"):
        return 4
    return max(targets + 1, (4 if targets else 3) if settings.get("loss") == "dlr" else 2)


def _check_card(card, experiments):
    choose(("card", "run"), card["run"], experiments)
    for key in ("eps", "step"):
        check_radius(("card", key), card[key])
    for index, radius in enumerate(card["radii"]):
        check_radius(("card", "radii", index), radius)
    radii = [fraction(radius) for radius in card["radii"]]
    if radii[0] or radii != sorted(set(radii)):
        raise error_at(
            ("card", "radii"), card["radii"], "does not grow from 0", "write 0/255, then larger ones"
        )
    few, many = (card[key] for key in ("iterations", "most_iterations"))
    if few >= many:
        given = {"iterations": few, "most_iterations": many}
        raise error_at(("card",), given, "shows no further iterations", "write more most_iterations")


def _check_study(study, experiments):
    for key in ("run", "rates"):
        choose(("study", key), study[key], experiments)
    choose(("study", "controls"), study["controls"], ACTIVATIONS)
    for activation, other in study["null_models"].items():
        choose(("study", "null_models"), [activation], ACTIVATIONS)
        choose(("study", "null_models", activation), other, ACTIVATIONS)
    for variant, other in study["variants"].items():
        path = ("study", "variants", variant)
        choose(("study", "variants"), [variant], experiments)
        choose(path, other, experiments)
        if other == variant or other in study["variants"]:
            raise error_at(
                path, other, "is a variant itself", "write the experiment that all are variants of"
            )
    for name in study["rates"]:
        if "validation" not in experiments[name].get("training", {}):
            problem = "holds no training images out, by which rates could be chosen"
            raise error_at(("study", "rates"), name, problem, "write one with training.validation")


def _check_experiment(path, experiment, published, schema):
    choose((*path, "dataset"), experiment["dataset"], DATASETS)
    if "networks" in experiment:
        _check_networks(path, experiment)
        return
    choose((*path, "architecture"), experiment["architecture"], ARCHITECTURES)
    choose((*path, "activations"), experiment["activations"], ACTIVATIONS)
    if published is not None and experiment["reference"] is not None:
        choose((*path, "reference"), experiment["reference"], published)
    _check_examples(path, experiment)
    _check_size(path, experiment)
    _check_arguments(path, experiment, schema)
    if "weights" in experiment:
        _check_published(path, experiment)
        return
    for key in ("train_examples", "training"):
        if key not in experiment:
            raise UserError(f"{dotted((*path, key))}: is missing; write it, or weights: published")
    training = experiment["training"]
    _check_batch_size(path, experiment)
    _check_learning_rates((*path, "training", "learning_rate"), training, experiment["activations"])
    adversary = training["adversary"]
    choose((*path, "training", "adversary", "name"), adversary["name"], ADVERSARIES)
    where, name = (*path, "training", "adversary"), adversary["name"]
    check_settings(where, adversary, name, ADVERSARIES[name], schema, "name")
    for key in ("monitor", "validation", "early_stopping"):
        for radius in ("eps", "step"):
            if radius in training.get(key, {}):
                check_radius((*path, "training", key, radius), training[key][radius])
    _check_schedule((*path, "training", "schedule"), training)
    choose((*path, "training", "penalties"), list(training.get("penalties", {})), PENALTIES)


def _check_networks(path, experiment):
    """Networks of the user's own are what they are: nothing of them is trained or chosen here."""
    own = [name for name, entry in ARCHITECTURES.items() if entry.own and entry.weights]
    choose((*path, "networks"), experiment["networks"], own)
    # what slices.expanded adds, and nothing else, of what other experiments have
    added = {
        "architecture": experiment["networks"][0],
        "architecture_arguments": {},
        "activation_arguments": {},
    }
    for key in ("train_examples", "training", "weights", *added):
        if key in experiment and (key not in added or experiment[key] != added[key]):
            problem = "does not belong to networks of your own"
            raise error_at((*path, key), experiment[key], problem, "leave it out, or leave out networks")
    _check_examples(path, experiment)


def _check_published(path, experiment):
    """Published weights are of one network, and nothing of them is trained here."""
    for key in ("train_examples", "training"):
        if key in experiment:
            raise error_at(
                (*path, key),
                experiment[key],
                "does not belong to published weights",
                "write it only where networks are trained",
            )
    choose((*path, "activations"), experiment["activations"], PUBLISHED)
    network = {
        "architecture": "resnet20",
        "architecture_arguments": {"block": "thesis"},
        "dataset": "cifar10",
    }
    for key, only in network.items():
        if experiment[key] != only:
            problem = "is not what the published weights are of"
            raise error_at((*path, key), experiment[key], problem, f"write {json.dumps(only)}")
    for activation, arguments in experiment["activation_arguments"].items():
        for name, value in arguments.items():
            if name != "arithmetic":
                problem = "does not belong to published weights"
                raise error_at(
                    (*path, "activation_arguments", activation, name),
                    value,
                    problem,
                    "write arithmetic, or nothing",
                )


def _check_archives(published, activations):
    for activation in activations:
        if published["source"] is None and activation not in published["archives"]:
            path = ("data", "published", "archives", activation)
            raise UserError(
                f"{dotted(path)}: is missing; write its bytes and sha256, or data.published.source"
            )


def _check_examples(path, experiment):
    available = DATASETS[experiment["dataset"]].examples
    for key, most in zip(("train_examples", "test_examples"), available, strict=True):
        wanted = experiment.get(key)
        if wanted is not None and wanted > most:
            allowed = f"write at most {most}, or null for all {most}"
            raise error_at((*path, key), wanted, f"is more than {experiment['dataset']} has", allowed)


def _check_size(path, experiment):
    """An architecture may take no images as small as the data set's, or not of each size."""
    entry, size = ARCHITECTURES[experiment["architecture"]], DATASETS[experiment["dataset"]].size
    if size < entry.smallest or size % entry.multiple:
        wanted = f"at least {entry.smallest} rows" + (
            f", and a multiple of {entry.multiple}" if entry.multiple > 1 else ""
        )
        problem = f"has images of {size} x {size}, and {experiment['architecture']} takes those of {wanted}"
        allowed = "write another architecture or data set (of a folder of images, another size)"
        raise error_at((*path, "dataset"), experiment["dataset"], problem, allowed)


def _check_batch_size(path, experiment):
    """A batch larger than the training set would be one step an epoch, of fewer images than asked for."""
    images = experiment["train_examples"] or DATASETS[experiment["dataset"]].examples[0]
    training, problem = experiment["training"], f"is more than the {images} training images (train_examples)"
    held_out = training.get("validation", {}).get("examples", 0)
    if held_out >= images:
        problem = f"leaves nothing of the {images} training images (train_examples)"
        where = (*path, "training", "validation", "examples")
        raise error_at(where, held_out, problem, f"write less than {images}")
    if held_out:
        problem = f"is more than the {images - held_out} images that validation.examples leaves to train on"
    size = training["batch_size"]
    if size > images - held_out:
        allowed = f"write at most {images - held_out}"
        raise error_at((*path, "training", "batch_size"), size, problem, allowed)


def _check_schedule(path, training):
    schedule = training.get("schedule", {"name": "triangle"})
    if schedule["name"] == "triangle":
        for key in ("drops", "factor"):
            if key in schedule:
                problem = "does not belong to triangle"
                raise error_at((*path, key), schedule[key], problem, "write name: piecewise, or nothing")
        return
    if "drops" not in schedule:
        raise UserError(
            f"{dotted((*path, 'drops'))}: is missing; write the epochs after which the rate drops"
        )
    late = next((drop for drop in schedule["drops"] if drop >= training["epochs"]), None)
    if late is not None:
        problem = f"is not before the end of {training['epochs']} epochs"
        allowed = "write smaller numbers, or more epochs"
        raise error_at((*path, "drops"), schedule["drops"], problem, allowed)


def _check_arguments(path, experiment, schema):
    """What the architecture and the activations are given, by what the registry says that they take."""
    where, given = (*path, "architecture_arguments"), experiment["architecture_arguments"]
    architecture = experiment["architecture"]
    check_settings(where, given, architecture, ARCHITECTURES[architecture], schema)
    for activation, arguments in experiment["activation_arguments"].items():
        where = (*path, "activation_arguments", activation)
        choose(where, activation, ACTIVATIONS)
        check_settings(where, arguments, activation, ACTIVATIONS[activation], schema)


def _check_learning_rates(path, training, activations):
    given = training["learning_rate"]
    for activation in given:
        choose((*path, activation), activation, (*ACTIVATIONS, "default"))
    for activation in activations:
        if rates(given, activation) is None:
            raise UserError(
                f"{dotted((*path, activation))}: is missing; write [min, max], or default: [min, max]"
            )
    for activation, (low, high) in given.items():
        if low > high:
            raise error_at((*path, activation), [low, high], "is the wrong way round", "write [min, max]")


def _check_source(config, dataset):
    source = config["data"].get(dataset, {}).get("source")
    if source is not None and not os.path.exists(source):
        allowed = "write a path that exists, or null to download"
        raise error_at(("data", dataset, "source"), source, "does not exist", allowed)
