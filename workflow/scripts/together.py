"""Runs a script of this folder in the process that computes all jobs of one GPU, or in one of its own.

    python workflow/scripts/together.py gpu train.py --settings run.yaml ...

Called for several networks at the same time it trains them in one process, in turns: a small network leaves
most of a GPU idle. To its caller it is the script itself: output, signals and exit code are the script's, and
so are its files, bit for bit. The first word says where:

    gpu    in the GPU's process; without a GPU in a process of its own
    cpu    in one process for all such jobs of this machine (to try it: nothing is gained)
    none   in a process of its own
"""

import os
import sys

from kafnets.runtime.client import SCRIPTS, join

WHERE = ("gpu", "cpu", "none")


def main():
    where, script, *arguments = sys.argv[1:] if len(sys.argv) > 2 else ("?", "?")
    if where == "serve":  # as kafnets.runtime.client starts it
        from kafnets.runtime.server import serve

        folder, name, index = arguments
        return serve(int(script), folder, name, int(index))
    if where not in WHERE or not (SCRIPTS / script).is_file() or os.path.basename(script) != script:
        sys.exit(f"error: write {', '.join(WHERE[:-1])} or {WHERE[-1]}, a script of {SCRIPTS}, its arguments")
    code = None if where == "none" else join(where, script, arguments)
    if code is None:
        os.execv(sys.executable, [sys.executable, str(SCRIPTS / script), *arguments])
    return code


if __name__ == "__main__":
    sys.exit(main())
