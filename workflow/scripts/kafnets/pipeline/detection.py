"""The files of detectors and of what they came to, and the code that each depends on."""

from .. import registry
from ..config import detection
from . import code

FORMATS = ("csv", "md", "tex", "json")
TABLES = ("", "_attacks")


class Detections:
    """The detectors beside the networks of a grid: none where the configuration asks for none.

    The functions that rules call with a job's wildcards take anything with the attributes `experiment`,
    `activation`, `seed`, `detector` and `attack`.

    Args:
        grid (Grid): the networks.
    """

    def __init__(self, grid):
        self.grid, self.config, self.out = grid, grid.config, grid.out
        self.section = detection.section(grid.config)
        self.cells = [cell for cell in grid.cells if cell[0] in self.section["run"]]
        self.experiments = list(dict.fromkeys(cell[0] for cell in self.cells))

    # -- files

    def detector_files(self, cell, detector):
        path = f"{self.grid.folder('detectors', *cell)}/{detector}"
        return {"record": f"{path}.json", "detector": f"{path}.safetensors"}

    def judged_files(self, cell, detector, attack):
        path = f"{self.grid.folder('detections', *cell)}/{detector}/{attack}"
        return {"record": f"{path}.json", "csv": f"{path}.csv"}

    def judged(self, wildcards, kind="record"):
        """The records, or files of scores, of an experiment."""
        return [
            self.judged_files(cell, detector, attack)[kind]
            for cell in self.cells
            if cell[0] == wildcards.experiment
            for detector in self.section["run_detectors"]
            for attack in self.section["run_attacks"]
        ]

    @property
    def tables(self):
        """The tables of all experiments."""
        return [
            f"{self.out}/detections/{name}{table}.{kind}"
            for name in self.experiments
            for table in TABLES
            for kind in FORMATS
        ]

    @property
    def plots(self):
        return [f"{self.out}/plots/{name}/detection.pdf" for name in self.experiments]

    # -- settings

    def detector_settings(self, wildcards):
        return detection.detector_settings(self.config, *_cell(wildcards), wildcards.detector)

    def judged_settings(self, wildcards):
        cell = _cell(wildcards)
        return detection.detection_settings(self.config, *cell, wildcards.detector, wildcards.attack)

    def table_settings(self, wildcards):
        return detection.table_settings(self.config, wildcards.experiment)

    # -- the code of steps, as checksums: see `code`

    def detector_code(self, wildcards):
        return code.of_step("train_detector.py", self._of_detector(wildcards))

    def judged_code(self, wildcards):
        method = self.section["attacks"][wildcards.attack]["method"]
        entries = [*self._of_detector(wildcards), registry.DETECTION_ATTACKS[method]]
        return code.of_step("detect.py", entries)

    def _of_detector(self, wildcards):
        architecture = self.config["experiments"][wildcards.experiment]["architecture"]
        method = self.section["detectors"][wildcards.detector]["method"]
        return [
            registry.ARCHITECTURES[architecture],
            registry.ACTIVATIONS[wildcards.activation],
            registry.DETECTORS[method],
        ]


def _cell(wildcards):
    return wildcards.experiment, wildcards.activation, wildcards.seed
