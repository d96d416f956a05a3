"""The page of a study, study.md: its design, results and comparisons, in the words of a template.

What stands there is computed from records, verdicts and settings alone.
"""

import math
import re
import string

from ..registry import ADVERSARIES, ARCHITECTURES, DATASETS, label
from . import captions, marks, study_comparisons
from .manifest import training_record
from .planned import families
from .study_comparisons import filled, title_of
from .summary import clean_accuracy, over_seeds
from .typesetting import NOT_RUN, Cell, Column, Table, to_markdown


def page(template, rows, runs, tested, settings):
    """The page, Markdown.

    Args:
        template (str): with $design, $results and the other parts of :func:`parts`.
        rows: of the summary.
        runs: of the manifest.
        tested: of `planned.planned`.
        settings (dict): `study` of the configuration, and `experiments`: the settings of the tables of those
            that are run (`slices.table_settings`), in their order.
    """
    text = string.Template(template).substitute(parts(rows, runs, tested, settings))
    return re.sub(r"^- .*\n(?:  .*\n)*", _bullet, text, flags=re.MULTILINE)


def _bullet(match):
    return filled(" ".join(match[0].split()), "  ") + "\n"


def parts(rows, runs, tested, settings):
    """What stands in the places of the template, by their names."""
    found = {name: list(members) for name, members in families(settings).items()}
    records = {str(run): training_record(run) for run in runs if run.experiment in settings["run"]}
    of_page = [run for run in runs if run.experiment in settings["run"]]
    parameters = {
        (run.experiment, run.activation): records[str(run)]["parameters"]["activation"] for run in of_page
    }
    return {
        "design": _design(rows, of_page, records, settings),
        "results": _results(rows, of_page, records, settings, list(found)),
        "comparisons": "\n".join(study_comparisons.of_controls(tested, root, settings) for root in found),
        "null_models": study_comparisons.of_null_models(tested, settings),
        "variants": study_comparisons.of_variants(tested, parameters, settings),
        "budget": _budget(of_page),
        "rates": _rates(of_page, settings),
        "seeds": f"{_count(len({run.seed for run in of_page}), 'seed')} of each network.",
    }


# -- design


def _design(rows, runs, records, settings):
    attack = next(iter(settings["experiments"].values()))
    headline = attack["headline"]
    judged = (
        f"Robustness: correct {captions.against_named(headline, attack)}, on "
        f"{_examples(rows, headline)} test images, the same ones for every network; accuracy on the same "
        f"images. The weights are the last ones of each training: no epoch is chosen."
    )
    machines = sorted({record["environment"].get("device", "?") for record in records.values()})
    hours = sum(record["wall_seconds"] for record in records.values()) / 3600
    cost = (
        f"{_count(len(records), 'training')}, {hours:.1f} hours of training in all, on "
        f"{', '.join(machines)}; the last finished {max(r['finished'] for r in records.values())[:10]}."
    )
    described = [f"- **{title_of(settings, name)}**: {_training(runs, name)}" for name in settings["run"]]
    return "\n".join([*map(filled, [judged]), "", *described, "", filled(cost)])


def _training(runs, experiment):
    """How the networks of an experiment were trained, in one sentence."""
    run = _first(runs, experiment)
    given, options = run.training_settings, run.training_settings["training"]
    block = given["architecture_arguments"].get("block")
    network = ARCHITECTURES[run.architecture].label + (f" ({block} block)" if block else "")
    adversary = {key: value for key, value in options["adversary"].items() if key != "name"}
    said = ", ".join(f"{key} {value}" for key, value in adversary.items())
    arguments = {
        label(one.activation): one.training_settings["activation_arguments"]
        for one in runs
        if one.experiment == experiment and one.training_settings["activation_arguments"]
    }
    extra = "".join(f"; {name}: {_settings(value)}" for name, value in arguments.items())
    return (
        f"{network}, {_images(run):,} training images of {DATASETS[run.dataset].label}, "
        f"{ADVERSARIES[options['adversary']['name']].label} ({said}), {_count(_epochs(options), 'epoch')} of "
        f"{_count(_steps(run), 'step')}, batches of {options['batch_size']}, augmentation "
        f"{options['augmentation']}, momentum {options['momentum']}, l2 {_settings(options['l2'])}{extra}."
    )


def _settings(given):
    return ", ".join(f"{key} {value}" for key, value in given.items())


def _budget(runs):
    counts = {_steps(run) * _epochs(run.training_settings["training"]) for run in runs}
    images = {_images(run) for run in runs}
    return (
        f"{_range(counts)} updates by {_range(images)} images, where the literature takes tens of thousands "
        "of updates by 50,000."
    )


