"""A table as a JSON file, for who sets it elsewhere: the results page, a notebook."""

from dataclasses import asdict

import numpy

from ..runtime.errors import UserError
from ..runtime.files import CHECKSUM, json_text, read_json
from .typesetting import Cell, Column, Table


def to_json(table):
    """All that a table says, as JSON, from which :func:`read` makes an equal one."""
    records = [{key: _plain(value) for key, value in record.items()} for record in table.records]
    return json_text({**asdict(table), "records": records})


def read(path):
    """The table in a file that :func:`to_json` filled.

    Raises:
        UserError: when the file is absent, damaged or holds no table.
    """
    found = read_json(path)
    del found[CHECKSUM]
    try:
        return Table(
            **{
                **found,
                "columns": tuple(Column(**column) for column in found["columns"]),
                "rows": tuple(tuple(Cell(**cell) for cell in row) for row in found["rows"]),
                "records": tuple(found["records"]),
            }
        )
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: not a table ({error}); delete it to have it made again") from None


def _plain(value):
    """A number of NumPy's as Python's."""
    return value.item() if isinstance(value, numpy.generic) else value
