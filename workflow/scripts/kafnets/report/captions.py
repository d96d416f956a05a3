"""What the captions of the tables say, in plain text."""

from .. import registry
from ..config.slices import OWN_WEIGHTS, WORST_CASE, ball
from ..diagnostics.checks import CHECKS
from ..diagnostics.checks import LEVEL as CARD_LEVEL
from ..registry import label
from . import marks
from .differences import LEVEL
from .summary import clean_attack
from .typesetting import NOT_RUN, UNDERLINED

# Settings of an attack that its description spells out, in this order.
_DESCRIBED = {
    "eps": "ε = {}",
    "step": "step {}",
    "iterations": "{} iterations",
    "restarts": "{} random restarts",
    "loss": "loss {}",
    "targets": "towards {} classes in turn",
    "backward": "backward {}",
    "queries": "{} queries",
}

# What a reader sees above the column of a check.
CHECK_HEADS = {
    "clean_at_zero": "ε = 0",
    "nothing_at_largest": "ε large",
    "falls_with_radius": "rise over ε",
    "iterations_suffice": "more iterations",
    "restarts_suffice": "more restarts",
    "iterations_beat_one_step": "PGD − FGSM",
    "white_box_beats_black_box": "black box alone",
    "black_box_beats_noise": "black box − noise",
    "gradients_exist": "no gradient",
    "gradients_are_finite": "gradient not finite",
    "gradient_leads_up": "loss rises",
    "slopes": "|f′|",
    "curvatures": "|f″|",
}
GROWTH_HEAD = "χ"  # of the activations, no check


# -- the main table


def results(rows, settings, attacks, numbers, marked, published, has_beside, said_of_differences, cells):
    """Of the main table of an experiment.

    Args:
        rows: the experiment's rows of the summary.
        settings, published, said_of_differences: as for `tables.build`.
        attacks: those with a column of their own beside the headline's.
        numbers: what stands in the table, see `tables.build`.
        marked: label of an activation -> its marks (`marks.of`).
        has_beside (bool): whether there are columns of the experiment that stands beside this one.
        cells: of each column, those of its numbers.
    """
    headline = settings["headline"]
    datasets = map(_dataset_label, rows["dataset"].unique())
    of = f" of {', '.join(datasets)}" if len(rows) else ""
    sentences = [
        f"{settings['title']}: accuracy and robustness in percent{_spread(numbers)}.",
        f"Accuracy: correct on {_images(rows, (clean_attack(rows), headline))}{of} without an attack.",
        f"Robustness: still correct {against_named(headline, settings)}, on {_images(rows, (headline,))}.",
    ]
    sentences += [_column(rows, settings, name) for name in attacks]
    if published:
        sentences.append(
            f"Published: {' '.join(published['source'].split())}; one seed, robustness by the thesis "
            f"protocol, its best marked as printed there."
        )
    if settings.get("weights") == "published":
        sentences.append(
            "The networks are the author's own, their published weights, and nothing was trained here: what "
            "differs from the published columns differs by the measurement alone. Robustness counts an image "
            "that no restart turned from its true label; the published one is that of the thesis protocol."
        )
    if settings.get("weights") == OWN_WEIGHTS:
        sentences.append("The networks are given, and nothing was trained here.")
    if has_beside:
        sentences.append(
            f"{settings['beside']['title']}: the same weights, every step of a KAF's formula rounded to "
            f"float16 as in the thesis's training and evaluation. What differs from the other columns is "
            f"rounding: it shows where large coefficients of alternating sign cancel, as in a KAF that "
            f"started from a ridge fit. The attack follows the exact derivatives there, so rounding is also "
            f"noise in its way."
        )
    if said_of_differences:
        sentences.append(said_of_differences)
    if (numbers["low"].notna() & numbers["deviation"].isna()).any():
        sentences.append(
            "Beside a number of one seed: its Wilson 95% interval, for the choice of test images."
        )
    set_apart = [cell for column in cells for cell in column]
    if any(cell.bold for cell in set_apart):
        sentences.append("Bold: best of its column.")
    if any(cell.underlined for cell in set_apart):
        sentences.append(
            f"{UNDERLINED} best trade-off, the highest harmonic mean of accuracy and robustness."
        )
    if numbers["percent"].isna().any():
        sentences.append(f"{NOT_RUN}: not run.")
    return " ".join([*sentences, *marks.sentences(marked)])


def _spread(numbers):
    """What the ± stands for, in words, or that every number is of one seed."""
    counts = numbers.groupby("activation", sort=False)["seeds"].max()
    if counts.max() < 2:
        return ", one seed"
    fewer = [f"{label(name)} {n}" for name, n in counts.items() if 0 < n < counts.max()]
    return f", mean ± sample standard deviation over n = {counts.max()} seeds" + (
        f" ({', '.join(fewer)})" if fewer else ""
    )


def _column(rows, settings, name):
    """What the column of an attack shows."""
    images = _images(rows, (name,))
    if name == WORST_CASE:
        return f"Worst case: still correct {against_named(name, settings)}, on {images}."
    attack, headline = settings["attacks"][name], settings["headline"]
    if attack["method"] != "thesis_pgd":
        return f"Under {name}: still correct {_against(attack)}, on {images}."
    details = _details(attack)
    if headline != WORST_CASE and details == _details(settings["attacks"][headline]):
        details = "same settings"
    return (
        f"Robustness (thesis protocol): as the published numbers were measured ({details}, on "
        f"{images}); the attack has no labels and so attacks the model's own prediction, keeps the "
        f"one restart that is best over the whole set, and an image that is wrong without the attack "
        f"may count as robust: it overstates robustness."
    )


