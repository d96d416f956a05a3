"""Records as a command line names them."""

import json

from ..runtime.errors import UserError
from ..runtime.files import read_json

MADE_BY = (
    "`kafnets evaluate` and `kafnets certify` write records, a pipeline has them in results/evaluations/"
)


def record_of(path):
    """The record in a file.

    Raises:
        UserError: when it is absent or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such record; {MADE_BY}")
    return read_json(path)


def kind_of(path):
    """What a file says that it is the record of; None where it is no record. Nothing is verified."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    return content.get("kind") if isinstance(content, dict) else None
