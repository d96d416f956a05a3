"""Hostile places, visitors and moments for the process of several jobs: nobody hangs, nobody else gets in."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time

import pytest
from kafnets.runtime import client, locks, server

from tests.faults.test_together import forked
from tests.scripts import until

HELLO = "import sys\nprint('hello', *sys.argv[1:])\nsys.exit(7)\n"


@pytest.fixture
def scripts(tmp_path):
    """A folder with a train.py that says hello, not edited lately."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    write(folder, HELLO)
    return folder


def write(folder, code):
    (folder / "train.py").write_text(code)
    os.utime(folder / "train.py", (1e9, 1e9))


@pytest.fixture
def place(tmp_path, scripts, monkeypatch):
    """The folder for the sockets, whose path is longer than a socket's may be; the scripts stand for ours."""
    temporary = tmp_path / ("long" * 40)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(client, "SCRIPTS", scripts)
    return temporary


@pytest.fixture
def start(capfd, monkeypatch):
    """Starts the process's loop as a thread, as often as clients do; what was started."""
    started = []

    def run(listening, folder, name, index):
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(server.sys, stream, server.Routed(getattr(server.sys, stream)))
        host = server.Server(listening.dup(), folder / name)
        host.sources.started += 1000  # whatever another test has just written
        thread = threading.Thread(target=host.run, daemon=True)
        thread.start()
        started.append((host, thread))

    monkeypatch.setattr(client, "_start", run)
    monkeypatch.setattr(server, "LINGER", 0.5)
    yield started
    for host, _ in started:
        host.stop(signal.SIGTERM)
    for _, thread in started:
        thread.join(20)
        assert not thread.is_alive()


def test_a_job_in_a_folder_with_a_long_path(place, start, capfd):
    assert client.join("cpu", "train.py", ["you", "\udcff"]) == 7
    assert capfd.readouterr() == ("hello you \\udcff\n", "")


def a_file(folder):
    folder.write_text("")


def another_users(folder):
    if os.geteuid() != 0:
        pytest.skip("giving a folder to another user needs root")
    folder.mkdir()
    os.chown(folder, 12345, -1)


def for_all(folder):
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(a_file, "File exists"), (another_users, "not this user's own"), (for_all, "not this user's own")],
)
def test_a_folder_that_is_not_ones_own(place, capfd, make, reason):
    make(place / f"kafnets-gpus-{os.getuid()}")
    assert client.join("cpu", "train.py", []) is None
    (line,) = capfd.readouterr().err.splitlines()
    assert reason in line and line.endswith("; it goes on by itself")


def test_a_refusal_says_why(place, start, capfd, monkeypatch):
    """The log has the file whose date does not fit, once, though several processes were asked."""
    os.utime(client.SCRIPTS / "train.py", (9e9, 9e9))
    assert client.join("cpu", "train.py", []) is None
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{client.SCRIPTS / 'train.py'} is not what it was" in line and len(start) == client.ATTEMPTS
    monkeypatch.setattr(client, "_start", lambda *_: None)
    until(lambda: not start[-1][1].is_alive(), 20)
    assert client.join("cpu", "train.py", []) is None
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot be reached or started" in line or "has ended" in line


def test_who_says_nothing_or_nonsense_harms_no_other(place, start, capfd):
    """A client that is killed before it has said what it wants, above all."""
    folder, name = locks.private_folder(), client._name("cpu")
    words = [b"", b"abc", b"\0" * 7 + b"\3abc", b"\0" * 7 + b"\3"]
    for sent, handles in [(one, [1, 2]) for one in words] + [(b"\0" * 7 + b"\2{}", [1])]:
        with client.reach(folder, name, -1) as visitor, contextlib.suppress(ConnectionError):
            visitor.settimeout(20)
            if sent:
                socket.send_fds(visitor, [sent[:8]], handles)
                visitor.sendall(sent[8:])
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(1) == b""
    held = len(os.listdir("/proc/self/fd"))
    assert client.join("cpu", "train.py", []) == 7
    assert len(start) == 1 and "hello" in capfd.readouterr().out
    until(lambda: len(os.listdir("/proc/self/fd")) <= held, 20)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_nobody_else_may_write_to_the_socket(place, umask):
    folder = locks.private_folder()
    before = os.umask(umask)
    try:
        with client._bound(folder, "door"):
            assert stat.S_IMODE((folder / "door").stat().st_mode) == 0o600
            with client._connect(folder, "door") as connection:
                assert client.peer(connection) == os.getuid()
    finally:
        os.umask(before)


