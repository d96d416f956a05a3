"""Prints the names that configurations and commands know, with what they are called in print."""

from .. import registry
from ..model_zoo import index

TABLES = {
    "attacks": registry.ATTACKS,
    "certificates": registry.CERTIFICATES,
    "methods": registry.ADVERSARIES,
    "activations": registry.ACTIVATIONS,
    "architectures": registry.ARCHITECTURES,
    "datasets": registry.DATASETS,
    "penalties": registry.PENALTIES,
}


def options(parser):
    parser.add_argument(
        "what",
        choices=(*TABLES, "models"),
        help="attacks, certificates, methods of training, activations, architectures, data sets, "
        "penalties; models: trained networks that are known by name",
    )


def run(arguments):
    rows = list(models() if arguments.what == "models" else entries(TABLES[arguments.what]))
    width = max(len(name) for name, _ in rows)
    for name, said in rows:
        print(f"{name.ljust(width)}  {said}".rstrip())


def entries(table):
    """(name, what it is called and which settings it takes) of the entries of a table."""
    for name, entry in table.items():
        settings = ", ".join(entry.schemas())
        yield name, f"{entry.label or name}{f'  ({settings})' if settings else ''}"


def models():
    """(name, what it is and how it fared) of the networks of the index."""
    for name, entry in index().items():
        said = "; ".join(
            f"{one['robust']:.2%} under {one['attack']} (eps {one['eps']}, {one['examples']:,} images)"
            for one in entry["evaluations"]
        )
        yield name, f"{entry['architecture']}, {entry['activation']}, {entry['dataset']}: {said}"
