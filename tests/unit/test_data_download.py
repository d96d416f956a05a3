"""Downloads against a local server that misbehaves in every way a real one may."""

import contextlib
import fcntl
import functools
import hashlib
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import download_cifar10
import download_published
import pytest
import yaml
from kafnets.data.download import ORIGINS, DownloadError, _Failure, _origin, _Progress, _SameHost, download
from kafnets.runtime import cli
from kafnets.runtime.errors import UserError
from torchvision.datasets import CIFAR10

CONTENT = random.Random(0).randbytes(300_000)
CHECKSUMS = {"md5": hashlib.md5(CONTENT).hexdigest(), "sha256": hashlib.sha256(CONTENT).hexdigest()}
QUICK = {"timeout": 10, "backoff": 0.01}
NAME = "cifar-10-python.tar.gz"


class Server(ThreadingHTTPServer):
    """Answers each request by the next of its `answers`; the last one stays."""

    daemon_threads = True

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.ranges = []
        self.closing = threading.Event()
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.origin}/{NAME}"

    def __exit__(self, *error):
        self.closing.set()
        self.shutdown()
        super().__exit__(*error)

    def handle_error(self, request, address):
        pass  # a client that hangs up is part of the tests


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        answer(self)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(*answers):
    server = Server(*answers)
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server


# answers ----------------------------------------------------------------------------------------------------


def begin(handler, content, status=200, **headers):
    handler.send_response(status)
    for name, value in {"Content_Length": len(content), **headers}.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def rest(handler, content=CONTENT):
    """Starts the answer to a range request (or to a plain one) and returns what is to be sent."""
    asked = handler.headers.get("Range")
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    part = content[start:]
    if asked:
        begin(handler, part, 206, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        begin(handler, part)
    return part


def whole(handler):
    handler.wfile.write(rest(handler))


def whole_without_ranges(handler):
    begin(handler, CONTENT)
    handler.wfile.write(CONTENT)


def drop_after(count, ranges=True):
    """The connection ends after `count` bytes of what was announced."""

    def answer(handler):
        if ranges:
            part = rest(handler)
        else:
            begin(handler, CONTENT)
            part = CONTENT
        handler.wfile.write(part[:count])

    answer.__name__ = f"drop_after_{count}{'' if ranges else '_without_ranges'}"
    return answer


def stall_after(count):
    def answer(handler):
        handler.wfile.write(rest(handler)[:count])
        handler.wfile.flush()
        handler.server.closing.wait(20)

    answer.__name__ = f"stall_after_{count}"
    return answer


def never_answer(handler):
    handler.server.closing.wait(20)


def trickle(handler):
    """A byte now and then: never silent, never done."""
    for byte in rest(handler):
        handler.wfile.write(bytes([byte]))
        if handler.server.closing.wait(0.1):
            return


def status(code, content=b"", **headers):
    def answer(handler):
        begin(handler, content, code, **headers)
        handler.wfile.write(content)

    answer.__name__ = f"status_{code}_{len(content)}_bytes"  # names the test
    return answer


def other(content, **headers):
    return status(200, content, **headers)


def chunked(handler):
    begin(handler, CONTENT, Content_Length=None, Transfer_Encoding="chunked", Connection="close")
    handler.wfile.write(CONTENT)  # not the chunks it announces


def without_length(handler):
    begin(handler, CONTENT, Content_Length=None)
    handler.wfile.write(CONTENT)


def hang_up(handler):
    handler.connection.close()


def nonsense(handler):
    handler.wfile.write(b"220 ftp.example ready\r\n")


WRONG = bytes(len(CONTENT))
HTML = other(b"<html>maintenance</html>", Content_Type="text/html; charset=utf-8")


# the tests --------------------------------------------------------------------------------------------------


def patience(fault):
    """Time-outs are short only where a test waits for one: on a busy machine good answers take their time."""
    return 0.5 if fault.__name__.startswith(("stall", "never", "trickle")) else 10


def fetch(server, path, **settings):
    settings = {
        "size": len(CONTENT),
        "checksums": CHECKSUMS,
        "origins": (server.origin,),
        **QUICK,
        **settings,
    }
    download(server.url, path, **settings)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "raw" / NAME


def assert_whole(path):
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]


