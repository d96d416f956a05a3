"""What stands on the results page, and the files that it is made of."""

import re

# Of a network: the first is part of the page, the others it leads to.
SHAPES, *PICTURES = "kafs", "gallery", "layers"
_OF_NETWORK = re.compile(rf"({SHAPES}|{'|'.join(PICTURES)})_(.+_seed[0-9]+)")


class Page:
    """The results page of a grid.

    Args:
        grid (Grid): the networks.
        detections (Detections): the detectors beside them.
    """

    def __init__(self, grid, detections):
        self.grid, self.detections, self.out = grid, detections, grid.out
        self.file = f"{self.out}/results.html"
        self._plots = {name: [] for name in grid.run}
        for path in (
            *grid.plots,
            *grid.card_plots,
            *grid.certificate_plots,
            *detections.plots,
        ):
            *_, experiment, name = path.removesuffix(".pdf").split("/")
            self._plots[experiment].append(name)

    # -- files

    @property
    def tables(self):
        return [f"{self.out}/{path}" for name in self.grid.run for path in self._tables(name)]

    @property
    def figures(self):
        """Those that are part of the page."""
        return [f"{name}.svg" for name in self._drawn() if _kind(name.rpartition("/")[2]) not in PICTURES]

    @property
    def pictures(self):
        """Those that it leads to."""
        return [f"{name}.png" for name in self._drawn() if _kind(name.rpartition("/")[2]) in PICTURES]

    def _drawn(self):
        """All plots, without the ending of a file."""
        return [f"{self.out}/plots/{name}/{plot}" for name, plots in self._plots.items() for plot in plots]

    @property
    def networks(self):
        """Records and histories of the weights."""
        files = map(self.grid.training_files, self.grid.cells)
        return [path for of in files for name, path in of.items() if name != "model"]

    @property
    def cards(self):
        return [self.grid.card_files(cell)["record"] for cell in self.grid.card_cells]

    @property
    def study(self):
        return [path for path in self.grid.study if path.endswith(".md")]

    @property
    def kinds(self):
        """The kinds of figures of experiments."""
        found = (name for names in self._plots.values() for name in names)
        return list(dict.fromkeys(name for name in found if _kind(name) == name))

    # -- settings

    def settings(self, plots):
        """What the page shows, for `kafnets.report.page`.

        Args:
            plots: the workflow's kinds of figures, each with its `label` and its `params`.
        """
        config = self.grid.config
        return {
            "experiments": {name: self._experiment(name) for name in self.grid.run},
            "kinds": {
                kind: {
                    "label": plots[kind]["label"],
                    "params": {
                        name: value
                        for name, value in plots[kind].get("params", {}).items()
                        if isinstance(value, str)
                    },
                }
                for kind in self.kinds
            },
            "card": config["card"],
        }

    def _experiment(self, name):
        drawn = {}
        for plot in self._plots[name]:
            if match := _OF_NETWORK.fullmatch(plot):
                drawn.setdefault(match[2], []).append(match[1])
        return {
            "title": self.grid.config["experiments"][name]["title"],
            "headline": self.grid.config["evaluation"]["headline"],
            "tables": self._tables(name),
            "figures": [plot for plot in self._plots[name] if _kind(plot) == plot],
            "drawn": drawn,
            "cards": name in self.grid.card_experiments,
        }

    def _tables(self, name):
        """The tables of an experiment, their paths in the folder of results."""
        found = [f"tables/{name}{table}.json" for table in self.grid.tables_of(name)]
        all_tables = {
            *self.grid.card_tables,
            *self.grid.certificate_tables,
            *self.detections.tables,
        }
        others = ("certificates/{}", "detections/{}", "detections/{}_attacks", "cards/{}")
        paths = (f"{other.format(name)}.json" for other in others)
        return [*found, *(path for path in paths if f"{self.out}/{path}" in all_tables)]


def _kind(name):
    """The kind of a figure, of the file's name without its ending: "kafs" of "kafs_relu_seed0"."""
    match = _OF_NETWORK.fullmatch(name)
    return match[1] if match else name
