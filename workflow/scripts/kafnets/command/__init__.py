"""The library as a command: `kafnets evaluate`, `certify`, `verify`, `table`, `list`, `download`, `export`.

Each is a module with `options`, which adds its own to a parser, and `run`, which does it and may return an
exit code. They call the functions that the workflow's scripts call.
"""

import argparse
import importlib

from ..runtime import cli

# name: (module, what it does in one line)
COMMANDS = {
    "evaluate": ("judging", "judge a network by attacks: a record, and a verdict for each image"),
    "certify": ("certifying", "prove radii within which a network's answers cannot change"),
    "verify": ("verifying", "run the attack of a record again and compare the verdicts, image by image"),
    "table": ("printing", "print records, or the tables of a folder of results"),
    "list": ("listing", "print the names of attacks, activations, networks, ..."),
    "download": ("downloading", "fetch networks and data sets, each verified by its checksum"),
    "export": ("exporting", "write a network as ONNX or as a program of torch.export"),
}


def run():
    """The console script."""
    cli.run(main)


def main(arguments=None):
    """Parses a command line (default: the process's) and does what it says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="kafnets",
        description="Robustness of networks, with records that can be verified.",
    )
    version = importlib.import_module(__name__.partition(".")[0]).__version__
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, what) in COMMANDS.items():
        module = importlib.import_module(f"{__name__}.{module}")
        own = commands.add_parser(
            name,
            help=what,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.options(own)
        own.set_defaults(run=module.run)
    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)
