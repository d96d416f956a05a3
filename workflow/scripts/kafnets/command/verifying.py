"""Runs the attack of a record again, with its settings, and compares the verdicts, image by image.

    kafnets verify results/evaluations/vgg/relu/seed0/pgd.json

The network, the data and the networks that the attack uses are found where the record of a pipeline's run has
them, or as a record of `kafnets evaluate` names them; the options name them elsewhere. Each must be the one
that the record tells of. The exit code is 0 where every verdict is the same, else 1.

Certificates, detectors and trainings are not run again: their records are refused.
"""

from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import sha256
from . import networks
from .reading import record_of

_SHOWN = 10  # of the images whose verdict is another
_TOLD = ("torch", "numpy", "device", "cuda", "threads")


def options(parser):
    parser.add_argument("record", type=Path, help="the .json of an evaluation; its verdicts lie beside it")
    networks.network_options(parser, required=False)
    networks.data_options(parser, required=False)
    parser.add_argument(
        "--sources",
        nargs="+",
        type=Path,
        default=[],
        help="the networks that the attack crafts examples on, in the order of its settings' sources",
    )
    parser.add_argument("--device", help="auto, cpu or cuda (default: what the record was made on)")


def run(arguments):
    record = read_record(arguments.record)
    recorded = read_verdicts(arguments.record, record)
    found, environment = judge_again(arguments, record)
    differences = {name: compare(recorded[name], found[name]) for name in recorded if name in found}
    for name, different in differences.items():
        print(in_words(name, recorded[name], found[name], different))
    if not any(len(different) for different in differences.values()):
        print(f"{arguments.record}: verified, every verdict is the same")
        return 0
    changed = otherwise(record.get("environment", {}), environment)
    if changed:
        print(f"made with {'; '.join(changed)}: other roundings may turn single verdicts")
    return 1


def otherwise(then, now):
    """In words what of an environment is another now; of packages only those that the record tells of."""
    told = {key: (then.get(key), now.get(key)) for key in _TOLD}
    told |= {name: (version, now["packages"].get(name)) for name, version in then.get("packages", {}).items()}
    return [f"{name} {one}, now {other}" for name, (one, other) in told.items() if one != other]


def read_record(path):
    """The record of an evaluation.

    Raises:
        UserError: when it is absent, damaged or of something else.
    """
    record = record_of(path)
    if record.get("kind") == "certification":
        raise UserError(
            f"{path}: the record of a certificate, and verify runs attacks alone; `kafnets certify` with "
            f"another --output proves its radii again, to be compared with {path.with_suffix('.csv')}, and "
            "`kafnets table` compares the record with these rows"
        )
    if record.get("kind") != "evaluation" or "settings" not in record:
        raise UserError(
            f"{path}: not the record of an evaluation, but of a {record.get('kind', 'thing unknown')}"
        )
    return record


def read_verdicts(path, record):
    """The verdicts beside a record: name to (N,) array.

    Raises:
        UserError: when they are absent, or not those that the record tells of.
    """
    from safetensors.numpy import load_file

    verdicts = path.with_suffix(".safetensors")
    if not verdicts.is_file():
        raise UserError(f"{verdicts}: no such file; the verdicts of {path} must lie beside it")
    if sha256(verdicts) != record["verdicts_sha256"]:
        raise UserError(f"{verdicts}: not the verdicts that {path} tells of; restore the file")
    return load_file(verdicts)


