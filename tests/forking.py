"""A process that has imported what is slow to import, and forks for each call."""

import atexit
import gc
import json
import os
import subprocess
import sys
import threading
import traceback

from tests.repository import ENVIRONMENT, ROOT


class Server:
    """Runs a module of the tests that calls :func:`serve`, within a `with` block.

    Args:
        module (str): its dotted name.
        **environment (str): variables that it gets beside the tests' own.
    """

    def __init__(self, module, **environment):
        self.module, self.environment = module, environment

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            cwd=ROOT,
            env={**ENVIRONMENT, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def ask(self, log, **request):
        """The exit code of a new process that handles `request`; the file `log` gathers its output."""
        self.process.stdin.write(json.dumps({"log": str(log), **request}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def serve(call):
    """Handles each request by `call(log=..., **request)` in a forked process, until there are no more."""
    gc.freeze()  # what is imported is not looked through again, and its pages stay shared
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_answer(call, json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _answer(call, request):
    """The exit code of a call. The process ends without taking apart all that was imported."""
    output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 0
    try:
        call(**request)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
