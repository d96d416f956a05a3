"""What the page is made of, read and checked: tables, records, histories, cards, and where figures are."""

from pathlib import Path

from .. import cards, json_tables, manifest, summary
from . import figures
from .document import Experiment, Figure
from .networks import Network

# Of the drawings of networks' activations: with more the page would be slow to open, and only leads to them.
MOST_BYTES = 5_000_000


def experiments(settings, folder, manifest_path, summary_path, captions):
    """The experiments of the page, list of `document.Experiment`.

    Args:
        settings (dict): of `kafnets.pipeline.page`.
        folder (Path): of the results.
        manifest_path, summary_path: the runs, and the rows of all of them.
        captions (dict): kind of a figure -> what the report says of it.
    """
    rows = summary.read_rows(summary_path)
    by_cell = {cell: of for cell, of in rows.groupby(["experiment", "activation", "seed"], sort=False)}
    runs = {}
    for run in manifest.read_manifest(manifest_path):
        runs.setdefault(run.experiment, []).append(run)
    none, shows = rows.iloc[:0], _are_few(settings, folder)
    return [
        Experiment(
            name=name,
            title=chosen["title"],
            headline=chosen["headline"],
            tables=[json_tables.read(folder / path) for path in chosen["tables"]],
            networks=[
                _network(
                    run, by_cell.get((run.experiment, run.activation, run.seed), none), chosen, folder, shows
                )
                for run in runs[name]
            ],
            figures=[_figure(name, kind, chosen, settings, folder, captions) for kind in chosen["figures"]],
        )
        for name, chosen in settings["experiments"].items()
    ]


def _are_few(settings, folder):
    """Whether the drawings of all networks' activations are small enough to be part of the page."""
    files = (
        folder / "plots" / name / f"kafs_{network}.svg"
        for name, chosen in settings["experiments"].items()
        for network, kinds in chosen["drawn"].items()
        if "kafs" in kinds
    )
    return sum(path.stat().st_size for path in files if path.exists()) <= MOST_BYTES


def _figure(experiment, kind, chosen, settings, folder, captions):
    known = {
        "wildcards": {"experiment": experiment},
        "params": settings["kinds"][kind]["params"],
        "config": {"card": settings["card"]},
    }
    return Figure(
        kind=kind,
        name=f"{settings['kinds'][kind]['label']}, {chosen['title']}",
        path=str(folder / "plots" / experiment / f"{kind}.svg"),
        caption=figures.caption(captions[kind], known),
    )


def _network(run, rows, chosen, folder, shows_shapes):
    record = manifest.training_record(run)
    history = manifest.read_history(run) if run.history is not None else None
    card_path = folder / "cards" / run.experiment / run.activation / f"seed{run.seed}.json"
    plots, end = folder / "plots" / run.experiment, f"_{run.activation}_seed{run.seed}"
    drawn = {kind: plots / f"{kind}{end}" for kind in chosen["drawn"].get(end.removeprefix("_"), ())}
    shapes = drawn["kafs"].with_name(f"kafs{end}.svg") if "kafs" in drawn and shows_shapes else None
    return Network(
        run=run,
        record=record,
        history=history,
        rows=rows,
        card=cards.read(card_path) if chosen["cards"] else None,
        shapes=shapes and str(shapes),
        files={
            **_files(run),
            **({"card": card_path} if chosen["cards"] else {}),
            **{_PICTURES.get(kind, kind): path.with_name(f"{path.name}.png") for kind, path in drawn.items()},
        },
    )


_PICTURES = {
    "kafs": "learned activations",
    "gallery": "gallery of attacked images",
    "layers": "outputs of its layers",
}


def _files(run):
    """What its weights and their evaluations left; results kept elsewhere may be without weights."""
    weights = Path(run.training_record).with_name("model.safetensors")
    found = {"weights": weights} if weights.exists() else {}
    found["record"] = run.training_record
    if run.history is not None:
        found["history"] = run.history
    for attack, files in run.evaluations.items():
        found[f"{attack}: record"], found[f"{attack}: verdicts"] = files["record"], files["verdicts"]
    return found
