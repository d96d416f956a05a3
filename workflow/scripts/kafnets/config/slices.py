"""The configuration handed out in slices, one for each step (kafnets/config/checks.py checks it).

Imports nothing heavy: the workflow reads it in a process that has no torch.
"""

from ..registry import ATTACKS, DATASETS
from ..runtime.units import fraction

DEFAULT_RATE = "default"
_NOT_OF_A_CARD = ("run", "examples", "sources")  # of the section `card`: which networks and images, not how
WORST_CASE = "worst_case"  # right under every attack of one ball: no attack, but may be the headline
_LOOKS = ("label", "colour", "marker", "settings", "required")  # of a user's own name: no part of results
USUAL_SHAPE = [3, 32, 32]  # of images: channels, rows, columns; settings tell of another one
OWN_WEIGHTS = "own"  # what settings call the weights of networks of the user's own
PUBLISHED_SEED = 0  # the number of a published network, of which there is one


def _plain(value):
    """Mappings as dicts, so that a slice is what JSON would hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def rates(learning_rate, activation):
    """The [min, max] of an activation's learning rate: its own or the default; None when there is neither."""
    return learning_rate.get(activation, learning_rate.get(DEFAULT_RATE))


def expanded(config):
    """The configuration with all that an experiment on networks of the user's own leaves out.

    Such a network stands in the place of an activation: in paths, in the tables, and beside the others.
    """
    found = {**config}
    if isinstance(config.get("experiments"), dict):
        found["experiments"] = {name: _expanded(one) for name, one in config["experiments"].items()}
    return found


def _expanded(experiment):
    networks = experiment.get("networks") if isinstance(experiment, dict) else None
    if not networks or not isinstance(networks, list):
        return experiment
    left_out = {"architecture": networks[0], "architecture_arguments": {}, "activation_arguments": {}}
    return {**left_out, **experiment, "activations": networks}


def is_given(config, experiment):
    """Whether an experiment judges weights that are given, published or the user's own: it trains none."""
    return bool({"weights", "networks"} & config["experiments"][experiment].keys())


def is_own(config, experiment):
    """Whether an experiment judges networks of the user's own."""
    return "networks" in config["experiments"][experiment]


def _weights(config, experiment):
    """What settings call the weights that are given: "published", "own"; None where they are trained."""
    return OWN_WEIGHTS if is_own(config, experiment) else config["experiments"][experiment].get("weights")


def architecture_of(config, experiment, activation):
    """The architecture of a cell: the experiment's, or the network of the user's own that it is."""
    return activation if is_own(config, experiment) else config["experiments"][experiment]["architecture"]


def cells(config):
    """The grid: every (experiment, activation, seed) of the experiments in `run`, in the config's order."""
    return [
        (name, activation, seed)
        for name in config["run"]
        for activation in config["experiments"][name]["activations"]
        for seed in ([PUBLISHED_SEED] if is_given(config, name) else config["seeds"])
    ]


def own_facts(config, **chosen):
    """Of names in use, what makes the user's own among them: for a record, and to compare."""
    found = {
        kind: {name: {key: value for key, value in config[kind][name].items() if key not in _LOOKS}}
        for kind, name in chosen.items()
        if name in config.get(kind, {})
    }
    return {"own": found} if found else {}


def training_settings(config, experiment, activation, seed):
    """All that decides the weights of one cell, and nothing else."""
    chosen = config["experiments"][experiment]
    architecture = architecture_of(config, experiment, activation)
    if is_given(config, experiment):
        origin = {"weights": _weights(config, experiment)}
    else:
        training = {**chosen["training"]}
        training["learning_rate"] = list(rates(training["learning_rate"], activation))
        origin = {"train_examples": chosen["train_examples"], "training": training}
    dataset = DATASETS[chosen["dataset"]]
    image_shape = [dataset.channels, dataset.size, dataset.size]
    shape = {} if image_shape == USUAL_SHAPE else {"image_shape": image_shape}
    return _plain(
        {
            "experiment": experiment,
            "activation": activation,
            "seed": int(seed),
            "dataset": chosen["dataset"],
            "architecture": architecture,
            "architecture_arguments": chosen["architecture_arguments"],
            "activation_arguments": chosen["activation_arguments"].get(activation, {}),
            "num_classes": dataset.classes,
            **shape,
            **origin,
            **own_facts(
                config,
                activations=activation,
                architectures=architecture,
                networks=architecture,
                datasets=chosen["dataset"],
            ),
        }
    )


def lr_range_settings(config, experiment, activation):
    """The settings of a learning-rate range test: those of the first seed, and the range."""
    settings = training_settings(config, experiment, activation, config["seeds"][0])
    return {**settings, "lr_range": _plain(config["lr_range"])}