def _rates(runs, settings):
    chosen = {tuple(run.training_settings["training"]["learning_rate"]) for run in runs}
    if len(chosen) == 1:
        low, high = next(iter(chosen))
        return f"One range for all, {low:g} to {high:g}: no activation has the one that suits it best."
    if not settings["rates"]:
        return f"{len(chosen)} ranges are in use; each activation's stands in the configuration."
    return (
        f"Each activation has that range, of those that {len(settings['rates'])} experiments of short trials "
        "tried, with which it was most robust on held-out training images, by one seed that is none of "
        f"these: a coarse choice, by a noisy measurement. {len(chosen)} ranges are in use."
    )


def _images(run):
    examples = run.training_settings["train_examples"] or DATASETS[run.dataset].examples[0]
    return examples - run.training_settings["training"].get("validation", {}).get("examples", 0)


def _steps(run):
    return math.ceil(_images(run) / run.training_settings["training"]["batch_size"])


def _epochs(options):
    return options["epochs"] + options["tail"]["epochs"]


# -- results


def _results(rows, runs, records, settings, roots):
    """The table of the activations, and a figure of each experiment."""
    names = list(dict.fromkeys(n for root in roots for n in settings["experiments"][root]["activations"]))
    columns = [Column("Activation"), Column("Parameters"), *(c for r in roots for c in _columns(settings, r))]
    of_root = {root: _experiment(rows, runs, records, settings, root) for root in roots}
    table_rows, marked = [], {}
    for name in names:
        of = rows[(rows["activation"] == name) & rows["experiment"].isin(roots)]
        marked[label(name)] = marks.of(of, _attacks(settings))
        own = {of_root[root][name][0] for root in roots if name in of_root[root]}
        cells = [cell for root in roots for cell in of_root[root].get(name, (0, [Cell(NOT_RUN)] * 4))[1]]
        signs = "".join(mark.sign for mark in marked[label(name)])
        table_rows.append((Cell(label(name), note=signs), Cell(_range(own)), *cells))
    seeds = len({run.seed for run in runs})
    spread = f"mean ± sample standard deviation over n = {seeds} seeds" if seeds > 1 else "one seed"
    caption = (
        f"Accuracy and robustness in percent, {spread}. "
        "Parameters: those of the activations, in the whole network. Rate: the largest of the cycle. ms: "
        "milliseconds of training an update by a batch, of the fastest seed. Bold: the highest mean, which "
        "says nothing of noise."
    )
    caption = " ".join([caption, *marks.sentences(marked)])
    table = Table("study", "Study", caption, tuple(columns), tuple(table_rows), ())
    figures = [
        f"![Accuracy against robustness, {title_of(settings, root)}](plots/{root}/tradeoff.png)"
        for root in roots
    ]
    return "\n".join([to_markdown(table), *figures])


def _columns(settings, root):
    title = title_of(settings, root)
    return [Column(f"{title}: {head}") for head in ("rate", "accuracy", "robustness", "ms")]


def _experiment(rows, runs, records, settings, name):
    """activation -> (its parameters, cells of an experiment)."""
    of = rows[rows["experiment"] == name]
    headline = _attacks(settings)["headline"]
    figures = [clean_accuracy(of, headline), over_seeds(of, headline)]
    activations = settings["experiments"][name]["activations"]
    # what is best there is the best of nothing
    unfit = [one for one in activations if marks.is_unfit(of[of["activation"] == one])]
    best = [round(100 * one["mean"].drop(unfit, errors="ignore").max(), 2) for one in figures]
    found = {}
    for activation in activations:
        own = [run for run in runs if (run.experiment, run.activation) == (name, activation)]
        rate = own[0].training_settings["training"]["learning_rate"][1]
        parameters = records[str(own[0])]["parameters"]["activation"]
        seconds = min(
            records[str(run)]["wall_seconds"] / _steps(run) / _epochs(run.training_settings["training"])
            for run in own
        )
        measured = [
            _percent(one.loc[activation], most, activation in unfit)
            for one, most in zip(figures, best, strict=True)
        ]
        found[activation] = parameters, [Cell(f"{rate:g}"), *measured, Cell(f"{1000 * seconds:.0f}")]
    return found


def _percent(figures, most, unfit):
    percent = round(100 * figures["mean"], 2)
    deviation = "" if math.isnan(figures["std"]) else f"{100 * figures['std']:.2f}"
    return Cell(f"{percent:.2f}", bold=percent == most and not unfit, deviation=deviation)


# -- small things


def _attacks(settings):
    return next(iter(settings["experiments"].values()))


def _first(runs, experiment):
    return next(run for run in runs if run.experiment == experiment)


def _examples(rows, headline):
    return _range(set(rows.loc[rows["attack"] == headline, "examples"]))


def _range(numbers):
    if not numbers:
        return NOT_RUN
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _count(number, thing):
    return f"{number:,} {thing}" + ("s" if number != 1 else "")
