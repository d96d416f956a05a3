"""The tables of detectors: under an attacker who does not know them, and under one who does."""

from ..config.detection import ball, is_adaptive
from ..registry import DETECTION_ATTACKS, DETECTORS, label
from . import statistics
from .typesetting import NOT_RUN, Cell, Column, Table

STRICT, LOOSE = 0.01, 0.05  # the rates of false positives


def build(guarded, settings):
    """The table of an experiment: a row a detector beside a network, both attackers side by side.

    Args:
        guarded: list of `detections.Guarded`.
        settings: of :func:`kafnets.config.detection.table_settings`.
    """
    several = len({one.seed for one in guarded}) > 1
    rows, records, network = [], [], None
    for one in guarded:
        if _network(one, several) != network:  # a row with its name alone, which keeps the column narrow
            network = _network(one, several)
            rows.append((Cell(network), *[Cell("")] * 10))
        static, adaptive = (one.figures(evading) for evading in attackers(one, settings))
        rows.append(
            (
                Cell(said(one.detector)),
                _plain(_at(static, LOOSE)["false_positives"], static["examples"]),
                *_attacker(static)[:-1],
                _plain(_at(static, LOOSE)["evaded"], static["examples"]),
                *_attacker(adaptive),
                _share(_at(adaptive, LOOSE)["robust"], adaptive["examples"]),
            )
        )
        records.append(_record(one, "static", static))
        records.append(_record(one, "adaptive", adaptive))
    heads = ("AUC", "TPR@1", "TPR@5", "SR@5")
    return Table(
        name="detection",
        title=f"{settings['title']}: detectors",
        caption=caption(guarded, settings),
        columns=(
            *(Column("Network, detector"), Column("false@5", "clean")),
            *(Column(head, "static") for head in heads),
            *(Column(head, "adaptive") for head in (*heads, "robust@5")),
        ),
        rows=tuple(rows),
        records=tuple(records),
        breaks_heads=True,
    )


def attackers(one, settings):
    """The lowest scores of both attackers, who does not know the detector and who does, (N,) each."""
    its = ball(settings["attacks"][settings["merged"][0]])
    return one.attacks[settings["static"]].evading, one.adaptive(settings["merged"], its)


def of_attacks(guarded, settings):
    """The table of every attack: a row a detector beside a network and an attack. Arguments as of `build`."""
    several = len({one.seed for one in guarded}) > 1
    rows, records = [], []
    for one in guarded:
        for attack, its in settings["attacks"].items():
            found = one.figures(one.attacks[attack].evading)
            distance = _distance(one.attacks[attack], _at(found, LOOSE)["threshold"])
            rows.append(
                (
                    Cell(_network(one, several)),
                    Cell(said(one.detector)),
                    Cell(said(attack)),
                    Cell("yes" if is_adaptive(its) else "no"),
                    _plain(found["misclassified"], found["examples"]),
                    *_attacker(found, strict=True),
                    Cell(NOT_RUN if distance is None else f"{distance:.3f}"),
                )
            )
            records.append({**_record(one, attack, found), "median_l2": distance})
    heads = ("misclassified", "AUC", "TPR@1", "TPR@5", "SR@1", "SR@5", "median l2")
    return Table(
        name="detection_attacks",
        title=f"{settings['title']}: detectors, every attack",
        caption=caption_of_attacks(guarded, settings),
        columns=tuple(map(Column, ("Activation", "Detector", "Attack", "knows it", *heads))),
        rows=tuple(rows),
        records=tuple(records),
        breaks_heads=True,
    )


def said(name):
    """The name of a detector or an attack in print: as the configuration has it, in words."""
    return name.replace("_", " ")


def _network(one, several):
    return label(one.activation) + (f", seed {one.seed}" if several else "")


def _at(figures, rate):
    return next(one for one in figures["rates"] if one["rate"] == rate)


def _share(count, examples):
    if not examples:
        return Cell(NOT_RUN)
    found = statistics.wilson(count, examples)
    return Cell(f"{100 * found.estimate:.1f}", interval=f"{100 * found.low:.1f}–{100 * found.high:.1f}")


def _attacker(figures, strict=False):
    """AUC, true positive rates, and success rates: the one at the loose threshold, or both."""
    rates = [_at(figures, rate) for rate in (STRICT, LOOSE)]
    auc = Cell(NOT_RUN if figures["auc"] is None else f"{figures['auc']:.3f}")
    detected = [_plain(one["detected"], figures["fooled"]) for one in rates]
    first, second = (one["evaded"] for one in rates)
    evaded = (_plain(first, figures["examples"]),) if strict else ()
    return auc, *detected, *evaded, _share(second, figures["examples"])


def _plain(count, examples):
    """A share without its interval, which the CSV file has: a table of them all would be too wide."""
    return Cell(f"{100 * count / examples:.1f}" if examples else NOT_RUN)


def _distance(judged, threshold):
    """The median length, in the L2 norm, of the perturbations that succeeded; None of none."""
    lengths = sorted(judged.columns["l2"][judged.evading <= threshold].tolist())
    if not lengths:
        return None
    middle = len(lengths) // 2
    return lengths[middle] if len(lengths) % 2 else (lengths[middle - 1] + lengths[middle]) / 2


