"""Downloads that end with the right file or none."""

import contextlib
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ..runtime import locks
from ..runtime.errors import UserError

# From nowhere else is anything downloaded: CIFAR-10, and the networks of the thesis's author.
ORIGINS = ("https://www.cs.toronto.edu", "https://raw.githubusercontent.com")
CHUNK = 1 << 16
SLOWEST = 1000  # bytes per second; less than this over the time-out counts as a stall


class DownloadError(UserError):
    """The server did not give the file."""


class _Failure(Exception):
    """One attempt failed; the message is the reason."""


class _Unreachable(_Failure):
    """There is no connection to the host: asking again at once will not make one."""


class _WrongBytes(_Failure):
    """As many bytes as expected arrived, but others."""


def download(url, path, size, checksums, *, attempts=5, timeout=30.0, backoff=2.0, origins=ORIGINS):
    """Downloads a file of known size and checksums.

    The bytes are gathered in `path` + ".part", which the next attempt, or the next call, continues where the
    server allows it. Only a file of the right size and checksums is moved to `path`.

    Args:
        url (str): where it is, on one of `origins`; a redirect to another host or scheme is not followed.
        path (str or Path): where it goes.
        size (int): its bytes.
        checksums (dict): algorithm, as hashlib names it, to hexadecimal digest.
        attempts (int): failures in a row, without progress between them, after which to give up; a host to
            which there is no connection is given up at once.
        timeout (float): seconds to wait for an answer, and for bytes to go on arriving.
        backoff (float): seconds to wait after the first failure, doubled after each further one.
        origins (tuple of str): scheme and host of what may be asked; others than `ORIGINS` for tests.

    Raises:
        DownloadError: when it is elsewhere, does not arrive, or is not the file it should be.
        UserError: when it cannot be written.
    """
    if _origin(url) not in origins:
        raise DownloadError(
            f"{url}: is not on {' or '.join(origins)}, and nothing is downloaded from elsewhere"
        )
    path = Path(path)
    if _is_whole(path, size, checksums):
        return
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            _attempt_repeatedly(url, file, size, checksums, attempts, timeout, backoff)
            os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            if part.stat().st_size == 0:
                part.unlink()


def _origin(url):
    """Scheme and host, with what may surround the host: a user's name, a port."""
    return "://".join(urlsplit(url)[:2])


def _is_whole(path, size, checksums):
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size == size and _has(file, checksums)
    except OSError:
        return False


def _has(file, checksums):
    for algorithm, expected in checksums.items():
        file.seek(0)
        digest = hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False))
        if digest.hexdigest() != expected:
            return False
    return True


@contextlib.contextmanager
def _locked(part):
    """The file `part`, open to append and to read, for this process alone."""
    with open(part, "a+b") as file:
        try:
            locks.take(file)
        except BlockingIOError:
            raise UserError(f"{part}: another download is writing it; wait for that one to end") from None
        except OSError:
            pass  # a file system without locks
        yield file


def _attempt_repeatedly(url, file, size, checksums, attempts, timeout, backoff):
    failures = wrong_files = 0
    furthest = _length(file)
    while True:
        try:
            _receive(url, file, size, timeout)
            if not _has(file, checksums):
                file.truncate(0)
                raise _WrongBytes("the file that the server sends has another checksum")
            return
        except _Unreachable as failure:
            raise DownloadError(f"{url}: could not be downloaded: {failure}") from None
        except _Failure as failure:
            reason = failure
        # What counts is whether the end comes nearer: a line that drops every few megabytes still gets there.
        if _length(file) - furthest > size / 100:
            failures = 0
        furthest = max(furthest, _length(file))
        failures += 1
        wrong_files += isinstance(reason, _WrongBytes)
        # A second whole file with a wrong checksum is not the fault of a resumed beginning.
        if failures >= attempts or wrong_files == 2:
            raise DownloadError(f"{url}: could not be downloaded: {reason} (the last of {failures} attempts)")
        wait = backoff * 2 ** (failures - 1)
        print(f"{reason}; trying again in {wait:g} s", file=sys.stderr, flush=True)
        time.sleep(wait)


def _length(file):
    return file.seek(0, os.SEEK_END)