def test_a_good_server_is_asked_once(path, capsys):
    with serving(whole) as server:
        fetch(server, path)
        assert_whole(path)
        fetch(server, path)
        assert server.ranges == [None]
    assert f"{NAME}: 0.3 of 0.3 MB, 100%, 0:00 min left\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fault",
    [
        status(404, b"not found"),
        status(403),
        status(429),
        status(500, b"<html>oops</html>", Content_Type="text/html"),
        status(503),
        status(204),
        HTML,
        other(b"short"),
        other(WRONG),
        other(CONTENT + b"more"),
        chunked,
        hang_up,
        nonsense,
        never_answer,
        drop_after(0),
        drop_after(100_000),
        drop_after(299_999),
        drop_after(100_000, ranges=False),
        stall_after(0),
        stall_after(100_000),
        trickle,
    ],
)
@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_a_server_that_recovers(path, capsys, fault):
    with serving(fault, whole) as server:
        fetch(server, path, timeout=patience(fault))
    assert_whole(path)
    assert len(server.ranges) == 2
    assert "trying again in 0.01 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(404), "the server answers 404 Not Found"),
        (status(500), "the server answers 500 Internal Server Error"),
        (HTML, "web page"),
        (other(b"short"), "offers 5 bytes"),
        (other(CONTENT + b"more"), "offers 300004 bytes"),
        (other(CONTENT + b"more", Content_Length=None), "sends more than the 300000 bytes"),
        (other(CONTENT[:-1], Content_Length=None), "ended after 0.3 of 0.3 MB"),
        (other(WRONG), "another checksum"),
        (other(WRONG, Content_Length=None), "another checksum"),
        (hang_up, "the connection failed"),
        (nonsense, "the connection failed"),
        (never_answer, "sent nothing for 0.5 s"),
        (trickle, "bytes in 0.5 s"),
        (drop_after(0), "ended after 0.0 of 0.3 MB"),
        (stall_after(0), "sent nothing for 0.5 s"),
        (status(302, Location="http://localhost:1/x"), "another host or scheme"),
        (status(302, Location="file:///etc/passwd"), "not allowed"),
        (status(206, CONTENT), "another part"),
    ],
)
@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_a_server_that_does_not_recover(path, fault, reason):
    with serving(fault) as server:
        with pytest.raises(DownloadError, match=reason) as caught:
            fetch(server, path, attempts=3, timeout=patience(fault))
        assert len(server.ranges) <= 3
        assert server.url in str(caught.value)
    assert not path.exists()


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_a_wrong_file_leaves_nothing_and_is_fetched_no_third_time(path):
    with serving(other(WRONG)) as server:
        with pytest.raises(DownloadError, match="another checksum"):
            fetch(server, path)
        assert len(server.ranges) == 2
    assert list(path.parent.iterdir()) == []


def test_waits_double(path, capsys):
    with serving(status(500)) as server, pytest.raises(DownloadError, match="the last of 4 attempts"):
        fetch(server, path, attempts=4)
    waits = [line.split()[-2] for line in capsys.readouterr().err.splitlines()]
    assert waits == ["0.01", "0.02", "0.04"]


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_resumed_where_the_server_allows(path):
    with serving(drop_after(100_000), drop_after(50_000), whole) as server:
        fetch(server, path)
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert_whole(path)


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_started_again_where_it_does_not(path):
    with serving(
        drop_after(100_000, ranges=False), drop_after(50_000, ranges=False), whole_without_ranges
    ) as (server):
        fetch(server, path)
    assert server.ranges == [None, "bytes=100000-", "bytes=50000-"]
    assert_whole(path)


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_a_line_that_drops_often_gets_there(path):
    with serving(drop_after(20_000)) as server:
        fetch(server, path, attempts=2)
    assert len(server.ranges) == 15
    assert_whole(path)


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_a_server_that_never_gets_further_is_left(path):
    with serving(drop_after(100_000, ranges=False)) as server, pytest.raises(DownloadError):
        fetch(server, path, attempts=3)
    assert len(server.ranges) == 3


