"""A job handed to the process that computes the jobs of one GPU; without torch, so it starts at once.

The first job of a GPU starts that process (:mod:`.server`); the others, which reach it by a socket in a
folder of this user's own, join it. Only jobs that would run alike do: of the same Python, folder,
environment and limits, so of the same job of SLURM too. The job stays a process: what it is told (signals) it
passes on, what its script writes goes to its own output, and it ends with its script's exit code. Should the
other process die, the job is its own again: it goes on by itself, from its checkpoint.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

from . import driver, locks

SCRIPTS = Path(__file__).resolve().parents[2]
LENGTH = struct.Struct("!Q")
ACCEPTED, REFUSED = b"+", b"-"
ATTEMPTS = 3  # to reach a process that accepts the job
PATIENCE = 600  # seconds for a process to accept the job: where it starts, it imports torch before
# Seconds for the main thread to sleep at most while it waits for an end. A signal that another thread
# receives, or that comes just before it falls asleep, is handled when it wakes: else when all is over.
WAKE = 0.5
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
    except LookupError:
        return None
    try:
        folder, name = locks.private_folder(), _name(device)
        with _Signals() as signals:
            code = _joined(folder, name, index, script, arguments, signals)
            return 128 + signals.received[0] if code is None and signals.received else code
    except Refused as reason:
        return _alone(reason)
    except OSError as error:
        return _alone(f"the process for several jobs cannot be reached or started: {error}")
    except Stopped as signal_number:
        return 128 + signal_number.args[0]


class Refused(Exception):
    """The job has not begun; says why."""


class Stopped(BaseException):
    """A signal came before the job had begun."""


def _joined(folder, name, index, script, arguments, signals):
    """The exit code; None when the process died."""
    request = json.dumps({"script": script, "arguments": arguments}).encode()
    for attempt in range(1, ATTEMPTS + 1):
        with reach(folder, name, index) as connection:
            try:
                _ask(connection, request)
            except Refused as reason:
                if attempt == ATTEMPTS:
                    raise Refused(f"{reason}{_last_words(folder / f'{name}.log')}") from None
                continue
            answer = _answer(connection, signals)
        if answer is not None:
            return answer
        return _alone(
            f"the process of several jobs that this one was in has died{_last_words(folder / f'{name}.log')}"
        )


def _alone(reason):
    """Says why, in the job's log: otherwise nobody would see why a GPU's jobs are slow."""
    first, _, words = str(reason).partition("\n")
    print(f"{first}; it goes on by itself", *filter(None, [words]), sep="\n", file=sys.stderr, flush=True)


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
    facts = [device, sys.executable, str(SCRIPTS), os.getcwd(), sorted(variables.items()), _limits()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _limits():
    """What a process has from who started it: group and mode of its files, cores, memory, file systems."""
    umask = os.umask(0o077)
    os.umask(umask)
    numbers = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
    facts = [os.getegid(), umask, *map(resource.getrlimit, numbers)]
    with contextlib.suppress(OSError, AttributeError):  # without them the others decide
        facts += [sorted(os.sched_getaffinity(0))]
        facts += [Path("/proc/self/cgroup").read_text(encoding="utf-8"), os.readlink("/proc/self/ns/mnt")]
    return facts


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
    try:
        # who may write to it has this user's rights: before it has a name, whatever the umask
        os.fchmod(listening.fileno(), 0o600)
        _within(folder, listening.bind, name)
        _within(folder, lambda path: os.chmod(path, 0o600), name)
        listening.listen(128)
    except OSError:
        listening.close()
        raise
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


def _ask(connection, request):
    """Returns when the job has been accepted.

    Raises:
        Refused: when it was not begun; without a reason where the process has ended, or is about to.
    """
    if peer(connection) != os.getuid():
        raise Refused("the process for several jobs is another user's")
    connection.settimeout(PATIENCE)
    try:
        socket.send_fds(connection, [LENGTH.pack(len(request))], [1, 2])
        connection.sendall(request)
        if connection.recv(1) == ACCEPTED:
            return
        reason = connection.recv(1000).decode(errors="replace")
    except TimeoutError:
        raise TimeoutError(f"no answer within {PATIENCE} s") from None
    except ConnectionError:
        reason = ""
    raise Refused(f"the process for several jobs does not take this one: {reason or 'it has ended'}")


def peer(connection):
    """The user whose process is at the other end."""
    kind = struct.Struct("3i")
    return kind.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, kind.size))[1]


def _answer(connection, signals):
    """The exit code of an accepted job; None when the process died."""
    connection.settimeout(WAKE)
    with signals.passed_on(connection):
        answer = b""
        while not answer.endswith(b"\n"):
            try:
                part = connection.recv(100)
            except TimeoutError:  # awake for a signal that did not wake it
                continue
            except OSError:
                part = b""
            if not part:
                break
            answer += part
    if answer.endswith(b"\n"):
        return int(answer)
    if signals.received:
        raise Stopped(signals.received[0])
    return None


class _Signals:
    """SIGTERM and SIGINT, for the job; before it has begun they end this process, as if it were the job."""

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
        if self.connection is None:
            raise Stopped(number)
        with contextlib.suppress(OSError):  # the job is at its end
            self.connection.sendall(b"%d\n" % number)

    @contextlib.contextmanager
    def passed_on(self, connection):
        self.connection = connection
        yield


def _last_words(log):
    try:
        words = log.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip()
    except OSError:
        return ""
    return f". Its last words:\n{words}" if words else ""
