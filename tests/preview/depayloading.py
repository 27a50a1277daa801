"""From RTP payloads back to access units: with GStreamer, and for AV1 with a depayloader of these tests."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[1] / "support" / "gstreamer_depay.py"
LIMIT_S = 60.0


def through_gstreamer(element: str, encoding: str, frames: Iterable[Sequence[bytes]]) -> list[bytes]:
    """Return the access units that a depayloader of GStreamer makes of frames' payloads. Skip the test without GStreamer."""
    packets: list[bytes] = []
    for number, payloads in enumerate(frames):
        for at, payload in enumerate(payloads):
            marker = 0x80 if at == len(payloads) - 1 else 0
            packets.append(struct.pack("!BBHII", 0x80, 96 | marker, len(packets), 3600 * number, 1) + payload)
    caps = f"application/x-rtp,media=video,clock-rate=90000,payload=96,encoding-name={encoding}"
    stdin = b"".join(struct.pack(">I", len(packet)) + packet for packet in packets)
    command = ("/usr/bin/python3", str(_SCRIPT), element, caps)
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=LIMIT_S)
    if b"No module named" in done.stderr or b"no element" in done.stderr:
        pytest.skip("GStreamer is not here: make cameras")
    assert done.returncode == 0, done.stderr.decode()
    found: list[bytes] = []
    at = 0
    while at < len(done.stdout):
        (length,) = struct.unpack_from(">I", done.stdout, at)
        found.append(done.stdout[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def h265_units(payloads: Sequence[bytes]) -> list[bytes]:
    """Return the NAL units of an access unit's payloads (RFC 7798, section 4.4)."""
    found: list[bytes] = []
    for payload in payloads:
        kind = payload[0] >> 1 & 63
        if kind == 48:
            at, parts = 2, 0
            while at < len(payload):
                length = int.from_bytes(payload[at : at + 2], "big")
                found.append(payload[at + 2 : at + 2 + length])
                at, parts = at + 2 + length, parts + 1
            assert at == len(payload)
            assert parts > 1
        elif kind == 49:
            first, last, kind = payload[2] >> 7, payload[2] >> 6 & 1, payload[2] & 63
            assert not (first and last)
            if first:
                found.append(bytes([payload[0] & 0x81 | kind << 1, payload[1]]))
            found[-1] += payload[3:]
        else:
            found.append(payload)
    return found


def av1_obus(payloads: Sequence[bytes]) -> list[bytes]:
    """Return the OBUs of a temporal unit's payloads (RTP Payload Format For AV1, section 4)."""
    found: list[bytes] = []
    for payload in payloads:
        continues, continued, count = payload[0] >> 7, payload[0] >> 6 & 1, payload[0] >> 4 & 3
        assert count == 0, "each element has a length"
        elements: list[bytes] = []
        at = 1
        while at < len(payload):
            length = shift = 0
            while True:
                length |= (payload[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if not payload[at - 1] & 128:
                    break
            assert at + length <= len(payload)
            elements.append(payload[at : at + length])
            at += length
        if continues:
            found[-1] += elements.pop(0)
        found += elements
        assert continued in (0, 1)
    return found


def with_sizes(obus: Iterable[bytes]) -> bytes:
    """Return OBUs as a temporal unit of the low-overhead format, which decoders read."""
    unit = b""
    for obu in obus:
        header = obu[: 2 if obu[0] & 4 else 1]
        size, field = len(obu) - len(header), b""
        while size >= 128:
            field += bytes([size & 127 | 128])
            size >>= 7
        unit += bytes([header[0] | 2]) + header[1:] + field + bytes([size]) + obu[len(header) :]
    return unit
