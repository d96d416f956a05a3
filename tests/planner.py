"""Snakemake's command line as processes of their own that need not import it again."""

import json
import os
import signal
import subprocess
import sys

from tests.repository import ENVIRONMENT, ROOT


class Planner:
    """A process that has imported Snakemake and forks for each call."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.planner"],
            cwd=ROOT,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT / "workflow" / "scripts")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run(self, folder, log, *arguments):
        """The exit code of snakemake, called in `folder`, and its words, which the file `log` gathers."""
        command = ["--cores", "1", "--snakefile", ROOT / "Snakefile", *arguments]
        asked = {"folder": str(folder), "log": str(log), "arguments": list(map(str, command))}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, log.read_text(errors="replace")


def call(folder, log, arguments):
    """What the forked process runs."""
    from snakemake.cli import main

    signal.alarm(120)  # a call that hangs ends, and so does its test
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(words, 1)
    os.dup2(words, 2)
    os.chdir(folder)
    sys.argv = ["snakemake", *arguments]
    main(arguments)


def serve():
    import jsonschema  # noqa: F401
    import smart_open  # noqa: F401
    from snakemake.cli import get_argument_parser

    get_argument_parser()  # this imports the plugins
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
