"""What the command lines of workflow/scripts share."""

import json
import sys
from pathlib import Path

from .errors import UserError, is_out_of_memory


def run(main):
    """Runs a script's `main` and ends the process: exit code 2 and one line on the user's own errors."""
    try:
        sys.exit(main())
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: out of memory: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


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

        return _object(path.read_text(), yaml.safe_load, text)
    return _object(path.read_text(), json.loads, text)


def _object(text, parse, where):
    try:
        settings = parse(text)
    except Exception as error:
        raise UserError(f"{where}: not readable: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{where}: expected a mapping of settings, found {type(settings).__name__}")
    return settings
