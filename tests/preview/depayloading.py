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
    if b"gi" in done.stderr and b"ModuleNotFoundError" in done.stderr:
        pytest.skip("GStreamer is not here: make cameras")
    assert done.returncode == 0, done.stderr.decode()
    found: list[bytes] = []
    at = 0
    while at < len(done.stdout):
        (length,) = struct.unpack_from(">I", done.stdout, at)
        found.append(done.stdout[at + 4 : at + 4 + length])
        at += 4 + length
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
