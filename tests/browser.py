"""A headless Chromium, told what to do over two pipes: it needs no port, no driver and no other package."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60  # until it answers, on a machine that is busy
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
_CODES = {"Enter": 13, "Tab": 9, " ": 32}


def found():
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser():
    """A :class:`Browser` with an empty page; the test is skipped where there is none."""
    program = found()
    if program is None:
        pytest.skip("no Chromium here")
    to_read, to_write = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # it reads from file descriptor 3 and writes to 4
        redirected = f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
        command = ["bash", "-c", redirected, "bash", program, *QUIET, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command,
            pass_fds=(to_read[0], to_write[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        with open(to_read[1], "wb") as commands, open(to_write[0], "rb") as answers:
            try:
                yield Browser(commands, answers)
            finally:
                process.terminate()
                process.wait(SECONDS)


class Browser:
    """One page of it. `said`: what the console has said, errors that no one caught among it."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._count, self._session = commands, answers, 0, None
        self._events, self.said = [], []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address, width=1280, height=900, dark=False):
        """Shows a page in a window of this size, and waits until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self._call("Page.navigate", url=address)
        end = time.monotonic() + SECONDS
        while "Page.loadEventFired" not in self._events and time.monotonic() < end:
            self.ask("0")

    def ask(self, expression):
        """What an expression of JavaScript is, as JSON."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key):
        """A key, as a user presses it."""
        given = {"key": key, "windowsVirtualKeyCode": _CODES[key]}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else None)
        self._call("Input.dispatchKeyEvent", type="keyDown", **given, **({"text": text} if text else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **given)

    def picture(self, path, whole=False):
        """Saves what is to be seen, or the whole page, as PNG."""
        taken = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _call(self, method, **parameters):
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": parameters, **session}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        method, given = event.get("method"), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.said.append(given["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(given["args"])
        elif method == "Log.entryAdded":
            self.said.append(given["entry"])

    def _read(self):
        found = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            found += byte
        return bytes(found)
