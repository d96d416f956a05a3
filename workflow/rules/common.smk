# The configuration, checked; the grid; and where its files are. Everything else reads these names.
import functools
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
SCRIPTS = ROOT / "workflow" / "scripts"
sys.path.insert(0, str(SCRIPTS))

import slurm_plugin
from kafnets import registry
from kafnets.config import (
    card_settings,
    cells,
    evaluation_settings,
    is_published,
    iterated_attack,
    lr_range_settings,
    source_activations,
    table_settings,
    training_settings,
    worst_case_attacks,
)
from kafnets.driver import check_gpu
from kafnets.errors import UserError
from kafnets.files import SEAL, write_sealed
from kafnets.reasons import as_params, checksum
from kafnets.validation import check_keys, typed, validate
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config
from snakemake_interface_executor_plugins.settings import ExecMode

PUBLISHED = "workflow/resources/thesis_results.yaml"

slurm_plugin.mend()  # the SLURM executor: made after this is read

try:
    for path in workflow.configfiles:
        check_keys(path)
    update_config(config, typed(dict(workflow.config_settings.config)))
    validate(
        config,
        ROOT / "workflow" / "schemas" / "config.schema.yaml",
        ROOT / PUBLISHED,
    )
except UserError as error:
    raise WorkflowError(f"error in the configuration: {error}") from None

OUT = config["output"]
CELLS = cells(config)
ATTACKS = config["evaluation"]["run"]
SCRIPT = "workflow/scripts"

# Where a job computes. It is no setting: it never makes a finished result stale.
GPU = config["device"] == "cuda" or (
    config["device"] == "auto" and shutil.which("nvidia-smi") is not None
)
DEVICE = config["device"]


onstart:
    # Only of jobs that run on this machine and would compute: a cluster's login node has no GPU, and tables need none.
    here = (
        workflow.exec_mode == ExecMode.DEFAULT
        and workflow.local_exec
        and not workflow.touch
    )
    if (
        DEVICE == "cuda"
        and here
        and any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs())
    ):
        try:
            check_gpu()
        except UserError as error:
            raise WorkflowError(f"error in the configuration: {error}") from None


# Some experiments train their networks, some judge published ones.
PUBLISHED_EXPERIMENTS = [
    name for name in config["experiments"] if is_published(config, name)
]
TRAINED_EXPERIMENTS = [
    name for name in config["experiments"] if name not in PUBLISHED_EXPERIMENTS
]


def one_of(names):
    """A wildcard's pattern: one of `names`, or nothing at all where there is none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    experiment="[a-z][a-z0-9_]*",
    activation="[a-z][a-z0-9_]*",
    attack="[a-z][a-z0-9_]*",
    dataset="[a-z][a-z0-9_]*",
    seed="[0-9]+",


def library(*parts):
    """The library files that a step runs, as inputs: an edit makes its results stale, a touch does not."""
    folder = SCRIPTS / "kafnets"
    found = [
        path
        for part in parts
        for path in (
            [folder / part] if part.endswith(".py") else (folder / part).rglob("*")
        )
    ]
    return sorted(
        str(path.relative_to(ROOT)) for path in found if path.suffix in (".py", ".cpp")
    )


def code(files):
    """The library files of a step of the grid as one checksum, a parameter: an edit makes results stale, a touch
    does not. As inputs they would do the same, but be most of the graph: thirty for each of the grid's jobs.
    """
    digest = hashlib.sha256()
    for name in files:
        digest.update(name.encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()


# registry.py and config.py only look names up; what they say about a cell is in the rules' params.
BASE_LIBRARY = library(
    "data/__init__.py",
    "data/dataset.py",
    "files.py",
    "device.py",
    "records.py",
    "errors.py",
    "cli.py",
    "progress.py",
    "checkpoint.py",
    "interruption.py",
)
MODEL_LIBRARY = library("activations", "models")
ATTACK_BASE = library(
    "attacks/__init__.py", "attacks/clean.py", "attacks/common.py", "attacks/pgd.py"
)


def cell_folder(kind, experiment, activation, seed):
    return f"{OUT}/{kind}/{experiment}/{activation}/seed{seed}"


def training_files(cell):
    folder = cell_folder("models", *cell)
    history = {"history": f"{folder}/history.csv"}
    return {
        "model": f"{folder}/model.safetensors",
        **({} if cell[0] in PUBLISHED_EXPERIMENTS else history),
        "record": f"{folder}/record.json",
    }


def evaluation_files(cell, attack):
    folder = cell_folder("evaluations", *cell)
    return {
        "record": f"{folder}/{attack}.json",
        "verdicts": f"{folder}/{attack}.safetensors",
    }


def prepared_data(wildcards):
    # Large, so compared by date only; its record carries its checksum and is compared by content.
    return ancient(prepared_record(wildcards).replace(".json", ".safetensors"))


def prepared_record(wildcards):
    return f"{OUT}/data/{config['experiments'][wildcards.experiment]['dataset']}.json"


@functools.cache
def settings_of_training(experiment, activation, seed):
    return training_settings(config, experiment, activation, seed)


def registered(wildcards):
    """What the registry says of a cell: a change there makes this cell stale, and no other."""
    experiment = config["experiments"][wildcards.experiment]
    return json.dumps(
        [
            str(registry.ACTIVATIONS[wildcards.activation]),
            str(registry.ARCHITECTURES[experiment["architecture"]]),
        ]
    )


EVALUATION_RECORDS = [
    evaluation_files(cell, attack)["record"] for cell in CELLS for attack in ATTACKS
]


# -- data.smk
ARCHIVE = f"{OUT}/data/raw/cifar-10-python.tar.gz"


def raw_data(wildcards):
    """The raw files of a data set; none when a package bundles them."""
    if wildcards.dataset != "cifar10":
        return []
    return config["data"]["cifar10"]["source"] or ARCHIVE


# -- published.smk
def published_archive(wildcards):
    """Where an archive of the thesis's author is, as options of download_published.py."""
    published = config["data"]["published"]
    name = registry.PUBLISHED[wildcards.activation]
    archive = published["archives"][wildcards.activation]
    return [
        *("--url", f"{published['url']}/{name}.zip"),
        *("--bytes", str(archive["bytes"])),
        *("--sha256", archive["sha256"]),
    ]


