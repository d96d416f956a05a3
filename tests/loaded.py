"""The workflow's scripts, each in a process that has loaded no module of the library before."""

import atexit
import json
import runpy
import sys

from tests.forking import Server, serve
from tests.repository import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"


class Runner(Server):
    """Runs scripts, and tells what they load."""

    def __init__(self):
        super().__init__("tests.loaded")

    def run(self, log, script, *arguments):
        """The names of the library's modules that `script` has loaded when it ends."""
        code = self.ask(log, script=script, arguments=list(map(str, arguments)))
        assert code == 0, log.read_text()[-3000:]
        return set(json.loads(log.read_text().splitlines()[-1]))


def call(log, script, arguments):
    """What the forked process runs; the last line of its output lists the modules."""
    assert not of_the_library()
    atexit.register(lambda: print("", json.dumps(of_the_library()), sep="\n", flush=True))
    sys.path.insert(0, str(SCRIPTS))
    sys.argv = [str(SCRIPTS / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def of_the_library():
    return sorted(name for name in sys.modules if name.partition(".")[0] == "kafnets")


if __name__ == "__main__":
    import foolbox  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pyautoattack  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch  # noqa: F401

    serve(call)
