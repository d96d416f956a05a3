"""The names of attacks, and what each takes."""

from ..entry import Entry

_PGD = ("eps", "step", "iterations", "restarts")
# every attack's: passes of a random network that are averaged, and the seed of the attack's random numbers
_ANY = ("eot_samples", "start_seed")


def _standard(name, label, *optional):
    return Entry(
        f"kafnets.attacks.auto_attack:{name}",
        label=label,
        required=("eps",),
        optional=("norm", *optional, *_ANY),
    )


def _nearest(name, label, norm, *optional):
    return Entry(
        f"kafnets.attacks.minimum_norm:{name}",
        label=label,
        norm=norm,
        optional=("eps", "iterations", *optional, *_ANY),
    )


# `method` of an entry of evaluation.attacks.
ATTACKS = {
    "clean": Entry("kafnets.attacks.clean:clean", label="clean", optional=("eot_samples",)),
    "fgsm": Entry("kafnets.attacks.pgd:fgsm", label="FGSM", required=("eps",), optional=_ANY),
    "pgd": Entry(
        "kafnets.attacks.pgd:pgd",
        label="PGD",
        required=_PGD,
        optional=("loss", "norm", "momentum", "targets", *_ANY),
    ),
    "thesis_pgd": Entry(
        "kafnets.attacks.thesis:thesis_pgd",
        label="PGD, thesis protocol",
        required=_PGD,
        optional=_ANY,
    ),
    "autoattack": _standard("autoattack", "AutoAttack"),
    "apgd_ce": _standard("apgd_ce", "APGD-CE", "iterations", "restarts"),
    "apgd_t": _standard("apgd_t", "APGD-T", "iterations", "restarts"),
    "fab_t": _standard("fab_t", "FAB-T", "iterations", "restarts"),
    "square": _standard("square", "Square", "queries", "restarts"),
    # by the distance of the nearest misclassified image; without eps it is robust when there is none at all
    "cw": _nearest("cw", "C&W", "l2", "search_steps", "learning_rate", "confidence"),
    "deepfool": _nearest("deepfool", "DeepFool", "l2", "norm", "overshoot"),
    "fmn": _nearest("fmn", "FMN", "linf", "norm", "step", "shrink"),
    "noise": Entry(
        "kafnets.attacks.black_box:noise",
        label="random noise",
        required=("eps",),
        optional=("samples", "norm", *_ANY),
    ),
    "transfer": Entry(
        "kafnets.attacks.black_box:transfer",
        label="transfer from the other activations' models",
        required=("eps", "step", "iterations"),
        optional=("momentum", "norm", "sources", *_ANY),
        sources="needed",
    ),
    # made for trainable activations: their values as they are, another derivative (backward)
    "adaptive_pgd": Entry(
        "kafnets.attacks.adaptive:adaptive_pgd",
        label="adaptive PGD",
        required=_PGD,
        optional=(
            *("backward", "width", "delta", "loss", "norm", "momentum", "targets", "sources"),
            *_ANY,
        ),
        settings={
            "loss": {"enum": ["cross_entropy", "margin", "dlr", "ensemble"]},
            "backward": {"enum": ["exact", "wider", "silu", "differences"]},
            "width": {"type": "number", "minimum": 1, "maximum": 1000},
            "delta": {"type": "number", "minimum": 0.001, "maximum": 1000},
        },
        sources="used",
    ),
}
