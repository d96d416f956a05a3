"""Results of two experiments with all that the results page shows, and the page, for the tests of it."""

import json

from card_builder import write_card
from kafnets.report import card_table, cards, json_tables, manifest, summary, tables
from kafnets.report.page import document, reading
from kafnets.report.plots import style
from record_builders import ATTACKS, Results

from tests.repository import ROOT

CAPTIONS = ROOT / "workflow" / "report"
STUDY = """# The study

For *whoever* asks **this**: `docs/cards.md`.

## Results

- **One**: a first
  line.
- Two
| Activation | Accuracy |
| ---------- | -------: |
| ReLU †     | **75.00** ± 1.50 |
| KAF        |    80.00 |

![Accuracy against robustness](plots/vgg/tradeoff.png)
"""
TITLES = {"vgg": "VGG", "resnet": 'ResNet & <b>"co"</b>'}
ACTIVATIONS = ["relu", "elu", "kaf"]
CARD = {"eps": "8/255", "radius_iterations": 20, "most_iterations": 150}
KINDS = {
    "tradeoff": {"label": "accuracy against robustness", "params": {}},
    "classes": {"label": "robustness of each class", "params": {"attack": "pgd"}},
}


def settings_of(name):
    return {
        "title": TITLES[name],
        "activations": ACTIVATIONS,
        "reference": None,
        "headline": "pgd",
        "attacks": ATTACKS,
    }


class Built:
    """A folder of results: `texts` of captions, `settings` of the page, `path` where it belongs."""

    def __init__(self, folder, seeds=2):
        self.folder, self.path = folder, folder / "results.html"
        results = Results(folder)
        for number, name in enumerate(TITLES):
            for place, activation in enumerate(ACTIVATIONS):
                for seed in range(seeds):
                    correct = {"clean": 150 + 5 * place + seed, "pgd": 80 - 7 * place, "thesis_pgd": 90}
                    collapsed = "at_end" if (number, activation) == (0, "elu") else None
                    results.add(
                        activation, correct, experiment=name, seed=seed, overfitting=collapsed, epochs=5
                    )
        self.manifest, self.summary = results.manifest(), folder / "summary.csv"
        runs = manifest.read_manifest(self.manifest)
        rows = summary.summarize(runs)
        summary.write_rows(self.summary, rows)
        for name in TITLES:
            for end, text in tables.texts(rows, runs, name, settings_of(name)).items():
                write(folder / "tables" / f"{name}{end}", text)
        self._draw(seeds)
        self.settings = {
            "experiments": {name: self._experiment(name) for name in TITLES},
            "kinds": KINDS,
            "card": CARD,
        }
        self.captions = [CAPTIONS / f"{kind}.rst" for kind in KINDS]
        write(folder / "study.md", STUDY)

    def _draw(self, seeds):
        for name in TITLES:
            for kind in (*KINDS, "kafs_kaf_seed0", "gallery_kaf_seed0"):
                drawn, ((panel,),) = style.figure(style.COLUMN, 2)
                panel.plot([0, 1], [0, 1])
                path = self.folder / "plots" / name / kind
                path.parent.mkdir(parents=True, exist_ok=True)
                style.save(drawn, f"{path}.pdf", f"{path}.png")
        paths = [
            write_card(self.folder / "cards", activation, experiment="vgg", seed=seed, zero_gradients=0.5)
            for activation in ACTIVATIONS
            for seed in range(seeds)
        ]
        shown = card_table.build([cards.read(path) for path in paths], TITLES["vgg"])
        write(self.folder / "cards" / "vgg.json", json_tables.to_json(shown))

    def _experiment(self, name):
        others = ["cards/vgg.json"] if name == "vgg" else []
        return {
            "title": TITLES[name],
            "headline": "pgd",
            "tables": [*(f"tables/{name}{end}.json" for end in ("", "_attacks", "_differences")), *others],
            "figures": list(KINDS),
            "drawn": {"kaf_seed0": ["kafs", "gallery"]},
            "cards": name == "vgg",
        }

    @property
    def arguments(self):
        """Those of render_page.py."""
        return [
            *("--settings", json.dumps(self.settings), "--folder", self.folder),
            *("--manifest", self.manifest, "--summary", self.summary, "--captions", *self.captions),
            *("--study", self.folder / "study.md", "--output", self.path),
        ]

    def experiments(self):
        texts = {path.stem: path.read_text(encoding="utf-8") for path in self.captions}
        return reading.experiments(self.settings, self.folder, self.manifest, self.summary, texts)

    def page(self):
        return document.render(self.experiments(), STUDY)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