def published_weights(wildcards):
    """The converted weights of one row: in the folder that the configuration names, or made here."""
    source = config["data"]["published"]["source"]
    if source is None:
        return f"{OUT}/data/published/{wildcards.activation}.safetensors"
    return f"{source}/{registry.PUBLISHED[wildcards.activation]}.safetensors"


# -- evaluate.smk
@functools.cache
def attack_code(attack):
    """The library files that an attack runs, its own module beside what all share, as one checksum."""
    entry = registry.ATTACKS[config["evaluation"]["attacks"][attack]["method"]]
    source = (
        entry.target.partition(":")[0].removeprefix("kafnets.").replace(".", "/")
        + ".py"
    )
    return code(
        [
            *BASE_LIBRARY,
            *MODEL_LIBRARY,
            *ATTACK_BASE,
            *library("evaluation.py", "folding.py", source, *entry.code),
        ]
    )


def source_files(wildcards, kind):
    """The weights or records of the networks that the attack of a cell crafts examples on: none for most attacks."""
    return [
        training_files((wildcards.experiment, name, wildcards.seed))[kind]
        for name in source_activations(
            config, wildcards.experiment, wildcards.activation, wildcards.attack
        )
    ]


# -- report.smk
# Each with its checksum beside it, which who reads it compares: every table is made of these two.
MANIFEST = f"{OUT}/manifest.jsonl"
SUMMARY = f"{OUT}/summary.csv"
TABLES = [
    f"{OUT}/tables/{name}{table}.{kind}"
    for name in config["run"]
    for table in ("", "_attacks", "_differences")
    for kind in ("tex", "csv", "md")
]
REPORT_LIBRARY = library(
    "summary.py",
    "statistics.py",
    "tables.py",
    "marks.py",
    "sheets.py",
    "latex.py",
    "differences.py",
    "diagnostics/table.py",
    "diagnostics/checks.py",
    "files.py",
    "errors.py",
    "cli.py",
)
PLOT_BASE = library(
    "summary.py",
    "statistics.py",
    "plots/__init__.py",
    "plots/names.py",
    "plots/style.py",
    "files.py",
    "errors.py",
    "cli.py",
)
# the shapes of the first seed's KAFs: one picture for each row of a table
KAF_CELLS = [
    cell
    for cell in CELLS
    if registry.is_trainable(cell[1]) and cell[2] == config["seeds"][0]
]
PLOTS = [
    f"{OUT}/plots/{name}/{kind}.pdf"
    for name in config["run"]
    for kind in (
        "tradeoff",
        "classes",
        *(["iterations"] if iterated_attack(config) else []),
        *([] if name in PUBLISHED_EXPERIMENTS else ["history", "schedule"]),
    )
] + [
    f"{OUT}/plots/{name}/kafs_{activation}_seed{seed}.pdf"
    for name, activation, seed in KAF_CELLS
]
LR_RANGE_PLOTS = [
    f"{OUT}/plots/{name}/lr_range.pdf"
    for name in config["run"]
    if name in TRAINED_EXPERIMENTS
]


def manifest_line(cell, attacks=ATTACKS):
    """One cell: where its files are, and the settings that its records must carry."""
    experiment, activation, seed = cell
    files = training_files(cell)
    return {
        "experiment": experiment,
        "activation": activation,
        "seed": seed,
        "architecture": config["experiments"][experiment]["architecture"],
        "dataset": config["experiments"][experiment]["dataset"],
        "training_record": files["record"],
        "history": files.get("history"),
        "training_settings": training_settings(config, *cell),
        "evaluations": {
            attack: {
                **evaluation_files(cell, attack),
                "settings": evaluation_settings(config, *cell, attack),
            }
            for attack in attacks
        },
        "worst_case": worst_case_attacks(config),
    }


