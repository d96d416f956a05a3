"""The process that computes the jobs of one GPU: each a thread, in turns (:mod:`.turns`).

A job is a script of the workflow with the arguments, the output and the signals of the process that asks for
it (:mod:`.client`). What is wrong with one, be it not enough memory, ends that one. When a job leaves the GPU
itself unusable, all end there, and the others go on by themselves.
"""

import contextlib
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import struct
import sys
import sysconfig
import threading
import time
import traceback
from pathlib import Path

import torch

from . import cli, client, locks
from .device import resolve, settle
from .side_by_side import fresh, keep, stopping
from .turns import Turns

LINGER = 5.0  # seconds without a job after which the process ends: the next job is often about to start
PATIENCE = 10.0  # seconds for a client to say what it wants
GRACE = 30.0  # seconds for Python to end; a thread that a job has left would hold the GPU for ever


def serve(listening, folder, name, index):
    """Accepts jobs until none has come for a while.

    Args:
        listening (int): the open socket.
        folder (Path), name (str): where it is.
        index (int): of the GPU; -1 for the CPU.
    """
    sys.stdout, sys.stderr = Routed(sys.stdout), Routed(sys.stderr)
    if index >= 0:
        settle(index)
        torch.cuda.init()
    os.set_inheritable(listening, False)
    server = Server(socket.socket(fileno=listening), Path(folder) / name)
    accepting = server.accepting
    os.register_at_fork(
        before=accepting.acquire, after_in_parent=accepting.release, after_in_child=server.let_go
    )
    with stopping(server.stop):
        server.run()
    end = threading.Timer(GRACE, os._exit, [0])
    end.daemon = True
    end.start()


class Server:
    """The jobs and their connections; `door` is the path of the listening socket."""

    def __init__(self, listening, door):
        self.listening, self.door = listening, door
        self.own_door = os.stat(door)
        self.turns = Turns(keep, fresh)
        self.sources = Sources()
        self.selector = selectors.DefaultSelector()
        self.selector.register(listening, selectors.EVENT_READ)
        self.woken, self.wake = os.pipe()
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.connections = {}  # and their jobs; None until it has begun
        self.accepting = threading.Lock()  # a job that forks waits until a new connection is among them
        self.ended = []  # jobs and their exit codes, as their threads find them
        self.open, self.stopped = True, False

    def stop(self, signal_number):
        """Ends all jobs, their state saved, and then the process."""
        self.stopped = True
        self.turns.stop(signal_number)

    def let_go(self):
        """In a process that a job forks: held there, the sockets would tell nobody that this one has died."""
        for held in (self.listening, *tuple(self.connections)):
            with contextlib.suppress(OSError):
                held.close()

    def run(self):
        idle = time.monotonic()
        while self.open or self.connections:
            for key, _ in self.selector.select(1.0):
                if key.fileobj is self.listening:
                    self._accept()
                elif key.fileobj == self.woken:
                    os.read(self.woken, 1000)
                else:
                    self._hear(key.fileobj)
            self._settle()
            if self.connections:
                idle = time.monotonic()
            if self.open and (self.stopped or time.monotonic() - idle > LINGER):
                self._close()

    def _accept(self):
        with contextlib.ExitStack() as refused:
            try:
                connection = self._next()
                refused.callback(self._leave, connection)
                request, handles = self._request(connection, refused)
                if reason := self._why_not():
                    self._close()  # before it asks again: it shall find another
                    connection.sendall(client.REFUSED + reason.encode(errors="replace"))
                    return
                connection.sendall(client.ACCEPTED)
                connection.settimeout(None)
            except (OSError, ValueError, struct.error):  # it is gone, or none of ours
                return
            refused.pop_all()
        self.selector.register(connection, selectors.EVENT_READ)
        job = self.turns.start(lambda: self._work(connection, request, handles))
        self.connections[connection] = job

    def _next(self):
        with self.accepting:
            connection, _ = self.listening.accept()
            self.connections[connection] = None
        return connection

    def _leave(self, connection):
        connection.close()
        del self.connections[connection]

    def _request(self, connection, refused):
        """What a client wants, and its two outputs, which `refused` closes."""
        if client.peer(connection) != os.getuid():
            raise PermissionError
        connection.settimeout(PATIENCE)
        header, handles, _, _ = socket.recv_fds(connection, client.LENGTH.size, 2)
        for handle in handles:
            refused.callback(os.close, handle)
            os.set_inheritable(handle, False)
        if len(handles) != 2:
            raise ValueError
        (length,) = client.LENGTH.unpack(header)
        return json.loads(_exactly(connection, length)), handles

    def _why_not(self):
        """Why no job is accepted any more, or None."""
        if self.stopped:
            return "it has been told to stop"
        changed = self.sources.changed()
        return changed and f"{changed} is not what it was when that process began"

    def _work(self, connection, request, handles):
        """What a job's thread does."""
        code = 1
        try:
            if torch.cuda.is_initialized():
                resolve("cuda")  # makes it this thread's
            code = run_script(request, handles)
            _free_memory()
        except BaseException:  # the GPU answers no more, or the like
            with contextlib.suppress(OSError):  # its disk is full
                traceback.print_exc(file=sys.__stderr__)
            self._tell(connection, code)
            os._exit(1)
        self.ended.append((connection, code))
        os.write(self.wake, b".")

    def _hear(self, connection):
        """A signal for a job; or its client was killed, and nobody waits for it any more."""
        try:
            words = connection.recv(100)
        except OSError:
            words = b""
        job = self.connections[connection]
        if words:
            job.stopped = int(words.split()[-1])
        else:
            job.stopped = signal.SIGTERM
            self.selector.unregister(connection)

    def _settle(self):
        """Tells the clients of ended jobs."""
        while self.ended:
            connection, code = self.ended.pop()
            self._tell(connection, code)
            if connection in self.selector.get_map():
                self.selector.unregister(connection)
            self._leave(connection)

    def _tell(self, connection, code):
        with contextlib.suppress(OSError):  # it was killed
            connection.sendall(b"%d\n" % code)

    def _close(self):
        """Accepts no more; who came before is heard. See :func:`.client.reach`."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # the folder was tidied away: nobody comes any more
                held.enter_context(locks.locked(self.door.with_name(f"{self.door.name}.lock")))
            self.listening.setblocking(False)
            try:
                while True:
                    self._leave(self._next())  # it asks again
            except BlockingIOError:
                pass
            if self._has_its_door():
                for left in ("", ".log", ".lock"):
                    self.door.with_name(f"{self.door.name}{left}").unlink(missing_ok=True)
            self.selector.unregister(self.listening)
            self.listening.close()
        self.open = False

    def _has_its_door(self):
        """Whether nobody has tidied it away, and another process made its own there."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.door), self.own_door)
        return False