def judge_again(arguments, record):
    """The verdicts of a new run, name to (N,) array, and its environment."""
    import torch

    from ..evaluation.judge import AttackProgress, evaluate
    from ..models import load_model
    from ..runtime import records
    from ..runtime.device import resolve
    from ..runtime.graphs import own_stream

    then = record.get("environment", {})
    torch.set_num_threads(then.get("threads") or 1)
    settings = record["settings"]
    place = Place(arguments.record, settings)
    description = place.network(arguments, record)
    dataset = networks.load_data(
        str(arguments.data or place.data(record)), arguments.source, settings.get("test_examples")
    )
    check_same("--data", dataset.sha256, record.get("data_sha256"))
    file = networks.network_file(description)
    check_same("--model", None if file is None else sha256(file), record.get("model_sha256"))
    if networks.network_facts(description).get("module_sha256") != record.get("module_sha256"):
        print(f"{description['model']}: the module's file was edited since the record was made")
    sources = arguments.sources or place.sources()
    for name, path in zip(settings.get("sources", []), sources, strict=False):
        if not path.is_file():
            raise UserError(f"--sources: {path}: no such file; write the files of {settings['sources']}")
        check_same("--sources", sha256(path), record.get("source_sha256", {}).get(name))
    device = resolve(arguments.device or ("cuda" if then.get("cuda") else "cpu"))
    progress = AttackProgress(f"{settings.get('attack', settings['method'])} again")
    with own_stream(device):
        _, verdicts = evaluate(
            networks.load_network(description, dataset, device),
            dataset.test_images,
            dataset.test_labels,
            settings,
            sources=[load_model(path, device) for path in sources],
            batch_size=record.get("batch_size"),
            progress=progress,
        )
    progress.close()
    return {name: tensor.numpy() for name, tensor in verdicts.items()}, records.environment(device)


class Place:
    """Where the files are that the record of an evaluation is of: results/evaluations/.../{attack}.json.

    Args:
        record (Path): the record.
        settings (dict): of its evaluation.
    """

    def __init__(self, record, settings):
        self.settings = settings
        parts = record.resolve().parts
        where = [index for index, part in enumerate(parts) if part == "evaluations"]
        self.cell = parts[where[-1] + 1 : -1] if where else ()  # experiment, activation, seed
        self.root = Path(*parts[: where[-1]]) if where else None

    def network(self, arguments, record):
        """The description of the network, see :func:`.networks.described`."""
        if arguments.model is not None:
            return networks.described(arguments)
        if "network" in record:
            return record["network"]
        return {"model": str(self._model(self._of_pipeline("--model")))}

    def data(self, record):
        """The data set as `--data` names it."""
        return (
            record.get("data")
            or self._of_pipeline("--data") / "data" / f"{self.settings['dataset']}.safetensors"
        )

    def sources(self):
        """The files of the networks that the attack crafts examples on."""
        names = self.settings.get("sources", [])
        return [self._model(self._of_pipeline("--sources"), activation=name) for name in names]

    def _of_pipeline(self, option):
        if self.root is None or len(self.cell) != 3:
            raise UserError(
                f"{option}: is needed, for the record says nothing of it and does not lie in "
                "results/evaluations/EXPERIMENT/ACTIVATION/SEED"
            )
        return self.root

    def _model(self, root, activation=None):
        experiment, own, seed = self.cell
        return root / "models" / experiment / (activation or own) / seed / "model.safetensors"


def check_same(option, found, recorded):
    """Checks that a file is the one that the record tells of.

    Raises:
        UserError: when it is another.
    """
    if found != recorded:
        raise UserError(
            f"{option}: another than the record tells of: its SHA-256 is {found}, the record's {recorded}"
        )


def compare(recorded, found):
    """The indices of the images whose verdict is another; distances up to rounding are the same."""
    import numpy

    if recorded.shape != found.shape:
        raise UserError(f"the record has {len(recorded)} verdicts, now there are {len(found)}")
    if recorded.dtype.kind == "f":
        return numpy.flatnonzero(~numpy.isclose(recorded, found, rtol=1e-3, equal_nan=True))
    return numpy.flatnonzero(recorded != found)


def in_words(name, recorded, found, different):
    """A line on one kind of verdicts."""
    count = f"{name}: {len(recorded):,} verdicts, {len(different):,} differ"
    if recorded.dtype.kind != "f":
        count += f" ({recorded.mean():.2%} then, {found.mean():.2%} now)"
    if not len(different):
        return count
    shown = ", ".join(map(str, different[:_SHOWN].tolist()))
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return f"{count}: images {shown}{more}"