def evaluation_settings(config, experiment, activation, seed, attack):
    """All that decides the verdicts of one attack on one cell's network."""
    settings = config["evaluation"]["attacks"][attack]
    sources = {}
    if ATTACKS[settings["method"]].sources:
        sources = {"sources": source_activations(config, experiment, activation, attack)}
    return _plain(
        {
            "experiment": experiment,
            "activation": activation,
            "seed": int(seed),
            "attack": attack,
            "dataset": config["experiments"][experiment]["dataset"],
            "test_examples": config["experiments"][experiment]["test_examples"],
            **settings,
            **sources,
            **own_facts(config, attack_methods=settings["method"]),
        }
    )


def source_activations(config, experiment, activation, attack):
    """The activations on whose models an attack crafts examples: those it names, or all, but the attacked."""
    settings = config["evaluation"]["attacks"][attack]
    if not ATTACKS[settings["method"]].sources:
        return []
    chosen = settings.get("sources", config["experiments"][experiment]["activations"])
    return [name for name in chosen if name != activation]


def ball(settings):
    """The (norm, eps) in which an attack's verdicts hold, eps a float.

    None for what has none: no attack at all, one that only measures distances, and the thesis protocol, under
    which an image may be "robust" that is misclassified as it is.
    """
    if "eps" not in settings or settings["method"] == "thesis_pgd":
        return None
    return settings.get("norm", ATTACKS[settings["method"]].norm), fraction(settings["eps"])


def worst_case_attacks(config):
    """The attacks of which `worst_case` is the conjunction; none when fewer than two can be merged.

    Robust means that no attack found a misclassified image in the ball, so verdicts can be merged where the
    ball is the same, norm and radius: the headline's, or where that is `worst_case` itself (or has no ball)
    that of the first attack in `run` that has one. An image found in a larger ball says nothing about this
    one, and images of another norm's ball may lie outside; distances alone are no verdict.
    """
    run = {name: config["evaluation"]["attacks"][name] for name in config["evaluation"]["run"]}
    balls = {name: found for name, settings in run.items() if (found := ball(settings))}
    chosen = balls.get(config["evaluation"]["headline"], next(iter(balls.values()), None))
    merged = [name for name, found in balls.items() if found == chosen]
    return merged if len(merged) > 1 else []


def iterated_attack(config):
    """The attack whose iterations are drawn: the headline, or else the first run that is pgd; or None.

    Only pgd notes how many images stand after each iteration.
    """
    names = [config["evaluation"]["headline"], *config["evaluation"]["run"]]
    attacks = config["evaluation"]["attacks"]
    return next((name for name in names if attacks.get(name, {}).get("method") == "pgd"), None)


def table_settings(config, experiment):
    """What the tables and plots of one experiment show."""
    chosen = config["experiments"][experiment]
    run = config["evaluation"]["run"]
    beside = {}
    if chosen.get("beside") in config["run"]:
        beside = {"experiment": chosen["beside"], "title": config["experiments"][chosen["beside"]]["title"]}
    return _plain(
        {
            "weights": _weights(config, experiment),
            "beside": beside,
            "title": chosen["title"],
            "activations": chosen["activations"],
            "reference": chosen["reference"],
            "headline": config["evaluation"]["headline"],
            "worst_case": worst_case_attacks(config),
            "attacks": {name: config["evaluation"]["attacks"][name] for name in run},
        }
    )


def study_settings(config):
    """What the page of the study shows: its experiments are those that are run."""
    run = [name for name in config["study"]["run"] if name in config["run"]]
    experiments = {name: table_settings(config, name) for name in run}
    return _plain({**config["study"], "run": run, "experiments": experiments})


def test_images(experiment, wanted):
    """How many test images of an experiment a section uses that asks for `wanted`; None: all.

    No more than the experiment's other attacks are shown, and no more than its data set has: a section's
    number is one for all of its experiments.
    """
    asked = [number for number in (wanted, experiment["test_examples"]) if number is not None]
    return min(*asked, DATASETS[experiment["dataset"]].examples[1]) if asked else None


def card_settings(config, experiment, activation, seed):
    """All that decides the evaluation card of one cell's network, but for the networks beside it."""
    chosen = config["experiments"][experiment]
    return _plain(
        {
            "experiment": experiment,
            "activation": activation,
            "seed": int(seed),
            "dataset": chosen["dataset"],
            "examples": test_images(chosen, config["card"]["examples"]),
            "card": {key: value for key, value in config["card"].items() if key not in _NOT_OF_A_CARD},
        }
    )
