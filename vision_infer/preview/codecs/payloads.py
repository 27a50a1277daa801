"""The interface of the codecs: from the packets of a stream to RTP payloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from vision_infer.core.packet import EncodedPacket
from vision_infer.stream.browser import VideoFacts

MAX_PAYLOAD = 1300
"""The maximum size of a payload in bytes. With the headers of RTP, SRTP, UDP and IPv6 it fits a packet of 1,500 bytes."""


class Packets(Protocol):
    """Converts the packets of one connection, in their order. No content of a packet raises an error."""

    facts: VideoFacts | None
    """The facts of the newest key frame or parameter sets; None if there are none yet, or if they are damaged."""

    def payloads(self, packet: EncodedPacket) -> tuple[bytes, ...]:
        """Return the RTP payloads of a packet; empty if it contains nothing to send."""
        ...

    def sprop(self) -> str:
        """Return the SDP parameters that describe the stream itself; empty if the codec needs none."""
        ...


def chunks(data: bytes, first: bytes, further: bytes) -> tuple[bytes, ...]:
    """Split a frame into payloads of one size, the last of which may be shorter, so that they can be sent in one call.

    Args:
        data: The frame; an empty one has no payloads.
        first: The descriptor before the first part.
        further: The descriptor before all other parts.
    """
    found: list[bytes] = []
    at, descriptor = 0, first
    while at < len(data):
        end = at + MAX_PAYLOAD - len(descriptor)
        found.append(descriptor + data[at:end])
        at, descriptor = end, further
    return tuple(found)


def aggregated(
    units: Iterable[bytes],
    header: Callable[[Sequence[bytes]], bytes],
    fragments: Callable[[bytes], Iterator[bytes]],
    header_size: int,
) -> tuple[bytes, ...]:
    """Return the payloads of NAL units: successive small ones share a payload, large ones are split.

    Args:
        units: The NAL units.
        header: Returns the header of a payload with several units.
        fragments: Splits a unit that is too large for a payload.
        header_size: The size of the header in bytes.
    """
    found: list[bytes] = []
    small: list[bytes] = []
    size = header_size

    def flush() -> None:
        if len(small) > 1:
            found.append(header(small) + b"".join(len(unit).to_bytes(2, "big") + unit for unit in small))
        else:
            found.extend(small)
        small.clear()

    for unit in units:
        if small and size + 2 + len(unit) > MAX_PAYLOAD:
            flush()
        if len(unit) > MAX_PAYLOAD:
            found.extend(fragments(unit))
            continue
        size = 2 + len(unit) + (size if small else header_size)
        small.append(unit)
    flush()
    return tuple(found)