def test_the_next_call_resumes(path):
    with serving(drop_after(100_000), status(500), whole) as server:
        with pytest.raises(DownloadError):
            fetch(server, path, attempts=1)
        assert not path.exists()
        with pytest.raises(DownloadError):
            fetch(server, path, attempts=1)
        fetch(server, path)
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]
    assert_whole(path)


@pytest.mark.injects("kill -9 of a download")
def test_killed_and_run_again(path):
    program = (
        "import sys; from kafnets.data.download import download; "
        f"download(*sys.argv[1:3], {len(CONTENT)}, {CHECKSUMS}, origins=sys.argv[3:])"
    )
    scripts = str(Path(download_cifar10.__file__).parent)
    part = path.with_name(f"{NAME}.part")
    with serving(stall_after(150_000), whole) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, server.url, path, server.origin],
            env={**os.environ, "PYTHONPATH": scripts},
        )
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        received = part.stat().st_size
        assert 0 < received <= 150_000
        assert not path.exists()
        fetch(server, path)
    assert server.ranges == [None, f"bytes={received}-"]
    assert_whole(path)


@pytest.mark.parametrize("left", [WRONG[:1000], WRONG, WRONG + b"more", CONTENT])
@pytest.mark.injects("downloads onto damaged files")
def test_what_an_earlier_run_left_is_not_trusted(path, left):
    path.parent.mkdir()
    path.with_name(f"{NAME}.part").write_bytes(left)
    with serving(whole) as server:
        fetch(server, path)
    assert_whole(path)
    assert bool(server.ranges) == (left != CONTENT)


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_a_range_that_cannot_be_had(path):
    with serving(drop_after(1000), status(416), whole) as server:
        fetch(server, path)
    assert server.ranges == [None, "bytes=1000-", None]
    assert_whole(path)


@pytest.mark.injects("downloads onto damaged files")
def test_a_damaged_file_in_the_place_is_replaced(path):
    path.parent.mkdir()
    path.write_bytes(WRONG)
    with serving(whole) as server:
        fetch(server, path)
    assert_whole(path)


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_no_server(path, capsys):
    """Known at once: nothing is tried again."""
    with serving(whole) as server:
        pass
    with pytest.raises(DownloadError, match=r"the connection failed: .*is there no internet here"):
        fetch(server, path)
    assert "trying again" not in capsys.readouterr().err
    assert list(path.parent.iterdir()) == []


def test_two_downloads_of_one_file(path):
    path.parent.mkdir()
    with open(path.with_name(f"{NAME}.part"), "wb") as part, serving(whole) as server:
        fcntl.flock(part, fcntl.LOCK_EX)
        part.write(b"theirs")
        part.flush()
        with pytest.raises(UserError, match="another download"):
            fetch(server, path)
        assert server.ranges == []
        assert Path(part.name).read_bytes() == b"theirs"


@pytest.mark.injects("full disk or read-only file system")
def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with serving(whole) as server, pytest.raises(UserError, match="cannot write"):
        fetch(server, tmp_path / "file" / NAME)


