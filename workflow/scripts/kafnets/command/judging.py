"""Judges a network by attacks: for each a record, and a verdict for each image beside it.

    kafnets evaluate --model my_module:build --weights mine.pt --data cifar10 --output results/mine

A network of yours is whatever a function or class makes that returns logits for images in [0, 1]. Killed and
called again, pgd and thesis_pgd go on where they were; what is done already is not done again.
"""

from pathlib import Path

from ..registry import ATTACKS, lookup
from ..runtime import cli
from ..runtime.errors import UserError
from . import networks

# What `--attack` names; anything else is said by `--settings`.
READY = {
    "clean": {"method": "clean"},
    "pgd": {"method": "pgd", "step": "2/255", "iterations": 50, "restarts": 10},
    "thesis_pgd": {"method": "thesis_pgd", "step": "2/255", "iterations": 50, "restarts": 10},
    "autoattack": {"method": "autoattack"},
}


def options(parser):
    networks.network_options(parser)
    networks.data_options(parser)
    parser.add_argument(
        "--attack",
        nargs="+",
        choices=READY,
        default=["pgd"],
        help="pgd (the default) and thesis_pgd: 50 steps of 2/255, 10 restarts; autoattack; clean: none",
    )
    parser.add_argument("--eps", default="8/255", help="their radius, L-infinity (default: 8/255)")
    parser.add_argument(
        "--settings",
        help="instead of --attack and --eps: one attack, as a JSON object or a JSON or YAML file, e.g. "
        '\'{"method": "pgd", "norm": "l2", "eps": "128/255", "step": "15/255", "iterations": 50, '
        '"restarts": 1}\'',
    )
    parser.add_argument(
        "--examples", type=cli.positive, help="so many test images, balanced by class (default: all)"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the records and verdicts")
    parser.add_argument(
        "--batch-size", type=cli.positive, help="images per forward pass (no effect on verdicts)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=cli.positive, default=1, help="CPU threads")


def run(arguments):
    import torch

    from ..recording.evaluations import judge_once
    from ..runtime.device import resolve
    from ..runtime.progress import line
    from . import repeating

    torch.set_num_threads(arguments.threads)
    description = networks.described(arguments)
    attacks = chosen_attacks(arguments)
    networks.network_facts(description)  # what cannot be loaded is said before anything else
    if networks.is_target(arguments.model) and arguments.weights is None:
        line(f"{arguments.model}: judged with the weights that it is made with, for no --weights are given")
    dataset = networks.load_data(arguments.data, arguments.source, arguments.examples)
    for name, settings in attacks.items():
        settings = {
            "attack": name,
            "dataset": dataset.name,
            "test_examples": arguments.examples,
            **settings,
        }

        def facts(settings=settings):
            return {
                "settings": settings,
                "data": arguments.data,
                "data_sha256": dataset.sha256,
                "code": "",
                "library": repeating.code_checksum(),
                **networks.network_facts(description),
            }

        record, verdicts = (arguments.output / f"{name}.{end}" for end in ("json", "safetensors"))
        if repeating.is_made(record, facts(), {"verdicts_sha256": verdicts}):
            continue
        code = judge_once(
            lambda device: (networks.load_network(description, dataset, device), []),
            dataset,
            settings,
            facts,
            record,
            verdicts,
            lambda: resolve(arguments.device),
            title=arguments.model,
            batch_size=arguments.batch_size,
        )
        if code:
            return code
    return 0


def chosen_attacks(arguments):
    """The settings of the attacks that the options choose, by name.

    Raises:
        UserError: for settings of no attack, or of one that needs other networks.
    """
    if arguments.settings is None:
        return {
            name: READY[name] if name == "clean" else {**READY[name], "eps": arguments.eps}
            for name in dict.fromkeys(arguments.attack)
        }
    settings = cli.settings_argument(arguments.settings)
    method = settings.get("method")
    if lookup(ATTACKS, method, "method").sources == "needed":
        raise UserError(
            f"--settings: {method} crafts its examples on other networks; it is an attack of an experiment"
        )
    return {str(settings.get("attack", method)): settings}