def _receive(url, file, size, timeout):
    """Appends to `file` what it lacks of `size` bytes.

    Raises:
        _Failure: when the server does not give them; a beginning that can be continued stays.
    """
    done = _length(file)
    if done > size:
        file.truncate(0)
        done = 0
    if done == size:
        return
    with _answer(url, file, done, timeout) as response:
        done = _beginning(response, file, done, size)
        progress = _Progress(Path(file.name).stem, done, size)
        try:
            for chunk in _chunks(response, timeout):
                done += len(chunk)
                if done > size:
                    file.truncate(0)
                    raise _Failure(f"the server sends more than the {size} bytes of the file")
                file.write(chunk)
                progress.show(done)
        finally:
            progress.end(done)
    if done < size:
        raise _Failure(f"the connection ended after {_megabytes(done)} of {_megabytes(size)} MB")


class _SameHost(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, message, headers, address):
        if _origin(address) != _origin(request.full_url):
            raise _Failure(f"the server redirects to {address}, another host or scheme")
        return super().redirect_request(request, answer, code, message, headers, address)


def _answer(url, file, start, timeout):
    """The server's response to a request of the bytes from `start` on."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers={"User-Agent": "kafnets", **headers})
    try:
        with _network_errors(timeout):
            return urllib.request.build_opener(_SameHost).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            file.truncate(0)
        raise _Failure(f"the server answers {error.code} {error.reason}") from None


def _beginning(response, file, asked, size):
    """How much of the file precedes the response's first byte; empties `file` when it starts from 0."""
    if response.headers.get_content_type() == "text/html":
        raise _Failure("the server answers with a web page")
    start = asked
    if response.status == http.client.PARTIAL_CONTENT:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {asked}-"):
            raise _Failure("the server sends another part of the file than was asked for")
    else:
        file.truncate(0)
        start = 0
    length = response.headers.get("Content-Length")
    if length is not None and length != str(size - start):
        file.truncate(0)
        raise _Failure(f"the server offers {length} bytes where the file has {size - start}")
    return start


def _chunks(response, timeout):
    """The response's bytes as they arrive.

    Raises:
        _Failure: when they stop, or only trickle, for `timeout` seconds.
    """
    since, received = time.monotonic(), 0
    while True:
        with _network_errors(timeout):
            chunk = response.read1(CHUNK)
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        now = time.monotonic()
        if now - since > timeout:
            if received < SLOWEST * timeout:
                raise _Failure(f"the server sent only {received} bytes in {timeout:g} s")
            since, received = now, 0


@contextlib.contextmanager
def _network_errors(timeout):
    """Turns the network's errors into failures of the attempt; answers with an HTTP error pass."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        reason = (
            error.reason
        )  # of a connection that was not made; what happens to one that was is not wrapped
        words = f"the connection failed: {reason or type(reason).__name__}"
        if isinstance(reason, OSError) and not isinstance(reason, ConnectionResetError | BrokenPipeError):
            raise _Unreachable(f"{words}; is there no internet here?") from None
        raise _Failure(words) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError):
            raise _Failure(f"the server sent nothing for {timeout:g} s") from None
        raise _Failure(f"the connection failed: {error or type(error).__name__}") from None


class _Progress:
    """What has come so far: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, name, start, size):
        self.name, self.start, self.size = name, start, size
        self.began = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def show(self, done):
        if time.monotonic() - self.shown > (0.2 if self.terminal else 10):
            self._print(done, end="")

    def end(self, done):
        self._print(done, end="\n")

    def _print(self, done, end):
        self.shown = time.monotonic()
        line = f"{self.name}: {self._state(done)}"
        if self.terminal:
            width = max(10, min(40, shutil.get_terminal_size().columns - len(line) - 5))
            filled = width * done // self.size
            line = f"\r{line} [{'#' * filled}{'.' * (width - filled)}]\033[K"
        else:
            end = "\n"
        print(line, end=end, file=sys.stderr, flush=True)

    def _state(self, done):
        share = f"{_megabytes(done)} of {_megabytes(self.size)} MB, {done / self.size:.0%}"
        if done == self.start:
            return share
        left = (self.size - done) * (self.shown - self.began) / (done - self.start)
        minutes, seconds = divmod(round(left), 60)
        return f"{share}, {minutes}:{seconds:02} min left"


def _megabytes(count):
    return f"{count / 1e6:.1f}"