@pytest.mark.injects("full disk or read-only file system")
def test_a_full_disk(path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with serving(whole) as server, pytest.raises(UserError, match=r"cannot write .*File too large"):
            fetch(server, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(server.ranges) == 1
    assert not path.exists()


@pytest.mark.injects("downloads from a server that stalls, drops, lies or is absent")
def test_without_length_or_ranges(path):
    with serving(without_length) as server:
        fetch(server, path)
    assert_whole(path)


def on_a_terminal(action):
    """What `action` writes to standard error when that is a terminal."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stderr(terminal):
        action()
    written = os.read(master, 100_000).decode()
    os.close(master)
    return written


def test_the_bar_is_for_terminals(capsys):
    def progress():
        shown = _Progress("archive", 0, 2_000_000)
        shown.began -= 1
        shown.end(1_000_000)

    written = on_a_terminal(progress)
    assert written.startswith("\rarchive: 1.0 of 2.0 MB, 50%, 0:01 min left [####")
    bar = written[written.index("[") + 1 : written.index("]")]
    assert 0 <= bar.count(".") - bar.count("#") <= 1
    progress()
    assert capsys.readouterr().err == "archive: 1.0 of 2.0 MB, 50%, 0:01 min left\n"


def test_the_command_line(path, capsys):
    with serving(whole) as server:
        official = {"url": server.url, "size": len(CONTENT), "checksums": CHECKSUMS}
        download_cifar10.main(["--output", str(path)], **official, **QUICK, origins=(server.origin,))
    assert_whole(path)


def test_the_command_line_ends_with_one_line_and_exit_code_2(path, capsys):
    with serving(HTML) as server:
        settings = {"url": server.url, "origins": (server.origin,), "attempts": 1, **QUICK}
        with pytest.raises(SystemExit) as ended:
            cli.run(functools.partial(download_cifar10.main, ["--output", str(path)], **settings))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {server.url}: could not be downloaded")
    assert message.count("\n") == 1
    assert "data.cifar10.source" in message
    assert list(path.parent.iterdir()) == []


# where from


ELSEWHERE = [
    "http://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "http://raw.githubusercontent.com/x/y/z.zip",
    "https://example.org/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu.example.org/x",
    "https://www.cs.toronto.edu@example.org/x",
    "https://user:word@www.cs.toronto.edu/x",
    "https://www.cs.toronto.edu:8443/x",
    "https://cs.toronto.edu/x",
    "//www.cs.toronto.edu/x",
    "ftp://www.cs.toronto.edu/x",
    "file:///etc/passwd",
    "data:,x",
    "/etc/passwd",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
@pytest.mark.injects("downloads from elsewhere than the documented hosts")
def test_nothing_is_downloaded_from_elsewhere(path, url):
    with pytest.raises(DownloadError, match="nothing is downloaded from elsewhere"):
        download(url, path, len(CONTENT), CHECKSUMS)
    assert not path.parent.exists()


@pytest.mark.injects("downloads from elsewhere than the documented hosts")
def test_a_server_that_is_not_documented_is_not_asked(path):
    with serving(whole) as server:
        with pytest.raises(DownloadError, match="nothing is downloaded from elsewhere"):
            download(server.url, path, len(CONTENT), CHECKSUMS)
        assert server.ranges == []
    assert not path.parent.exists()


@pytest.mark.injects("downloads from elsewhere than the documented hosts")
def test_another_address_in_torchvision_is_refused(path, monkeypatch, capsys):
    with serving(whole) as server:
        monkeypatch.setattr(CIFAR10, "url", server.url)
        with pytest.raises(SystemExit) as ended:
            cli.run(functools.partial(download_cifar10.main, ["--output", str(path)]))
        assert server.ranges == []
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert server.url in line and "https://www.cs.toronto.edu" in line and "data.cifar10.source" in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.zip", "https://example.org/x.zip"])
@pytest.mark.injects("downloads from elsewhere than the documented hosts")
def test_the_authors_archives_come_from_their_host(path, url, monkeypatch, capsys):
    given = ["--url", url, "--bytes", "1", "--sha256", "0" * 64, "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["download_published.py", *given])
    with pytest.raises(SystemExit) as ended:
        cli.run(download_published.main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {url}: is not on https://www.cs.toronto.edu or https://raw.github")
    assert not path.parent.exists()


def test_what_the_configuration_downloads_is_on_a_documented_host():
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    assert {_origin(CIFAR10.url), _origin(config["data"]["published"]["url"])} == set(ORIGINS)
    assert all(origin.startswith("https://") for origin in ORIGINS)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("to", [*ELSEWHERE[:8], *ELSEWHERE[9:11]])
@pytest.mark.injects("downloads from elsewhere than the documented hosts")
def test_a_redirect_to_elsewhere_is_not_followed(origin, to):
    request = urllib.request.Request(f"{origin}/x")
    with pytest.raises(_Failure, match="another host or scheme"):
        _SameHost().redirect_request(request, None, 302, "Found", {}, to)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed(path, code):
    with serving(status(code, Location="/elsewhere"), whole) as server:
        fetch(server, path)
    assert_whole(path)
