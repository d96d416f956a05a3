"""Snakemake's command line as processes of their own that need not import it again."""

import os
import signal
import sys

from tests.forking import Server, serve
from tests.repository import ROOT


class Planner(Server):
    """Calls of snakemake, each in a process of its own: plans, refusals, a job or two."""

    def __init__(self):
        super().__init__("tests.planner")

    def run(self, folder, log, *arguments):
        """The exit code of snakemake, called in `folder`, and its words, which the file `log` gathers.

        Of the workflow in `folder`, or where there is none of that of this repository.
        """
        here = (folder / "Snakefile").exists() or "--snakefile" in arguments
        command = ["--cores", "1", *([] if here else ["--snakefile", ROOT / "Snakefile"]), *arguments]
        code = self.ask(folder=str(folder), log=str(log), arguments=list(map(str, command)))
        return code, log.read_text(errors="replace")


def call(folder, log, arguments):
    """What the forked process runs."""
    from snakemake.cli import main

    assert not any(name.partition(".")[0] == "kafnets" for name in sys.modules), "of another copy than that"
    signal.alarm(120)  # a call that hangs ends, and so does its test
    os.chdir(folder)
    sys.argv = ["snakemake", *arguments]
    main(arguments)


if __name__ == "__main__":
    import jsonschema  # noqa: F401
    import smart_open  # noqa: F401
    from snakemake.cli import get_argument_parser

    get_argument_parser()  # this imports the plugins
    serve(call)
