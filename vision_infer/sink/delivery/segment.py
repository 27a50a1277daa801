"""A file of a spool: records one after the other, each with its length and checksum, so that what is torn is known.

A record is a head of 24 bytes (little-endian: bytes of the body, CRC-32 of all that follows it, number, time), and a body: kind
and stream, each ended by a zero byte, then the text.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LARGEST_BODY = 64 * 1024 * 1024
_HEAD = struct.Struct("<II")
_REST = struct.Struct("<QQ")
HEAD_BYTES = _HEAD.size + _REST.size
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be sent, once."""

    number: int
    """from 1, in the order in which they are sent"""
    wall_ns: int
    """when it was put in, nanoseconds since 1970 (UTC)"""
    kind: str
    """``detections``, ``events``, ``states`` or ``engine``"""
    stream: str
    """empty where it is of none"""
    text: str
    """a JSON object"""

    def id_in(self, spool: str) -> str:
        """What tells it from all others, also from one that got its number after a power failure had taken this one.

        Args:
            spool: name of the spool.
        """
        return f"{spool}-{self.number}-{self.wall_ns // 1_000_000:x}"

    def packed(self) -> bytes:
        """As it stands in a file."""
        body = b"\0".join(
            (self.kind.encode(), self.stream.encode("utf-8", "replace"), self.text.encode("utf-8", "backslashreplace"))
        )
        rest = _REST.pack(self.number, self.wall_ns) + body
        return _HEAD.pack(len(body), zlib.crc32(rest)) + rest


def records_in(fd: int, offset: int) -> Iterator[tuple[Record, int]]:
    """The whole records of a file from an offset on, each with the offset behind it; ends before the first that is not whole.

    Raises:
        OSError: the file cannot be read.
    """
    block, at = b"", 0
    while True:
        if len(block) - at < HEAD_BYTES:
            block, at = block[at:] + os.pread(fd, _BLOCK, offset + len(block) - at), 0
            if len(block) < HEAD_BYTES:
                return
        size, checksum = _HEAD.unpack_from(block, at)
        if size > LARGEST_BODY:
            return
        whole = HEAD_BYTES + size
        if len(block) - at < whole:
            rest = block[at:]
            more = os.pread(fd, max(_BLOCK, whole - len(rest)), offset + len(rest))
            block, at = rest + more, 0
            if len(block) < whole:
                return
        record = memoryview(block)[at : at + whole]
        if zlib.crc32(record[_HEAD.size :]) != checksum:
            return
        number, wall_ns = _REST.unpack_from(record, _HEAD.size)
        kind, stream, text = bytes(record[HEAD_BYTES:]).split(b"\0", 2)
        at += whole
        offset += whole
        yield Record(number, wall_ns, kind.decode(), stream.decode(), text.decode()), offset


@dataclass(slots=True)
class Segment:
    """A file of a spool."""

    path: Path
    first: int
    """number of its first record"""
    last: int
    """of its last; before its first where there is none"""
    size: int
    """bytes of whole records"""
    wall_ns: int
    """time of its first record"""


def segment_path(folder: Path, first: int) -> Path:
    """The file whose first record has this number."""
    return folder / f"{first:020d}.spool"


def read_segments(folder: Path) -> list[Segment]:
    """The files of a folder, in order; what a killed process has left of a record at the end of one is cut off.

    Raises:
        OSError: they cannot be read.
    """
    segments: list[Segment] = []
    for path in sorted(folder.glob("*.spool")):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            first, last, end, wall_ns = 0, 0, 0, 0
            for record, behind in records_in(fd, 0):
                if record.number <= last or (segments and record.number <= segments[-1].last):
                    break  # what does not follow is no record of ours
                first, last, end, wall_ns = first or record.number, record.number, behind, wall_ns or record.wall_ns
            if end < os.fstat(fd).st_size:
                os.ftruncate(fd, end)
        finally:
            os.close(fd)
        if end:
            segments.append(Segment(path, first, last, end, wall_ns))
        else:
            with suppress(OSError):
                path.unlink()
    return segments
