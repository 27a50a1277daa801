"""Joins the pieces of NAL units into pictures, and gives each picture out with its last packet.

The marker bit of RTP is set on the last packet of a picture (RFC 6184, section 5.1; RFC 7798, section 4.1). Cameras deviate:

- The marker is also set on parameter sets and SEI, or these have the timestamp of the previous picture
  (https://github.com/AlexxIT/go2rtc/issues/244, https://github.com/scottlamb/retina/issues/13). So only a packet with a slice
  ends a picture, and what precedes a slice belongs to its picture, whatever its timestamp.
- The marker is never set. A picture then ends where the timestamp changes, and after three such pictures also where the next
  picture begins (its first slice, or a unit that precedes it).
- The marker is set on each NAL unit (https://github.com/iamscottxu/obs-rtspserver/pull/199). When a picture continues after its
  marker, markers are ignored from then on.

A picture with a missing packet is given out as damaged. One that no marker and no other picture has ended is not given out: at
the end of a connection, a part of it may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.stream.rtp_counts import PictureCounts
from vision_infer.stream.rtsp.nal_pieces import CONTINUES, DAMAGED, FIRST, HEAD, KEY, SLICE, Depacketizer
from vision_infer.stream.rtsp.rtp import RtpPacket

MAX_PICTURE = 16_000_000
"""The maximum size of a picture, bytes. A key frame of an 8K camera has a few megabytes."""
_MAX_PIECES = 32_768
_UNMARKED = 3
"""The number of consecutive pictures without a marker after which none is expected."""


@dataclass(slots=True)
class Picture:
    """A picture (access unit) with start codes."""

    data: bytes
    timestamp: int
    """The RTP timestamp, 32 bits."""
    key: bool
    """Whether a decoder can start with it."""
    damaged: bool
    """Whether a part of it is missing."""
    lost: int
    """The number of packets that are missing in it or before it, since the previous picture."""
    arrived_ns: int
    """When its first packet arrived, monotonic nanoseconds."""
    payloads: tuple[bytes, ...] = ()
    """The payloads of its packets; empty if it is damaged, or if a payload also has a part of another picture."""


class PictureAssembler:
    """Joins the packets of one stream.

    Args:
        depacketizer: The depacketizer of the codec.
    """

    def __init__(self, depacketizer: Depacketizer) -> None:
        self.counts = PictureCounts()
        self.marked = True
        """Whether the marker ends a picture. If not, a picture is given out when the next one begins."""
        self._depacketizer = depacketizer
        self._unmarked = 0
        self._ended: int | None = None
        """The timestamp of the previous picture if its marker ended it."""
        self._pieces: list[bytes] = []
        self._slice_end = 0
        """The number of pieces up to the end of the last slice; what follows belongs to the next picture."""
        self._size = 0
        self._payloads: list[bytes] | None = None
        """The payloads of the present picture; None if its beginning arrived with the previous picture."""
        self._open = self._has_slice = self._in_slice = False
        self._key = self._next_key = self._damaged = False
        self._timestamp = self._arrived_ns = self._lost = 0

    def push(self, packet: RtpPacket, lost: int, now_ns: int) -> list[Picture]:
        """Add a packet.

        Args:
            packet: The next packet in order.
            lost: The number of packets that are missing before it.
            now_ns: The time of its arrival, monotonic nanoseconds.

        Returns:
            The pictures that are now complete.
        """
        out: list[Picture] = []
        pieces = self._depacketizer.push(packet, lost)
        timestamp = packet.timestamp
        if lost:
            self._lost += lost
            self._damaged = self._damaged or self._open or bool(self._pieces)
        # 1. Another timestamp: the previous picture has ended, with or without a marker.
        if self._open and timestamp != self._timestamp:
            if self.marked and not self._lost:
                self._unmarked += 1
                self.marked = self._unmarked < _UNMARKED
            self._close(out)
        if lost and pieces and not pieces[0][0] & (FIRST | HEAD):
            self._damaged = True
        # 2. Add the pieces. Without markers, a unit may begin the next picture.
        if not self._pieces:
            self._payloads = []
        if not self._open and timestamp != self._timestamp:
            self._timestamp, self._arrived_ns = timestamp, now_ns
        elif not self._pieces:
            self._arrived_ns = now_ns
        for flags, piece in pieces:
            self._add(flags, piece, out)
        if self._payloads is not None and pieces:
            self._payloads.append(packet.data[packet.begin : packet.end])
        if self._size > MAX_PICTURE or len(self._pieces) > _MAX_PIECES:
            self._drop()
        # 3. The marker ends a picture that has begun.
        if packet.marker and self._open and self.marked:
            self._unmarked = 0
            self._ended = timestamp
            self._close(out)
        return out

    def _add(self, flags: int, piece: bytes, out: list[Picture]) -> None:
        if flags == CONTINUES:
            if not self._pieces:  # the picture that it belongs to was given out already
                self._orphan()
                return
            if self._in_slice:
                self._slice_end = len(self._pieces) + 1
        elif flags & DAMAGED:
            self._damaged = self._open = True
            return
        else:
            if self._has_slice and not self.marked and flags & (FIRST | HEAD):
                arrived_ns = self._arrived_ns
                self._close(out)
                self._arrived_ns = arrived_ns
            self._unit(flags)
        self._pieces.append(piece)
        self._size += len(piece)

    def _unit(self, flags: int) -> None:
        """Note a unit that begins."""
        if flags & SLICE:
            if not self._has_slice and not flags & FIRST:
                self._orphan()
            self._open = self._has_slice = True
            self._key = self._key or bool(flags & KEY)
        elif flags & KEY:
            if self._has_slice:
                self._next_key = True
            else:
                self._key = True
        self._in_slice = not flags & HEAD or bool(flags & SLICE)
        if self._in_slice and self._has_slice:
            self._slice_end = len(self._pieces) + 1

    def _orphan(self) -> None:
        """Note a part of a picture whose beginning is missing. If its marker came too early, the next ones will as well."""
        if self._ended == self._timestamp and self.marked and not self._lost:
            self.marked = False
            self.counts.cut += 1
        self._damaged = self._open = True

    def _close(self, out: list[Picture]) -> None:
        """Give out the present picture, and keep what belongs to the next one."""
        if self._has_slice:
            data = b"".join(self._pieces[: self._slice_end])
            whole = self.marked and not self._damaged and self._slice_end == len(self._pieces)
            payloads = tuple(self._payloads or ()) if whole else ()
            out.append(Picture(data, self._timestamp, self._key, self._damaged, self._lost, self._arrived_ns, payloads))
            del self._pieces[: self._slice_end]
            self._size = sum(map(len, self._pieces))
            self._lost = 0
        if self._damaged:
            self.counts.damaged += 1
        else:
            self.counts.whole += 1
        self._key, self._next_key = self._next_key, False
        self._slice_end = 0
        self._payloads = None
        self._open = self._has_slice = self._in_slice = self._damaged = False

    def _drop(self) -> None:
        """Drop a picture that is too large. What still arrives of it is damaged."""
        self.counts.oversize += 1
        self._pieces.clear()
        self._size = self._slice_end = 0
        self._has_slice = self._in_slice = False
        self._open = self._damaged = True
