"""RTP packets for tests, written as RFC 3550, RFC 6184 and RFC 7798 describe them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

START = b"\0\0\0\1"
SSRC = 0x1234_5678


def rtp(payload: bytes, sequence: int, timestamp: int = 0, marker: bool = False, kind: int = 96, ssrc: int = SSRC) -> bytes:
    """Return a packet without padding and extensions."""
    return struct.pack("!BBHII", 0x80, marker << 7 | kind, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + payload


def slice264(kind: int = 1, size: int = 40, first: bool = True, fill: int = 0x55) -> bytes:
    """Return a unit of H.264 with a slice; only its header is valid."""
    return bytes((0x60 | kind, (0x80 if first else 0x40) | 8)) + bytes([fill]) * size


def slice265(kind: int = 1, size: int = 40, first: bool = True, fill: int = 0x55) -> bytes:
    """Return a unit of H.265 with a slice; only its header is valid."""
    return bytes((kind << 1, 1, (0x80 if first else 0) | 0x20)) + bytes([fill]) * size


def fragments264(unit: bytes, size: int, end: bool = True) -> list[bytes]:
    """Return a unit as fragments (FU-A), with or without the end bit."""
    parts = [unit[at : at + size] for at in range(1, len(unit), size)]
    last = len(parts) - 1
    headers = [(not place) << 7 | (end and place == last) << 6 | unit[0] & 31 for place in range(len(parts))]
    return [bytes((unit[0] & 0xE0 | 28, header)) + part for header, part in zip(headers, parts, strict=True)]


def fragments265(unit: bytes, size: int, end: bool = True) -> list[bytes]:
    """Return a unit as fragments (FU), with or without the end bit."""
    parts = [unit[at : at + size] for at in range(2, len(unit), size)]
    last = len(parts) - 1
    headers = [(not place) << 7 | (end and place == last) << 6 | unit[0] >> 1 & 63 for place in range(len(parts))]
    first = bytes((unit[0] & 0x81 | 49 << 1, unit[1]))
    return [first + bytes((header,)) + part for header, part in zip(headers, parts, strict=True)]


def aggregate(header: bytes, units: Sequence[bytes]) -> bytes:
    """Return several units in one payload: STAP-A of H.264 (``b"\\x78"``) or AP of H.265 (``b"\\x60\\x01"``)."""
    return header + b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)


def annex_b(*units: bytes) -> bytes:
    """Return units with start codes."""
    return b"".join(START + unit for unit in units)


def payloads(units: Sequence[bytes], hevc: bool, mtu: int = 1400) -> Iterator[tuple[bytes, bool]]:
    """Yield the payloads of a picture, and whether each is the last one."""
    fragment, header = (fragments265, 2) if hevc else (fragments264, 1)
    parts = [part for unit in units for part in ([unit] if len(unit) <= mtu else fragment(unit, mtu - header - 1))]
    for place, part in enumerate(parts):
        yield part, place == len(parts) - 1
