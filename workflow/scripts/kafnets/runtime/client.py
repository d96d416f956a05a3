"""A job handed to the process that computes the jobs of one GPU; without torch, so it starts at once.

The first job of a GPU starts that process (:mod:`.server`); the others, which reach it by a socket in a
folder of this user's own, join it. Only jobs that would run alike do: of the same Python, folder and
environment, so of the same job of SLURM too. The job stays a process: what it is told (signals) it passes on,
what its script writes goes to its own output, and it ends with its script's exit code. Should the other
process die, the job is its own again: it goes on by itself, from its checkpoint.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

from . import driver, locks

SCRIPTS = Path(__file__).resolve().parents[2]
LENGTH = struct.Struct("!Q")
ACCEPTED, REFUSED = b"+", b"-"
ATTEMPTS = 5  # to reach a process that accepts the job
# of a terminal or a shell; what they say changes nothing
_NOT_COMPARED = {"_", "SHLVL", "OLDPWD", "TERM", "COLUMNS", "LINES"}
_LAST_WORDS = 2000


def join(where, script, arguments):
    """Has a script run by the process that computes for `where`, and waits for its end.

    Args:
        where (str): "gpu", or "cpu": there is no gain in it, but everything else is the same.
        script (str): a file name in workflow/scripts.
        arguments (list of str): of its command line.

    Returns:
        int: its exit code; None when the job must run in a process of its own: there is no GPU, none accepts
        the job, or the one that did has died.
    """
    try:
        index, device = _place(where)
        folder = locks.private_folder()
    except (OSError, LookupError):
        return None
    name = _name(device)
    request = json.dumps({"script": script, "arguments": arguments}).encode()
    with _Signals() as signals:
        for _ in range(ATTEMPTS):
            try:
                connection = reach(folder, name, index)
            except OSError:
                break
            with connection:
                answer = _ask(connection, request, signals)
            if answer is None:
                print(
                    f"the process of several jobs that this one was in has died; it goes on by itself"
                    f"{_last_words(folder / f'{name}.log')}",
                    file=sys.stderr,
                    flush=True,
                )
                break
            if answer is not REFUSED:
                return answer
            if signals.received:
                break
        return 128 + signals.received[0] if signals.received else None


def _place(where):
    """The number of a GPU and its name; the place on it is this process's until it ends."""
    if where == "cpu":
        return -1, "cpu"
    names = driver.gpus()
    index = locks.claim(names) if len(names) > 1 else 0
    return index, names[index]


def _name(device):
    """Of the socket: the same for jobs of one device that run alike."""
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_COMPARED}
    facts = [device, sys.executable, str(SCRIPTS), os.getcwd(), sorted(variables.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def reach(folder, name, index):
    """A connection to the process of that name, which is started if there is none.

    Under a lock that a process takes, too, when it ends: who has a connection is heard.
    """
    with locks.locked(folder / f"{name}.lock"):
        try:
            return _connect(folder, name)
        except (FileNotFoundError, ConnectionRefusedError):  # what a killed one left refuses
            pass
        with _bound(folder, name) as listening:
            _start(listening, folder, name, index)
            return _connect(folder, name)


def _connect(folder, name):
    connection = socket.socket(socket.AF_UNIX)
    try:
        _within(folder, connection.connect, name)
    except OSError:
        connection.close()
        raise
    return connection


def _bound(folder, name):
    (folder / name).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    _within(folder, listening.bind, name)
    listening.listen(128)
    return listening


def _within(folder, call, name):
    """Calls with a short name for a file in `folder`: the path of a socket has 107 bytes at most."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        call(f"/proc/self/fd/{handle}/{name}")
    finally:
        os.close(handle)


def _start(listening, folder, name, index):
    """Starts the process. It is no child of this one, whose end and whose cost (benchmark) are its own."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.set_inheritable(listening.fileno(), True)
            script = str(SCRIPTS / "together.py")
            facts = [str(listening.fileno()), str(folder), name, str(index)]
            os.execv(sys.executable, [sys.executable, script, "serve", *facts])
    finally:
        os._exit(1)


def _ask(connection, request, signals):
    """The exit code of the job; REFUSED when it was not begun; None when the process died."""
    try:
        socket.send_fds(connection, [LENGTH.pack(len(request))], [1, 2])
        connection.sendall(request)
        if connection.recv(1) != ACCEPTED:
            return REFUSED
    except OSError:
        return REFUSED
    with signals.passed_on(connection):
        answer = b""
        while not answer.endswith(b"\n"):
            try:
                part = connection.recv(100)
            except OSError:
                part = b""
            if not part:
                return None
            answer += part
    return int(answer)


class _Signals:
    """SIGTERM and SIGINT, for the job; those that come before it has begun wait until then."""

    numbers = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self.received, self.connection = [], None
        self.previous = [signal.signal(number, self._receive) for number in self.numbers]
        return self

    def __exit__(self, *_):
        for number, handler in zip(self.numbers, self.previous, strict=True):
            signal.signal(number, handler)

    def _receive(self, number, _):
        self.received.append(number)
        self._send(number)

    def _send(self, number):
        if self.connection is not None:
            with contextlib.suppress(OSError):  # the job is at its end
                self.connection.sendall(b"%d\n" % number)

    @contextlib.contextmanager
    def passed_on(self, connection):
        self.connection = connection
        for number in self.received:
            self._send(number)
        try:
            yield
        finally:
            self.connection = None


def _last_words(log):
    try:
        words = log.read_text(errors="replace")[-_LAST_WORDS:].strip()
    except OSError:
        return ""
    return f". Its last words:\n{words}" if words else ""
