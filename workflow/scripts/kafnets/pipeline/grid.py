"""The grid of the experiment: its cells, where their files are, and what each step of a cell depends on.

A cell is one network: an experiment, an activation and a seed. The functions that rules call with a job's
wildcards take anything with the attributes `experiment`, `activation`, `seed`, `attack` and `dataset`.
"""

import functools
import json
import os

from .. import registry, sources
from ..config import certification, slices
from . import code

# What each rule of the report reads of the cells beside records: see `Grid.manifest`.
TABLES = ("", "_attacks", "_differences")
FORMATS = ("tex", "csv", "md", "json")
# Data sets of which also an unpacked folder is a few files, each compared with its checksum when it is read.
_FEW_FILES = ("cifar10", "cifar100", "svhn")


class Grid:
    """The cells of a configuration and their files, all below its folder `output`.

    Args:
        config (dict): checked by :func:`kafnets.config.checks.validate`.
    """

    def __init__(self, config):
        self.config, self.out = config, config["output"]
        self.run, self.attacks = config["run"], config["evaluation"]["run"]
        self.cells = slices.cells(config)
        self.trained = [name for name in config["experiments"] if not slices.is_given(config, name)]
        self.own = [name for name in config["experiments"] if slices.is_own(config, name)]
        self.published = [name for name in config["experiments"] if name not in (*self.trained, *self.own)]
        # each with its checksum beside it, which who reads it compares: every table is made of these two
        self.manifest_file, self.summary = f"{self.out}/manifest.jsonl", f"{self.out}/summary.csv"
        # the pictures of an activation show the network of its first seed
        self.first_seeds = {cell[:2]: cell[2] for cell in reversed(self.cells)}
        self.card_cells = [cell for cell in self.cells if cell[0] in config["card"]["run"]]
        self.card_experiments = list(dict.fromkeys(cell[0] for cell in self.card_cells))

    def experiment(self, wildcards):
        return self.config["experiments"][wildcards.experiment]

    # -- files of a cell

    def folder(self, kind, experiment, activation, seed):
        return f"{self.out}/{kind}/{experiment}/{activation}/seed{seed}"

    def training_files(self, cell):
        folder = self.folder("models", *cell)
        history = {"history": f"{folder}/history.csv"}
        return {
            "model": f"{folder}/model.safetensors",
            **(history if cell[0] in self.trained else {}),
            "record": f"{folder}/record.json",
        }

    def evaluation_files(self, cell, attack):
        folder = self.folder("evaluations", *cell)
        return {"record": f"{folder}/{attack}.json", "verdicts": f"{folder}/{attack}.safetensors"}

    def card_files(self, cell):
        path = self.folder("cards", *cell)
        return {"record": f"{path}.json", "tensors": f"{path}.safetensors"}

    def certification_files(self, cell, certificate):
        folder = self.folder("certificates", *cell)
        return {"record": f"{folder}/{certificate}.json", "csv": f"{folder}/{certificate}.csv"}

    def prepared_record(self, wildcards):
        return f"{self.out}/data/{self.experiment(wildcards)['dataset']}.json"

    def source_files(self, wildcards, kind):
        """The weights or records of the networks that an attack crafts examples on: none for most attacks."""
        names = slices.source_activations(
            self.config, wildcards.experiment, wildcards.activation, wildcards.attack
        )
        return [self._of_activation(wildcards, name)[kind] for name in names]

    def card_sources(self, wildcards, kind):
        """The weights or records of other activations whose adversarial examples a card tries."""
        return [self._of_activation(wildcards, name)[kind] for name in self._card_sources(wildcards)]

    def _card_sources(self, wildcards):
        activations = self.experiment(wildcards)["activations"]
        others = [name for name in activations if name != wildcards.activation]
        return others[: self.config["card"]["sources"]]

    def _of_activation(self, wildcards, name):
        return self.training_files((wildcards.experiment, name, wildcards.seed))

    # -- files of all cells

    @property
    def models(self):
        return [self.training_files(cell)["record"] for cell in self.cells]

    @property
    def evaluations(self):
        return [
            self.evaluation_files(cell, attack)["record"] for cell in self.cells for attack in self.attacks
        ]

    @property
    def tables(self):
        return [f"{self.out}/tables/{n}{t}.{f}" for n in self.run for t in self.tables_of(n) for f in FORMATS]

    def tables_of(self, experiment):
        """The ends of the names of its tables: of one activation there are no differences."""
        return TABLES if len(self.config["experiments"][experiment]["activations"]) > 1 else TABLES[:2]

    @property
    def plots(self):
        iterated = ["iterations"] if slices.iterated_attack(self.config) else []
        found = []
        for name in self.run:
            of_training = ["history", "schedule"] if name in self.trained else []
            kinds = ["tradeoff", "classes", *iterated, *of_training]
            found += [f"{self.out}/plots/{name}/{kind}.pdf" for kind in kinds]
        # the learned shapes of the first seed
        for name, activation, seed in self.cells:
            entry = registry.ACTIVATIONS.get(activation)
            if entry and entry.learns and entry.elementwise and seed == self.config["seeds"][0]:
                found.append(f"{self.out}/plots/{name}/kafs_{activation}_seed{seed}.pdf")
        return found

    @property
    def study(self):
        """The page of the study, and its comparisons: none where no experiment of it is run."""
        return [f"{self.out}/study.{kind}" for kind in ("md", "csv")] if self.study_settings()["run"] else []

    def study_verdicts(self):
        return [path for name in self.study_settings()["run"] for path in self._verdicts(name)]

    def rates_records(self):
        """The records by which `rates` chooses: of a seed that no network of the grid has."""
        seed = max(self.config["seeds"]) + 1
        return [
            self.training_files((name, activation, seed))["record"]
            for name in self.config["study"]["rates"]
            for activation in self.config["experiments"][name]["activations"]
        ]

    @property
    def lr_range_plots(self):
        return [f"{self.out}/plots/{name}/lr_range.pdf" for name in self.run if name in self.trained]

    @property
    def card_tables(self):
        return [
            f"{self.out}/cards/{name}.{kind}"
            for name in self.card_experiments
            for kind in ("csv", "md", "json")
        ]

    @property
    def card_plots(self):
        kinds = ("radii", "depth", "saliency", "landscapes")
        found = [f"{self.out}/plots/{name}/{kind}.pdf" for name in self.card_experiments for kind in kinds]
        for cell in filter(self.is_first_seed, self.card_cells):
            path = f"{self.out}/plots/{cell[0]}/{{}}_{cell[1]}_seed{cell[2]}.pdf"
            found += [path.format(kind) for kind in ("gallery", "layers")]
        return found

    @property
    def certifications(self):
        return [record for name in self.run for record in self._certifications(name)]

    def _certifications(self, experiment):
        return [
            self.certification_files(cell, certificate)["record"]
            for cell in self.cells
            if cell[0] == experiment
            for certificate in certification.certificates_of(self.config, experiment)
        ]

    @property
    def certificate_tables(self):
        names = [name for name in self.run if self._certifications(name)]
        return [f"{self.out}/certificates/{name}.{kind}" for name in names for kind in FORMATS]

    @property
    def certificate_plots(self):
        kinds, names = ("certified_radii", "certified_accuracy"), self.run
        return [
            f"{self.out}/plots/{name}/{kind}.pdf"
            for name in names
            if self._certifications(name)
            for kind in kinds
        ]

    def is_first_seed(self, cell):
        """Whether a network is the one of its activation that the pictures show."""
        return cell[2] == self.first_seeds[cell[:2]]

    # -- files of an experiment, for its tables and plots

    def cells_of(self, wildcards):
        return [cell for cell in self.cells if cell[0] == wildcards.experiment]

    def histories(self, wildcards):
        return [path for cell in self.cells_of(wildcards) for path in self.training_files(cell).values()]

    def iterated_records(self, wildcards):
        attack = slices.iterated_attack(self.config)
        cells = self.cells_of(wildcards)
        return [path for cell in cells for path in self.evaluation_files(cell, attack).values()]

    def compared_verdicts(self, wildcards):
        """The verdicts by which activations are compared: the headline's, or those that it is made of."""
        return self._verdicts(wildcards.experiment)

    def _verdicts(self, experiment):
        headline = self.config["evaluation"]["headline"]
        merged = [headline] if headline in self.attacks else slices.worst_case_attacks(self.config)
        cells = [cell for cell in self.cells if cell[0] == experiment]
        return [self.evaluation_files(cell, attack)["verdicts"] for cell in cells for attack in merged]

    def lr_range_files(self, kind):
        return lambda wildcards: [
            f"{self.out}/lr_range/{wildcards.experiment}/{activation}.{kind}"
            for activation in self.experiment(wildcards)["activations"]
        ]

    def certificates(self, wildcards):
        """The records of the certificates of an experiment, every seed."""
        return self._certifications(wildcards.experiment)

    def certified_images(self, wildcards):
        """What they say image by image, in the same order."""
        return [path.replace(".json", ".csv") for path in self.certificates(wildcards)]

    def cards(self, wildcards):
        """The cards of an experiment, every seed."""
        return [
            self.card_files(cell)["record"] for cell in self.card_cells if cell[0] == wildcards.experiment
        ]

    def first_cards(self, wildcards, kind="record"):
        """The cards of an experiment, one an activation."""
        return self._first_cards((wildcards.experiment,), kind)

    def saliency_cards(self, wildcards, kind="record"):
        """The first cards of an experiment, and of those on its images that trained without an adversary."""

        def images(experiment):
            settings = slices.card_settings(self.config, experiment, "any", 0)
            return settings["dataset"], settings["examples"]

        beside = [
            name
            for name in self.card_experiments
            if name in self.trained
            and name != wildcards.experiment
            and self.config["experiments"][name]["training"]["adversary"]["name"] == "none"
            and images(name) == images(wildcards.experiment)
        ]
        return self._first_cards((wildcards.experiment, *beside), kind)

    def _first_cards(self, experiments, kind):
        cells = [cell for cell in self.card_cells if cell[0] in experiments and self.is_first_seed(cell)]
        return [self.card_files(cell)[kind] for cell in cells]

    # -- the manifest

    def manifest(self):
        """One line a cell: where its files are, and the settings that its records must carry."""
        return "".join(json.dumps(self._manifest_line(cell)) + "\n" for cell in self.cells)

    def _manifest_line(self, cell):
        experiment, activation, seed = cell
        files = self.training_files(cell)
        return {
            "experiment": experiment,
            "activation": activation,
            "seed": seed,
            "architecture": slices.architecture_of(self.config, experiment, activation),
            "dataset": self.config["experiments"][experiment]["dataset"],
            "training_record": files["record"],
            "history": files.get("history"),
            "training_settings": slices.training_settings(self.config, *cell),
            "evaluations": {
                attack: {
                    **self.evaluation_files(cell, attack),
                    "settings": slices.evaluation_settings(self.config, *cell, attack),
                }
                for attack in self.attacks
            },
            "worst_case": slices.worst_case_attacks(self.config),
        }

    # -- settings of steps that read one experiment

    def schedule_settings(self, wildcards):
        seed = self.config["seeds"][0]
        return {
            "activations": {
                name: slices.training_settings(self.config, wildcards.experiment, name, seed)["training"]
                for name in self.experiment(wildcards)["activations"]
            }
        }

    def study_settings(self):
        return slices.study_settings(self.config)

    def certified_settings(self, wildcards):
        return certification.certified_settings(self.config, wildcards.experiment)

    def table_settings(self, wildcards):
        return slices.table_settings(self.config, wildcards.experiment)

    @functools.cache  # noqa: B019 (one grid lives as long as the process)
    def training_settings(self, experiment, activation, seed):
        return slices.training_settings(self.config, experiment, activation, seed)

    # -- the code of steps, as checksums: see `code`

    def training_code(self, script):
        """A function of wildcards: what a training of that cell runs."""

        def of_cell(wildcards):
            entries = self._network(wildcards, wildcards.activation)
            if wildcards.experiment in self.trained:
                training = self.experiment(wildcards)["training"]
                entries.append(registry.ADVERSARIES[training["adversary"]["name"]])
                entries += [entry for name, entry in registry.AROUND.items() if name in training]
                entries += [registry.PENALTIES[name] for name in training.get("penalties", {})]
            return code.of_step(script, entries)

        return of_cell

    def network_code(self, script):
        """A function of wildcards: what a step runs that makes the network of that cell."""
        return lambda wildcards: code.of_step(script, self._network(wildcards, wildcards.activation))

    def evaluation_code(self, wildcards):
        method = self.config["evaluation"]["attacks"][wildcards.attack]["method"]
        sources = slices.source_activations(
            self.config, wildcards.experiment, wildcards.activation, wildcards.attack
        )
        networks = self._network(wildcards, wildcards.activation, *sources)
        return code.of_step("evaluate.py", [*networks, registry.ATTACKS[method]])

    def certification_code(self, wildcards):
        chosen = certification.section(self.config)["certificates"][wildcards.certificate]
        networks = self._network(wildcards, wildcards.activation)
        return code.of_step("certify.py", [*networks, registry.CERTIFICATES[chosen["method"]]])

    def card_code(self, wildcards):
        sources = self._card_sources(wildcards)
        return code.of_step("card.py", self._network(wildcards, wildcards.activation, *sources))

    def data_code(self, wildcards):
        """What preparing a data set runs; of a folder of images, also the state of the files in it."""
        found = code.of_step("prepare_data.py", [registry.DATASETS[wildcards.dataset]])
        source = self.data_source(wildcards.dataset)
        many = source is not None and wildcards.dataset not in _FEW_FILES and os.path.isdir(source)
        return f"{found} {sources.state(source)}" if many else found

    def data_source(self, dataset):
        """The folder or file that the configuration names for a data set, or None."""
        chosen = self.config["data"].get(dataset, {}).get("source")
        return registry.DATASETS[dataset].source or chosen

    def raw_data(self, wildcards):
        """The raw files of a data set: its source, or what is downloaded; none of one in a package."""
        files = [f"{self.out}/data/raw/{name}" for name in registry.DATASETS[wildcards.dataset].files]
        return self.data_source(wildcards.dataset) or (files[0] if len(files) == 1 else files)

    def _network(self, wildcards, *activations):
        if wildcards.experiment in self.own:
            return [registry.ARCHITECTURES[name] for name in activations]
        architecture = registry.ARCHITECTURES[self.experiment(wildcards)["architecture"]]
        return [architecture, *(registry.ACTIVATIONS[name] for name in activations)]
