"""The orientation in which a frame is displayed, from the display matrix that phones write into their videos."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import atan2, degrees

import av
from av.sidedata.sidedata import Type

_FIXED_POINT = struct.Struct("=9i")
_NEAREST_DEGREES = 2


@dataclass(frozen=True, slots=True)
class Orientation:
    """The transformation of a coded frame: first mirrored, then rotated."""

    mirrored: bool = False
    """Whether left and right are exchanged."""
    turns: int = 0
    """The number of quarter turns counterclockwise, 0–3."""


UPRIGHT = Orientation()


class Orientations:
    """The orientation of each frame of a stream. The matrix is parsed again only if FFmpeg's angle changes, which is rare."""

    def __init__(self) -> None:
        self._angle: int | None = None
        self._orientation = UPRIGHT

    def of(self, frame: av.VideoFrame) -> Orientation:
        """Return how a frame is displayed."""
        angle = frame.rotation
        if angle != self._angle:
            self._angle = angle
            matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
            self._orientation = UPRIGHT if matrix is None else _orientation(bytes(matrix))
        return self._orientation


def _orientation(matrix: bytes) -> Orientation:
    """Return the nearest quarter turn; no rotation for any other angle, or an invalid matrix."""
    if len(matrix) != _FIXED_POINT.size:
        return UPRIGHT
    a, b, _, c, d, *_ = _FIXED_POINT.unpack(matrix)  # a point goes from (x, y) to (a·x + c·y, b·x + d·y), y downwards
    area = a * d - b * c
    if not area:
        return UPRIGHT
    mirrored = area < 0
    clockwise = degrees(atan2(-b, -a) if mirrored else atan2(b, a))
    turns = round(clockwise / 90)
    if abs(clockwise - 90 * turns) > _NEAREST_DEGREES:
        return UPRIGHT
    return Orientation(mirrored, -turns % 4)
