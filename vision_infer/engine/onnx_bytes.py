"""Reads protobuf messages from the bytes of a file: an ONNX file is inspected without a library, and without its weights.

The encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator


def fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Yield the fields of a message: the number, and the value of an integer or the start and end of any other content.

    Raises:
        ValueError: The message is truncated, or the bytes are not a message.
        IndexError: Likewise, at the end of the file.
    """
    at = start
    while at < end:
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(content, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if at + length > end:
            raise ValueError("the message is truncated")
        yield tag >> 3, (at, at + length)
        at += length


def span(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return the start and end of a field's bytes; raise TypeError if it is a number."""
    if isinstance(value, int):
        raise TypeError("a number instead of a message")
    return value


def text_of(content: mmap.mmap, value: int | tuple[int, int]) -> str:
    """Return a field's text; raise TypeError or ValueError if it is not text."""
    start, end = span(value)
    return content[start:end].decode("utf-8")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("the number is too long")
