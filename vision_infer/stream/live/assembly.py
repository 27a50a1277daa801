"""Pictures from the pieces in which RTSP delivers them, without waiting for the next picture to see where one ends.

libavformat's parser gives a picture out when the next one begins: a frame interval late. Without it, FFmpeg gives every RTP
payload as it comes. Nothing in there says which is a picture's last (the marker bit is not passed on), so it is learned: most
cameras make as many slices of each picture, and only the last payload of a slice is shorter than the longest. A picture that has
all its slices, the last of them with its end, is whole. Where that turns out wrong once, a picture was broken; from then on each
waits for the next, as with the parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEARN_PICTURES = 20
"""so many in a row have to have as many slices"""
_START = b"\0\0\0\1"
_UNITS = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
_H264_SLICES, _H264_KEY = frozenset({1, 2, 5}), frozenset({5})
_HEVC_SLICES, _HEVC_KEY = frozenset(range(32)), frozenset(range(16, 24))


@dataclass(frozen=True, slots=True)
class Piece:
    """A payload as it was read."""

    data: bytes
    """begins with a start code, or goes on with the unit before it"""
    pts: int
    """of its picture, in the stream's units"""
    read_ns: int
    waited_ns: int
    """how long the read took"""
    corrupt: bool = False
    camera_ns: int | None = None
    """the camera's clock, as :class:`~vision_infer.stream.live.capture_clock.PacketTimes` has it"""


@dataclass(frozen=True, slots=True)
class Whole:
    """A picture's pieces together."""

    data: bytes
    first: Piece
    """when it began to arrive"""
    key: bool
    corrupt: bool


class Assembler:
    """Puts the pieces of one connection together.

    Args:
        codec: ``h264`` or ``hevc``.
    """

    def __init__(self, codec: str) -> None:
        self.early = False
        """pictures are given out as soon as they are whole"""
        self.broken = 0
        """pictures that were given out too early: after the first, none is again"""
        self._hevc = codec == "hevc"
        self._pieces: list[Piece] = []
        self._given: int | None = None
        """PTS of a picture that was given out already"""
        self._slices = 0
        self._key = False
        self._wanted = 0
        self._alike = 0
        self._longest_start = 0
        self._longest_rest = 0

    def push(self, piece: Piece) -> list[Whole]:
        """Take a piece; gives what has become whole: the picture before it, or its own."""
        out: list[Whole] = []
        if self._pieces and piece.pts != self._pieces[0].pts:
            self._learn()
            out.append(self._whole())
        slices, key = self._look(piece.data)
        if piece.pts == self._given:
            if slices or not piece.data.startswith(_START):
                self.broken += 1
                self.early = False
            return out  # what follows the last slice (filler) is needed by nobody
        self._pieces.append(piece)
        self._slices += slices
        self._key = self._key or key
        ends = self._is_end(piece.data)
        if self.early and self._slices == self._wanted and ends:
            self._given = piece.pts
            out.append(self._whole())
        return out

    def flush(self) -> list[Whole]:
        """What is left where the stream ends."""
        return [self._whole()] if self._pieces else []

    def _is_end(self, data: bytes) -> bool:
        """Whether a unit ends with this payload: it is shorter than the longest of its kind."""
        if data.startswith(_START):
            ends = len(data) < self._longest_start
            self._longest_start = max(self._longest_start, len(data))
        else:
            ends = len(data) < self._longest_rest
            self._longest_rest = max(self._longest_rest, len(data))
        return ends

    def _learn(self) -> None:
        alike = self._slices == self._wanted and self._slices > 0
        self._alike = self._alike + 1 if alike else 0
        self._wanted = self._slices
        self.early = not self.broken and self._alike >= _LEARN_PICTURES

    def _look(self, data: bytes) -> tuple[int, bool]:
        """How many slices begin in a payload, and whether one is of a key frame."""
        if not data.startswith(_START):
            return 0, False
        kinds = [match[1][0] >> 1 & 63 if self._hevc else match[1][0] & 31 for match in _UNITS.finditer(data)]
        wanted, keys = (_HEVC_SLICES, _HEVC_KEY) if self._hevc else (_H264_SLICES, _H264_KEY)
        return sum(kind in wanted for kind in kinds), any(kind in keys for kind in kinds)

    def _whole(self) -> Whole:
        pieces, self._pieces = self._pieces, []
        key, self._key, self._slices = self._key, False, 0
        return Whole(b"".join(piece.data for piece in pieces), pieces[0], key, any(piece.corrupt for piece in pieces))
