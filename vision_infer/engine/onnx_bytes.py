"""Protobuf messages as they lie in a file: an ONNX file is looked into without a library, and past its weights."""

from __future__ import annotations

import mmap
from collections.abc import Iterator


def fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """The fields of a protobuf message: number, and the value of an integer or where the bytes of anything else begin and end.

    Raises:
        ValueError: it is cut, or none.
        IndexError: likewise, at the end of the file.
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
            raise ValueError("no such kind of field")
        if at + length > end:
            raise ValueError("the message is cut")
        yield tag >> 3, (at, at + length)
        at += length


def span(value: int | tuple[int, int]) -> tuple[int, int]:
    """Where a field's bytes begin and end; raises TypeError where it is a number."""
    if isinstance(value, int):
        raise TypeError("a number where a message is due")
    return value


def text_of(content: mmap.mmap, value: int | tuple[int, int]) -> str:
    """A field's text; raises TypeError or ValueError where it is none."""
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