# -- the table of attacks


def attacks(rows, settings, names):
    """Of the table of attacks; `names`: those that have a row, in their order."""
    described = "; ".join(
        f"{name}: {_details(attack)}"
        for name, attack in settings["attacks"].items()
        if name in names and ball(attack)
    )
    caption = (
        f"{settings['title']}: percent of {_images(rows, names)} still correct under each attack, mean "
        f"over the seeds, and how many seconds the attack took per network. {described}."
    )
    if WORST_CASE in names:
        caption += f" {WORST_CASE}: correct under every one of {', '.join(settings['worst_case'])}."
    return caption


# -- the table of differences


def differences_in_one_sentence(tested):
    """What the main table's caption says of the differences, or nothing where there are none."""
    robust = [test for test in tested if test.quantity == "robustness"]
    clean = [test for test in tested if test.quantity == "accuracy" and test.real]
    if not robust:
        return ""
    real = [_in_words(test) for test in robust if test.real]
    named = f": {', '.join(real)}" if 0 < len(real) <= 6 else ""
    return (
        f"Of the {len(robust)} differences in robustness {len(real)} are real at the {100 * LEVEL:g}% level "
        f"after Holm's correction{named}; of those in accuracy {len(clean)}."
    )


def _in_words(test):
    better, worse = (test.first, test.second) if test.found.estimate > 0 else (test.second, test.first)
    return f"{label(better)} above {label(worse)}"


def differences(tested, title):
    """Of the table of differences (`differences.differences`) of the experiment of that title."""
    if not tested:
        return f"{title}: there are no two activations to compare."
    seeds = sorted({test.seeds for test in tested})
    how = []
    if 1 in seeds:
        how.append(
            "for one seed exact McNemar tests, which are about these two networks, not their activations"
        )
    if any(count > 1 for count in seeds):
        several = " or ".join(str(count) for count in seeds if count > 1)
        how.append(
            f"for {several} seeds the paired bootstrap over seeds and images, or the paired t-test over the "
            "seeds where its p is larger"
        )
    return (
        f"{title}: differences between activations on the same test images in percentage points, "
        f"the first minus the second, with 95% intervals (paired bootstrap). p: "
        f"{'; '.join(how)}; corrected by Holm's method over all {len(tested)} tests of this "
        f"table. Bold: real at the {100 * LEVEL:g}% level."
    )


# -- the table of evaluation cards


def cards(found, title):
    """Of the table of the evaluation cards `found` of the experiment of that title."""
    settings, counts = found[0].settings["card"], sorted({card.figures["examples"] for card in found})
    images = " or ".join(f"{count:,}" for count in counts)
    says = "; ".join(f"{CHECK_HEADS[check.name]}: {check.says}" for check in CHECKS)
    if any("chi" in layer for card in found for layer in card.figures["layers"]):
        says += (
            f"; {GROWTH_HEAD}, no check: how much an activation lets gradients grow between two "
            "normalisations, the geometric mean over the layers"
        )
    return (
        f"{title}: evaluation cards, on {images} test images, shares of them in percent. PGD: ε = "
        f"{settings['eps']}, step {settings['step']}, {settings['iterations']} iterations, "
        f"{settings['restarts']} random starts. {says}. Below a bound: how many of so many images it "
        f"allows, by an exact test at {100 * CARD_LEVEL:.0f} % (more where two attacks differ both ways). "
        f"Bold with {marks.FAILED}: a check that fails, so the network's robustness may be the attack's "
        "weakness."
    )


# -- attacks, data sets and numbers of images in words


def _images(rows, attacks):
    """How many test images the first of `attacks` that was run was run on."""
    for attack in attacks:
        counts = sorted(rows.loc[rows["attack"] == attack, "examples"].unique())
        if counts:
            return " or ".join(f"{count:,}" for count in counts) + " test images"
    return "no image yet"


def against_named(attack, settings):
    """An attack by its name, or the worst case of several, in words."""
    if attack != WORST_CASE:
        return _against(settings["attacks"][attack])
    merged = [settings["attacks"][name] for name in settings["worst_case"]]
    names = ", ".join(settings["worst_case"])
    return f"under every one of {names} against the true labels ({_details(_of_the_ball(merged[0]))})"


def _of_the_ball(attack):
    norm, _ = ball(attack)
    return {"method": attack["method"], "norm": norm, "eps": attack["eps"]}


def _against(attack):
    """An attack on the true labels, in words."""
    entry = registry.ATTACKS.get(attack["method"])
    name = entry.label if entry and entry.label else attack["method"]
    restarts = "under every random restart of " if attack.get("restarts", 1) > 1 else "under "
    return f"{restarts}{name} against the true labels ({_details(attack)})"


def _details(attack):
    parts = [words.format(attack[key]) for key, words in _DESCRIBED.items() if attack.get(key) is not None]
    default = registry.ATTACKS[attack["method"]].norm if attack["method"] in registry.ATTACKS else "linf"
    norm = {"linf": "L∞", "l2": "L2"}[attack.get("norm", default)]
    return ", ".join([norm, *parts]).replace("1 random restarts", "1 random start", 1 if parts else 0)


def _dataset_label(dataset):
    entry = registry.DATASETS.get(dataset)
    return entry.label if entry and entry.label else dataset
