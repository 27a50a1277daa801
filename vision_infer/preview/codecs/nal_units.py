"""What H.264 and H.265 have in common: NAL units, and parameter sets that have to precede each key frame."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview.codecs.payloads import MAX_PAYLOAD
from vision_infer.stream.browser import VideoFacts

_START = re.compile(rb"\x00\x00\x01")
_MAX_SET = 4096
"""The size of a parameter set in bytes up to which it is read; what follows is not needed."""


def units(data: bytes, length_size: int = 0) -> Iterator[bytes]:
    """Yield the NAL units of an access unit.

    Args:
        data: The access unit.
        length_size: The size of the length field before each unit in bytes (avcC, hvcC); 0 for start codes (Annex B).
    """
    return filter(None, _lengths(data, length_size) if length_size else _starts(data))


def _starts(data: bytes) -> Iterator[bytes]:
    begin: int | None = None
    for match in _START.finditer(data):
        if begin is not None:
            yield data[begin : match.start()].rstrip(b"\0")
        begin = match.end()
    if begin is not None:
        yield data[begin:].rstrip(b"\0")


def _lengths(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        yield data[at + size : at + size + length]
        at += size + length


class NalPackets(ABC):
    """Splits a stream's packets into NAL units, with the parameter sets that a key frame lacks before it."""

    sets: tuple[int, ...]
    """The types of parameter sets in the order in which they are sent. The last but one is the sequence parameter set."""
    dropped: frozenset[int]
    """The types of units without meaning for a player: delimiters and filler data."""
    single: range
    """The types of a payload that is one unit."""
    joined: int
    """The type of a payload with several units."""
    fragmented: int
    """The type of a payload with a part of a unit."""
    header_size: int
    """The size of a unit's header, bytes."""

    def __init__(self, video: VideoFormat) -> None:
        self.facts: VideoFacts | None = None
        self._sets: dict[int, list[bytes]] = {}
        self._length_size, found = self.parameter_sets(video.extradata)
        self._note(found)

    @staticmethod
    @abstractmethod
    def kind(unit: bytes) -> int:
        """Return the type of a unit."""

    @staticmethod
    @abstractmethod
    def parameter_sets(extradata: bytes) -> tuple[int, list[bytes]]:
        """Return the size of the length fields in packets (0 for start codes), and the parameter sets of the extradata."""

    @staticmethod
    @abstractmethod
    def sps_facts(unit: bytes) -> VideoFacts:
        """Parse a sequence parameter set.

        Raises:
            ValueError: The parameter set is damaged.
        """

    @staticmethod
    @abstractmethod
    def packed(units: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the RTP payloads of units."""

    def payloads(self, packet: EncodedPacket) -> tuple[bytes, ...]:
        """Return the RTP payloads of a packet; empty if it contains nothing to send.

        The payloads in which it arrived are not made again if players accept them.
        """
        own = tuple(payload for payload in packet.payloads if payload and self.kind(payload) not in self.dropped)
        kinds = self._kinds(own)
        if kinds and not packet.key and kinds.isdisjoint(self.sets):
            return own
        found = self.units(packet)
        if kinds.issuperset(self.sets):
            return own
        if kinds and kinds.isdisjoint(self.sets):
            return (*self.packed([unit for unit in found if self.kind(unit) in self.sets]), *own)
        return self.packed(found)

    def _kinds(self, payloads: Sequence[bytes]) -> set[int]:
        """Return the types of the units in payloads; empty if players may not accept a payload."""
        kinds: set[int] = set()
        size, part = self.header_size, -1  # the type of the unit that is not complete yet; -1 for none
        for payload in payloads:
            if not size + 1 < len(payload) <= MAX_PAYLOAD or _START.search(payload):
                return set()
            kind = self.kind(payload)
            if kind == self.fragmented:
                begins, ends, kind = payload[size] >> 7, payload[size] >> 6 & 1, payload[size] & 63
                if begins == (part >= 0) or begins & ends or part not in (-1, kind):
                    return set()
                part = -1 if ends else kind
            elif part >= 0:
                return set()
            kinds.update(self._joined_kinds(payload) if kind == self.joined else (kind,))
        return kinds if part < 0 and all(kind in self.single for kind in kinds) else set()

    def _joined_kinds(self, payload: bytes) -> Iterator[int]:
        """Yield the types of the units in a payload with several units; -1 if it is damaged."""
        at, end = self.header_size, len(payload)
        while at < end:
            length = int.from_bytes(payload[at : at + 2], "big")
            at += 2 + length
            yield self.kind(payload[at - length :]) if length > self.header_size and at <= end else -1

    def sprop(self) -> str:
        """Return the SDP parameters that describe the stream itself; empty if the codec needs none."""
        return ""

    def units(self, packet: EncodedPacket) -> list[bytes]:
        """Return the units of a packet that are sent."""
        found = [unit for unit in units(bytes(packet.data), self._length_size) if self.kind(unit) not in self.dropped]
        kinds = {self.kind(unit) for unit in found}
        if not kinds.isdisjoint(self.sets):
            self._note(found)
        if packet.key and not kinds.issuperset(self.sets):
            found = [unit for unit in found if self.kind(unit) not in self.sets]
            found[:0] = [unit for kind in self.sets for unit in self._sets.get(kind, ())]
        return found

    def _note(self, units: Sequence[bytes]) -> None:
        for kind in self.sets:
            found = [unit for unit in units if self.kind(unit) == kind]
            if found and found != self._sets.get(kind):
                self._sets[kind] = found
                if kind == self.sets[-2]:
                    try:
                        self.facts = self.sps_facts(found[0][:_MAX_SET])
                    except ValueError:
                        self.facts = None


def listed_sets(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Return ``count`` units from a position of avcC or hvcC data, each after its length in two bytes, and the next position."""
    found: list[bytes] = []
    for _ in range(count):
        length = int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : at + 2 + length])
        at += 2 + length
        if at >= len(data):
            break
    return [unit for unit in found if unit], at