def test_another_users_words_are_not_read(place, start, monkeypatch, capfd):
    """Root's, say, who can write to every socket."""
    monkeypatch.setattr(server.os, "getuid", lambda: 12345, raising=True)
    folder = place / "own"
    folder.mkdir()
    with pytest.raises(client.Refused), client.reach(folder, "door", -1) as connection:
        monkeypatch.setattr(client.os, "getuid", lambda: 12345)
        client._ask(connection, json.dumps({"script": "train.py", "arguments": []}).encode())
    monkeypatch.undo()


def test_only_jobs_that_run_alike_are_together(monkeypatch):
    name = client._name("cpu")
    monkeypatch.setenv("TERM", "another")
    assert client._name("cpu") == name != client._name("another GPU")
    for variable in ("CUDA_VISIBLE_DEVICES", "PYTHONPATH", "SLURM_JOB_ID"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "7")
            assert client._name("cpu") != name, variable
    umask = os.umask(0o027)
    try:
        assert client._name("cpu") != name
    finally:
        os.umask(umask)
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, {min(cores)})
        try:
            assert client._name("cpu") != name
        finally:
            os.sched_setaffinity(0, cores)
    assert client._name("cpu") == name


def test_a_door_that_was_tidied_away_and_made_again_is_the_others(place):
    folder = locks.private_folder()
    first = server.Server(client._bound(folder, "door"), folder / "door")
    (folder / "door").unlink()
    second = server.Server(client._bound(folder, "door"), folder / "door")
    first._close()
    client._connect(folder, "door").close()
    second._close()
    assert not list(folder.iterdir())
    third = server.Server(client._bound(folder, "door"), folder / "door")
    shutil.rmtree(folder)
    third._close()
    assert not third.open


def in_a_process(temporary, scripts, start, log):
    """A client in a process of its own, of a script that stands in `scripts`."""
    tempfile.tempdir, client.SCRIPTS, client._start = temporary, scripts, start
    words = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(words, 2)
    code = client.join("cpu", "train.py", [])
    os._exit(99 if code is None else code)


def kept_open(listening, *_):
    """In the place of `client._start`: nobody ever accepts."""
    kept_open.socket = listening.dup()


def test_a_signal_before_the_job_has_begun_ends_it(scripts, context, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    process = context.Process(target=in_a_process, args=(str(place), scripts, kept_open, tmp_path / "log"))
    process.start()
    until(lambda: any(path.is_socket() for path in place.rglob("*")), 60)
    time.sleep(0.3)  # it waits for an answer
    process.terminate()
    process.join(20)
    assert process.exitcode == 128 + signal.SIGTERM


def forked_and_late(*arguments):
    """The job forks before the process has noted that it began."""
    start = server.Turns.start

    def late(turns, work):
        job = start(turns, work)
        time.sleep(0.5)
        return job

    server.Turns.start = late
    forked(*arguments)


@pytest.mark.parametrize("begun", [forked, forked_and_late])
def test_the_death_of_a_process_is_heard_though_a_child_of_it_lives(scripts, context, tmp_path, begun):
    """The job forks, as a data loader's workers do, and kills the process that it is in."""
    child = tmp_path / "child"
    write(
        scripts,
        "import os, pathlib, signal, time\n"
        "if pid := os.fork():\n"
        f"    pathlib.Path({str(child)!r}).write_text(str(pid))\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(600)\n",
    )
    place, log = tmp_path / "place", tmp_path / "log"
    place.mkdir()
    process = context.Process(target=in_a_process, args=(str(place), scripts, begun, log))
    process.start()
    process.join(60)
    with contextlib.suppress(OSError):
        os.kill(int(child.read_text()), signal.SIGKILL)
    assert process.exitcode == 99, log.read_text()
    assert "has died; it goes on by itself" in log.read_text()


def left_behind(listening, folder):
    server.LINGER, server.GRACE = 0.1, 0.5
    threading.Thread(target=time.sleep, args=(600,)).start()  # of a job's library, say
    server.serve(listening.detach(), folder, "door", -1)


def test_a_thread_that_a_job_has_left_does_not_keep_the_process(context, tmp_path):
    with client._bound(tmp_path, "door") as listening:
        process = context.Process(target=left_behind, args=(listening, tmp_path))
        process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_signal_that_wakes_nobody_is_passed_on():
    """One that another thread receives; one that comes just before the job begins to wait is as silent."""
    job, host = socket.socketpair()
    heard = []

    def work():
        time.sleep(1)  # until it waits
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        host.settimeout(20)
        with contextlib.suppress(TimeoutError):
            heard.append(host.recv(100))
        host.sendall(b"143\n")

    thread = threading.Thread(target=work)
    with job, host, client._Signals() as signals:
        with signals.passed_on(job):
            thread.start()
        assert client._answer(job, signals) == 143
        thread.join()
    assert heard == [b"15\n"]