def _record(one, attack, figures):
    """A line of the CSV file: counts as shares, each with its interval."""
    line = {
        "activation": one.activation,
        "seed": one.seed,
        "detector": one.detector,
        "attack": attack,
        **{name: figures[name] for name in ("examples", "natural", "misclassified", "fooled", "auc")},
    }
    of_all = figures["examples"]
    for found in figures["rates"]:
        percent = f"{100 * found['rate']:g}"
        line[f"threshold_{percent}"] = found["threshold"]
        for name, examples in (
            ("false_positives", of_all),
            ("detected", figures["fooled"]),
            ("evaded", of_all),
            ("robust", of_all),
        ):
            interval = statistics.wilson(found[name], examples) if examples else None
            for part in ("estimate", "low", "high"):
                key = f"{name}_{percent}" if part == "estimate" else f"{name}_{percent}_{part}"
                line[key] = None if interval is None else getattr(interval, part)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}


# -- captions


def caption(guarded, settings):
    """What the main table shows, in words."""
    merged = ", ".join(map(said, settings["merged"]))
    return " ".join(
        [
            f"{settings['title']}: detectors beside the networks, under an attacker who does not know them "
            f"({_described(settings, settings['static'])}), and under one who does (adaptive: for each image "
            f"the lowest score at which any of {merged} has it misclassified, {_ball(settings)}"
            f"{_others(settings)}).",
            _images(guarded),
            "TPR@1, TPR@5: of the images that are right unperturbed and that the attacker has misclassified, "
            "those rejected, at the thresholds of 1% and 5% false positives. SR@5: of all images those that "
            "are misclassified and accepted, natural errors among them. Robust@5 counts those of all images "
            "that are right and accepted as they are, and that no attack has misclassified and accepted. "
            "AUC: the images of TPR against the clean ones that are right; it says "
            "nothing about a threshold, and is no measure of robustness.",
            _natural(guarded),
            _detectors(settings),
            _BOUND,
        ]
    )


def caption_of_attacks(guarded, settings):
    """What the table of attacks shows, in words."""
    described = "; ".join(f"{said(name)}: {_described(settings, name)}" for name in settings["attacks"])
    return " ".join(
        [
            f"{settings['title']}: every detector under every attack, those that know it and those that do "
            f"not. {described}.",
            _images(guarded),
            "Misclassified: of all images those that are misclassified under the attack, accepted or not, "
            "natural errors among them. Median l2: the median "
            "length of the perturbations that succeed at the threshold of 5% false positives, 0 for images "
            "that are misclassified and accepted as they are; attacks without a radius are to be read by it, "
            "and their success rates say nothing of a ball.",
            "TPR, SR and AUC as in the main table, SR@1 at the threshold of 1%.",
            _natural(guarded),
        ]
    )


_SAID = {"eps": "ε", "search_steps": "search steps"}
_BOUND = (
    "A bound to hold claims against (Tramèr 2022, arXiv:2107.11630): whoever has a detector that is robust "
    "at ε has, by a search that takes exponential time, a classifier of the same robust accuracy at ε/2. "
    "Robust@5 far above what classifiers reach at half the radius is a sign of an attack that is too weak."
)


def _images(guarded):
    examples = {len(attack.columns["label"]) for one in guarded for attack in one.attacks.values()}
    held_out = {attack.record["held_out"] for one in guarded for attack in one.attacks.values()}
    counts, others = (" and ".join(f"{number:,}" for number in sorted(one)) for one in (examples, held_out))
    return (
        f"{counts} test images; thresholds fixed on {others} others, unperturbed (false@5: of the "
        f"{counts} those rejected at the threshold of 5%). Shares in percent, some with "
        "their Wilson 95% interval; all intervals are in the CSV file."
    )


def _natural(guarded):
    """How many images each network gets wrong without an attack: these count in SR, not in TPR and AUC."""
    several = len({one.seed for one in guarded}) > 1
    shares = {
        _network(one, several): 100 * next(iter(one.attacks.values())).clean["misclassified"].mean()
        for one in guarded
    }
    said_of = ", ".join(f"{network} {share:.1f}%" for network, share in shares.items())
    return f"Natural errors, images misclassified unperturbed: {said_of}."


def _detectors(settings):
    said_of = []
    for name, its in settings["detectors"].items():
        trained = [
            key for key in ("eps", "step", "iterations", "epochs", "layer") if its.get(key) is not None
        ]
        details = ", ".join(f"{_SAID.get(key, key)} {its[key]}" for key in trained)
        made = (
            ""
            if "eps" not in its
            else f", trained on PGD examples{' made against itself' if its.get('dynamic') else ''}"
        )
        said_of.append(
            f"{said(name)}: {DETECTORS[its['method']].label}{made}{f' ({details})' if details else ''}"
        )
    return f"Detectors: {'; '.join(said_of)}."


def _described(settings, name):
    its = settings["attacks"][name]
    details = [
        f"{_SAID.get(key, key)} {its[key]}"
        for key in ("norm", "eps", "step", "iterations", "restarts", "search_steps")
        if key in its
    ]
    return f"{DETECTION_ATTACKS[its['method']].label}{', ' if details else ''}{', '.join(details)}"


def _others(settings):
    """Which attacks count besides, image by image."""
    others = [name for name in settings["attacks"] if name not in settings["merged"]]
    if not others or ball(settings["attacks"][settings["merged"][0]]) is None:
        return ""
    return f", and of {', '.join(map(said, others))} what lies in that ball"


def _ball(settings):
    """The ball in which the adaptive attacker searches."""
    found = ball(settings["attacks"][settings["merged"][0]])
    if found is None:
        return "at any distance"
    norm, eps = found
    return f"{'L∞' if norm == 'linf' else 'L2'}, ε = {255 * eps:g}/255"
