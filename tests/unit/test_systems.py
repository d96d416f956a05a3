"""On systems other than Unix the library imports and works; what needs Unix is named."""

import ast
import subprocess
import sys

import pytest

from tests.imports import SCRIPTS
from tests.repository import ENVIRONMENT, ROOT

LIBRARY = SCRIPTS / "kafnets"
UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
# Of the pipeline: jobs that share a process, and results packed for another machine. README.md says POSIX.
POSIX_ONLY = {"runtime/client.py", "runtime/server.py", "pipeline/carrying.py"}


def unguarded(source):
    """The modules of Unix alone that importing a file imports, outside of `try`."""
    waiting = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Try | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from ({alias.name.partition(".")[0] for alias in node.names} & UNIX)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from {node.module.partition(".")[0]} & UNIX
        waiting += ast.iter_child_nodes(node)


def test_imports_that_only_unix_has_are_guarded():
    found = {
        path.relative_to(LIBRARY).as_posix(): set(unguarded(path.read_text(encoding="utf-8")))
        for path in LIBRARY.rglob("*.py")
    }
    assert {name for name, modules in found.items() if modules} <= POSIX_ONLY
    assert found.keys() >= POSIX_ONLY


@pytest.mark.parametrize(
    "source", ["import fcntl", "from resource import getrusage", "if x:\n    import pwd"]
)
def test_an_unguarded_import_is_seen(source):
    assert list(unguarded(source))
    assert not list(unguarded("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None\n"))


# torch and NumPy first, which have code of their own for each system; then as where there is no Unix
ELSEWHERE = """
import os, select, signal, socket, sys, tempfile
import numpy, safetensors.torch, torch, tqdm, yaml

ABSENT = {
    os: "fork getuid geteuid getegid O_NOFOLLOW O_DIRECTORY pread sched_getaffinity setsid killpg",
    signal: "SIGPIPE SIGALRM SIGHUP alarm",
    select: "poll",
    socket: "AF_UNIX send_fds recv_fds",
}
for module, names in ABSENT.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in sys.argv[1].split():
    sys.modules[name] = None

import kafnets
from kafnets import activations, attacks, data, evaluation, models, training
from kafnets.activations.kaf import functional
from kafnets.data import download
from kafnets.runtime import checkpoint, cli, compiled, device, files, interruption, locks, records
from kafnets.training import run

os.chdir(tempfile.mkdtemp(dir=sys.argv[2]))
torch.manual_seed(0)
model = kafnets.create_model("resnet8", activation="kaf").eval()
kafnets.save_model(model, "model.safetensors")
kafnets.save_model(model, "model.safetensors")  # in the old one's place
again = kafnets.load_model("model.safetensors").eval()
images, labels = torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
assert torch.equal(model(images), again(images))
result = kafnets.attacks.pgd(again, images, labels, eps=8/255, step=2/255, iterations=2, restarts=1)
assert (result.adversarial - images).abs().max() <= 8 / 255 + 1e-6
assert os.listdir() == ["model.safetensors"]
assert records.peak_memory_bytes(torch.device("cpu")) is None
assert locks.claim(["one", "other"]) in (0, 1)
with files.alone("record.json") as waited:
    assert not waited
assert device.resolve("cpu").type == "cpu"
"""


def test_without_unix_the_library_works(tmp_path):
    command = [sys.executable, "-c", ELSEWHERE, " ".join(sorted(UNIX)), tmp_path]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "record.lock: cannot be locked" in done.stderr


def test_the_first_lines_say_what_needs_unix():
    head = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is known so far")[0]
    assert "POSIX" in head and "Windows" in head