def manifest():
    return "".join(json.dumps(manifest_line(cell)) + "\n" for cell in CELLS)


def settings_of_tables(wildcards):
    return table_settings(config, wildcards.experiment)


def settings_of_schedules(wildcards):
    chosen = config["experiments"][wildcards.experiment]
    return {
        "activations": {
            activation: training_settings(
                config, wildcards.experiment, activation, config["seeds"][0]
            )["training"]
            for activation in chosen["activations"]
        },
    }


def cells_of(wildcards):
    return [cell for cell in CELLS if cell[0] == wildcards.experiment]


def histories(wildcards):
    return [
        path for cell in cells_of(wildcards) for path in training_files(cell).values()
    ]


def iterated_records(wildcards):
    return [
        path
        for cell in cells_of(wildcards)
        for path in evaluation_files(cell, iterated_attack(config)).values()
    ]


def compared_verdicts(wildcards):
    """The verdicts by which the activations of an experiment are compared: the headline's, or those it is of."""
    headline = config["evaluation"]["headline"]
    merged = [headline] if headline in ATTACKS else worst_case_attacks(config)
    return [
        evaluation_files(cell, attack)["verdicts"]
        for cell in cells_of(wildcards)
        for attack in merged
    ]


def lr_range_files(kind):
    return lambda wildcards: [
        f"{OUT}/lr_range/{wildcards.experiment}/{activation}.{kind}"
        for activation in config["experiments"][wildcards.experiment]["activations"]
    ]


# -- card.smk
FIRST_SEEDS = {cell[:2]: cell[2] for cell in reversed(CELLS)}


def is_first_seed(cell):
    """Whether a network is the one of its activation that the pictures show."""
    return cell[2] == FIRST_SEEDS[cell[:2]]


CARD_CELLS = [cell for cell in CELLS if cell[0] in config["card"]["run"]]
CARD_EXPERIMENTS = list(dict.fromkeys(cell[0] for cell in CARD_CELLS))
CARD_TABLES = [
    f"{OUT}/cards/{name}.{kind}" for name in CARD_EXPERIMENTS for kind in ("csv", "md")
]
CARD_PLOTS = [
    f"{OUT}/plots/{name}/{kind}.pdf"
    for name in CARD_EXPERIMENTS
    for kind in ("radii", "depth", "saliency", "landscapes")
] + [
    f"{OUT}/plots/{cell[0]}/{kind}_{cell[1]}_seed{cell[2]}.pdf"
    for cell in CARD_CELLS
    if is_first_seed(cell)
    for kind in ("gallery", "layers")
]
CARD_CODE = code(
    BASE_LIBRARY
    + MODEL_LIBRARY
    + ATTACK_BASE
    + library(
        "diagnostics/card.py",
        "diagnostics/checks.py",
        "diagnostics/gradients.py",
        "diagnostics/layers.py",
        "evaluation.py",
        "folding.py",
        "attacks/blind.py",
        "attacks/standard.py",
    )
)
CARD_READING = ("diagnostics/__init__.py", "diagnostics/reading.py")


def card_files(cell):
    path = f"{cell_folder('cards', *cell)}"
    return {"record": f"{path}.json", "tensors": f"{path}.safetensors"}


def card_sources(wildcards, kind):
    """The weights or records of other activations, same experiment and seed, whose adversarial examples a card tries."""
    activations = config["experiments"][wildcards.experiment]["activations"]
    others = [name for name in activations if name != wildcards.activation]
    return [
        training_files((wildcards.experiment, name, wildcards.seed))[kind]
        for name in others[: config["card"]["sources"]]
    ]


def cards(wildcards):
    """The cards of an experiment, every seed."""
    return [
        card_files(cell)["record"]
        for cell in CARD_CELLS
        if cell[0] == wildcards.experiment
    ]


def first_cards(wildcards, kind="record"):
    """The cards of an experiment, one an activation."""
    return [
        card_files(cell)[kind]
        for cell in CARD_CELLS
        if cell[0] == wildcards.experiment and is_first_seed(cell)
    ]


def saliency_cards(wildcards, kind="record"):
    """The first cards of an experiment, and of those on the same images that trained without an adversary."""

    def images(experiment):
        settings = card_settings(config, experiment, "any", 0)
        return settings["dataset"], settings["examples"]

    beside = [
        name
        for name in CARD_EXPERIMENTS
        if name in TRAINED_EXPERIMENTS
        and name != wildcards.experiment
        and config["experiments"][name]["training"]["adversary"]["name"] == "none"
        and images(name) == images(wildcards.experiment)
    ]
    return [
        card_files(cell)[kind]
        for cell in CARD_CELLS
        if cell[0] in (wildcards.experiment, *beside) and is_first_seed(cell)
    ]
