"""The last seconds of a stream as encoded packets, from a key frame on, bounded by time and by bytes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vision_infer.core.packet import EncodedPacket, SoundPacket

_START = re.compile(rb"\x00\x00\x01")
_SETS = {"h264": ((31, 0), frozenset({7})), "hevc": ((63, 1), frozenset({32, 33}))}
"""The mask and shift for the type of a unit in its first byte, and the types that define the size and format of the frames."""


@dataclass(frozen=True, slots=True)
class TimedPacket:
    """A packet with its capture time."""

    at_ns: int
    """The monotonic capture time, nanoseconds; the arrival time of the packet if it is unknown."""
    packet: EncodedPacket | SoundPacket

    @property
    def key(self) -> bool:
        """Whether a decoder of the video can begin here."""
        return isinstance(self.packet, EncodedPacket) and self.packet.key


class PacketRing:
    """Keeps whole groups of pictures (GOPs). Not thread-safe.

    Args:
        keep_ns: The minimum time that is kept, as far as the bytes allow, nanoseconds.
        max_bytes: The maximum size: the oldest groups are dropped, and a larger single group is not kept.
    """

    def __init__(self, keep_ns: int, max_bytes: int) -> None:
        self.keep_ns = keep_ns
        self.max_bytes = max_bytes
        self.bytes = 0
        """The size of all packets, bytes."""
        self.too_large = 0
        """The number of groups that were larger than the maximum."""
        self._groups: deque[list[TimedPacket]] = deque()
        self._sizes: deque[int] = deque()

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups)

    def add(self, timed: TimedPacket) -> None:
        """Add a packet; packets before the first key frame are ignored."""
        if timed.key:
            self._groups.append([])
            self._sizes.append(0)
        elif not self._groups:
            return
        self._groups[-1].append(timed)
        size = timed.packet.data.nbytes
        self._sizes[-1] += size
        self.bytes += size
        # The times of sound may be wrong, so that only video shows what is old.
        old_ns = timed.at_ns - self.keep_ns if isinstance(timed.packet, EncodedPacket) else -1
        while len(self._groups) > 1 and (self._groups[1][0].at_ns <= old_ns or self.bytes > self.max_bytes):
            self._groups.popleft()
            self.bytes -= self._sizes.popleft()
        if self.bytes > self.max_bytes:
            self.too_large += 1
            self.clear()

    def since(self, at_ns: int) -> list[TimedPacket]:
        """Return all packets from the last key frame at or before this time, or from the oldest if all are newer."""
        groups = list(self._groups)
        first = 0
        for number, group in enumerate(groups):
            if group[0].at_ns <= at_ns:
                first = number
        return [timed for group in groups[first:] for timed in group]

    def clear(self) -> None:
        """Drop all packets; wait for the next key frame."""
        self._groups.clear()
        self._sizes.clear()
        self.bytes = 0


def parameter_sets(codec: str, data: bytes | memoryview, length_size: int) -> bytes:
    """Return the parameter sets in a key frame, for comparison; empty if there are none.

    Args:
        codec: The codec by FFmpeg's name.
        data: The packet.
        length_size: The size of the length before each unit, bytes; 0: start codes.
    """
    if codec not in _SETS:
        return b""
    (mask, shift), kinds = _SETS[codec]
    return b"".join(unit for unit in _units(bytes(data), length_size) if unit and unit[0] >> shift & mask in kinds)


def length_size(codec: str, extradata: bytes) -> int:
    """Return the size of the length before each unit, from extradata as in MP4; 0: units have start codes."""
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        return (extradata[21] & 3) + 1
    return 0


def with_start_codes(data: bytes | memoryview, size: int) -> bytes:
    """Return a packet in Annex B format, with the same units.

    Args:
        data: The packet.
        size: The size of the length before each unit, bytes; 0: it has start codes.
    """
    return b"".join(b"\0\0\0\1" + unit for unit in _units(bytes(data), size)) if size else bytes(data)


def outside_sets(codec: str, extradata: bytes) -> bytes:
    """Return the parameter sets of the extradata in Annex B format."""
    if not length_size(codec, extradata):
        return extradata
    found: list[bytes] = []
    if codec == "h264":
        at = 5
        for mask in (31, 255):  # the number of SPS, then that of PPS
            count, at = extradata[at] & mask if at < len(extradata) else 0, at + 1
            for _ in range(count):
                length = int.from_bytes(extradata[at : at + 2], "big")
                found.append(extradata[at + 2 : at + 2 + length])
                at += 2 + length
    else:
        at = 23
        for _ in range(extradata[22]):
            count, at = int.from_bytes(extradata[at + 1 : at + 3], "big"), at + 3
            for _ in range(count):
                length = int.from_bytes(extradata[at : at + 2], "big")
                found.append(extradata[at + 2 : at + 2 + length])
                at += 2 + length
    return b"".join(b"\0\0\0\1" + unit for unit in found)


def _units(data: bytes, size: int) -> Iterator[bytes]:
    if size:
        at = 0
        while at + size < len(data):
            length = int.from_bytes(data[at : at + size], "big")
            yield data[at + size : at + size + length]
            at += size + length
        return
    begins = [match.end() for match in _START.finditer(data)]
    for number, begin in enumerate(begins, 1):
        end = begins[number] - len(b"\0\0\1") if number < len(begins) else len(data)
        yield data[begin:end].rstrip(b"\0")
