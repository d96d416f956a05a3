"""Variables that TensorFlow saved, read without it: a table of names (LevelDB's format), and their bytes.

Source: TensorFlow's tensor_bundle.proto and table format, and LevelDB's doc/table_format.md.
"""

import struct

import numpy

from .errors import UserError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
# of tensor_bundle.proto's types those that weights have
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE = 1, 2, 3, 4, 5  # fields of a BundleEntryProto


def read_variables(index, data):
    """The variables of a checkpoint in one shard: name to NumPy array, but for those of other types.

    Args:
        index, data (Path): the files "variables.index" and "variables.data-00000-of-00001".

    Raises:
        UserError: when the files are absent, or not such a checkpoint.
    """
    try:
        table, content = index.read_bytes(), data.read_bytes()
        return dict(_variables(table, content))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{index}: not a table of saved variables, or damaged ({error})") from None


def _variables(table, content):
    footer = table[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("its end is another")
    *_, offset, size = _numbers(footer, 4)
    for _, handle in _block(table, offset, size):
        for name, entry in _block(table, *_numbers(handle, 2)):
            facts = _fields(entry)
            kind = _TYPES.get(facts.get(_DTYPE))
            if not name or kind is None or facts.get(_SHARD, 0):
                continue
            shape = [_fields(dimension).get(1, 0) for dimension in _repeated(facts.get(_SHAPE, b""), 2)]
            start, length = facts.get(_OFFSET, 0), facts.get(_SIZE, 0)
            yield name.decode(), numpy.frombuffer(content[start : start + length], kind).reshape(shape)


def _block(table, offset, size):
    """The keys and values of one block; each key is told by what it does not share with the one before."""
    block = table[offset : offset + size]
    if len(block) < size or table[offset + size]:
        raise ValueError("a block of it is cut short or compressed")
    restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = len(block) - 4 * (restarts + 1), 0, b""
    while at < end:
        shared, at = _number(block, at)
        own, at = _number(block, at)
        length, at = _number(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _number(content, at):
    """A number of a varying count of bytes, seven bits each, and where the next begins."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _numbers(content, count):
    at, found = 0, []
    for _ in range(count):
        value, at = _number(content, at)
        found.append(value)
    return found


def _fields(message):
    """The last value of each field of a protocol buffer, by its number."""
    return dict(_pairs(message))


def _repeated(message, number):
    return [value for field, value in _pairs(message) if field == number]


def _pairs(message):
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _number(message, at)
        elif kind == 2:
            length, at = _number(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = message[at : at + width], at + width
        else:
            raise ValueError("a field of it is of an unknown kind")
        yield tag >> 3, value
