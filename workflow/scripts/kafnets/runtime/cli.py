"""What the command lines of workflow/scripts share."""

import argparse
import io
import json
import os
import select
import signal
import sys
from pathlib import Path

from . import turns
from .errors import UserError, is_out_of_memory


def run(main):
    """Runs a script's `main` and ends the process: exit code 2 and one line on the user's own errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale's encoding lacks is shown as \u03b5
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()  # a log on a full disk: better an error than an output that nobody told of
        sys.exit(code)
    except UserError as error:
        _end(f"error: {error}", 2)
    except OSError as error:  # a disk that is full, or fails
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
            sys.exit(128 + signal.SIGPIPE)  # as `| head` ends any other program
        _end(f"error: {error}", 2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _end(f"error: out of memory: {error}", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)


def _is_unread(stream):
    """Whether a stream is a pipe that nobody reads; then Python's own end has nothing left to write."""
    if not hasattr(select, "poll"):  # Windows
        return False
    asked = select.poll()
    asked.register(stream, 0)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return True


def _end(message, code):
    try:
        print(" ".join(message.split()), file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:  # the log is on that disk: nothing can be said
        if turns.current() is None:
            os._exit(code)  # for Python's own end would fail too
    sys.exit(code)


def positive(text):
    """A whole number of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; write a whole number of at least 1")
    return value


def settings_argument(text):
    """The settings of one step: a JSON object, or the path of a JSON or YAML file that holds one.

    Raises:
        UserError: when it is neither.
    """
    if text.lstrip().startswith("{"):
        return _object(text, json.loads, "--settings")
    path = Path(text)
    if not path.is_file():
        raise UserError(f"--settings: no such file: {text} (give a JSON object or a JSON or YAML file)")
    if path.suffix in (".yaml", ".yml"):
        import yaml

        return _object(path.read_bytes(), yaml.safe_load, text)
    return _object(path.read_bytes(), json.loads, text)


def _object(text, parse, where):
    try:
        settings = parse(text)
    except Exception as error:
        raise UserError(f"{where}: not readable: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{where}: expected a mapping of settings, found {type(settings).__name__}")
    return settings
