"""Joins RTP payloads into frames, without waiting for the next frame to see where one ends.

libavformat's parser outputs a frame when the next one begins, a frame interval late. Without the parser, FFmpeg outputs each RTP
payload (RFC 6184 for H.264, RFC 7798 for H.265) as it arrives, but does not pass on the marker bit that flags a frame's last
payload. So the end is inferred: most cameras encode each frame with the same number of slices, and only the last payload of a
slice is shorter than the longest one. A frame is complete when it has all its slices and the last one has ended. If this turns
out wrong once, a frame was output incomplete; from then on, each frame waits for the next one, as with the parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEARN_FRAMES = 20
"""The number of consecutive frames that must have the same number of slices."""
_START = b"\0\0\0\1"
_UNITS = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
_H264_SLICES, _H264_KEY = frozenset({1, 2, 5}), frozenset({5})
_HEVC_SLICES, _HEVC_KEY = frozenset(range(32)), frozenset(range(16, 24))


@dataclass(frozen=True, slots=True)
class Payload:
    """An RTP payload as it was read."""

    data: bytes
    """Bytes that begin with a start code, or that continue the previous NAL unit."""
    pts: int
    """The presentation time of its frame, in units of the stream's time base."""
    read_ns: int
    waited_ns: int
    """The time that the read took, nanoseconds."""
    corrupt: bool = False
    camera_ns: int | None = None
    """The time of the camera's clock, as in :class:`~vision_infer.stream.live.capture_clock.PacketTimes`."""


@dataclass(frozen=True, slots=True)
class AssembledFrame:
    """The payloads of a frame, joined."""

    data: bytes
    first: Payload
    """The first payload, which gives the time of arrival."""
    key: bool
    corrupt: bool


class Assembler:
    """Joins the payloads of one connection.

    Args:
        codec: ``h264`` or ``hevc``.
    """

    def __init__(self, codec: str) -> None:
        self.early = False
        """Whether frames are output as soon as they are complete."""
        self.incomplete = 0
        """The number of frames that were output too early. After the first, frames are no longer output early."""
        self._hevc = codec == "hevc"
        self._payloads: list[Payload] = []
        self._output_pts: int | None = None
        """The PTS of the last frame that was output early."""
        self._slices = 0
        self._key = False
        self._expected_slices = 0
        self._same_count = 0
        self._longest_start = 0
        self._longest_rest = 0

    def push(self, payload: Payload) -> list[AssembledFrame]:
        """Add a payload. Returns the frames that are now complete: the previous one, its own, or both."""
        out: list[AssembledFrame] = []
        # A new PTS: the previous frame has certainly ended.
        if self._payloads and payload.pts != self._payloads[0].pts:
            self._learn()
            out.append(self._join())
        slices, key = self._count_slices(payload.data)
        # More of a frame that was output early. Slice data means that it was incomplete; filler after the last slice does not.
        if payload.pts == self._output_pts:
            if slices or not payload.data.startswith(_START):
                self.incomplete += 1
                self.early = False
            return out
        self._payloads.append(payload)
        self._slices += slices
        self._key = self._key or key
        ends = self._is_end(payload.data)
        if self.early and self._slices == self._expected_slices and ends:
            self._output_pts = payload.pts
            out.append(self._join())
        return out

    def flush(self) -> list[AssembledFrame]:
        """Return the incomplete frame at the end of the stream."""
        return [self._join()] if self._payloads else []

    def _is_end(self, data: bytes) -> bool:
        """Return whether a NAL unit ends with this payload: it is shorter than the longest of its kind."""
        if data.startswith(_START):
            ends = len(data) < self._longest_start
            self._longest_start = max(self._longest_start, len(data))
        else:
            ends = len(data) < self._longest_rest
            self._longest_rest = max(self._longest_rest, len(data))
        return ends

    def _learn(self) -> None:
        same = self._slices == self._expected_slices and self._slices > 0
        self._same_count = self._same_count + 1 if same else 0
        self._expected_slices = self._slices
        self.early = not self.incomplete and self._same_count >= _LEARN_FRAMES

    def _count_slices(self, data: bytes) -> tuple[int, bool]:
        """Return the number of slices that begin in a payload, and whether one of them belongs to a key frame."""
        if not data.startswith(_START):
            return 0, False
        kinds = [match[1][0] >> 1 & 63 if self._hevc else match[1][0] & 31 for match in _UNITS.finditer(data)]
        wanted, keys = (_HEVC_SLICES, _HEVC_KEY) if self._hevc else (_H264_SLICES, _H264_KEY)
        return sum(kind in wanted for kind in kinds), any(kind in keys for kind in kinds)

    def _join(self) -> AssembledFrame:
        payloads, self._payloads = self._payloads, []
        key, self._key, self._slices = self._key, False, 0
        data, corrupt = b"".join(payload.data for payload in payloads), any(payload.corrupt for payload in payloads)
        return AssembledFrame(data, payloads[0], key, corrupt)