def _exactly(connection, length):
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:
            raise ConnectionResetError
        parts += part
    return parts


def run_script(request, handles):
    """Runs a script as `python script arguments` would; its exit code."""
    path = client.SCRIPTS / Path(request["script"]).name
    with sys.stdout.to(handles[0]), sys.stderr.to(handles[1]):
        sys.argv = [str(path), *request["arguments"]]
        try:
            # a module of its own for each job, which no other job finds
            specification = importlib.util.spec_from_file_location(path.stem, path)
            script = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(script)
            cli.run(script.main)
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def _free_memory():
    """Gives the memory of a job that has ended to the others; an error when the GPU answers no more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


class Sources:
    """The files of the scripts and of all that is loaded: no job may run what they were before."""

    def __init__(self):
        self.started, self.known = time.time(), {}

    def changed(self):
        """One that is no longer what it was when this process began, or None."""
        for file in _sources():
            try:
                found = os.stat(file)
            except OSError:
                return file
            facts = found.st_mtime_ns, found.st_size
            if found.st_mtime > self.started or self.known.setdefault(file, facts) != facts:
                return file
        return None


def _sources():
    """Without those of packages and of Python, which nobody edits; the user's own modules are among them."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    # torch gives modules without a file a name that is no path
    edited = {file for file in loaded if file and os.path.isabs(file) and "site-packages" not in file}
    edited = {file for file in edited if not file.startswith(_INSTALLED)}
    return edited | {str(path) for path in client.SCRIPTS.rglob("*.*") if path.parent.name != "__pycache__"}


_INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))


class Routed:
    """A standard stream that is another one for each thread: that of the job that it works for."""

    def __init__(self, own):
        self._own, self._here = own, threading.local()

    def __getattr__(self, name):
        return getattr(getattr(self._here, "stream", self._own), name)

    @contextlib.contextmanager
    def to(self, handle):
        """Within the block this thread writes to an open file, which is closed at its end."""
        stream = os.fdopen(handle, "w", 1, self._own.encoding, "backslashreplace")
        self._here.stream = stream
        try:
            yield
        finally:
            del self._here.stream
            with contextlib.suppress(OSError):  # its disk is full, which the script has met with itself
                stream.close()
